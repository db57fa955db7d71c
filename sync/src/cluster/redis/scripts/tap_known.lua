-- ARGV: replica, revision, control. Asked for only while somebody waits for it.
redis.call('HSET', KEYS[1] .. 'known', ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1] .. 'known', 3600000)
return 1
