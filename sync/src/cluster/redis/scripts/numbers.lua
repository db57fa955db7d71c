-- ARGV: how many
return redis.call('INCRBY', KEYS[1] .. 'sessions', ARGV[1]) - ARGV[1] + 1
