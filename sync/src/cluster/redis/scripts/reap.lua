-- ARGV: replica, whether the lease is not looked at
if ARGV[2] ~= '1' and redis.call('HEXISTS', KEYS[1] .. 'register', ARGV[1]) == 1
  and redis.call('EXISTS', KEYS[1] .. 'lease:' .. ARGV[1]) == 1 then
  return 0
end
redis.call('HDEL', KEYS[1] .. 'register', ARGV[1])
redis.call('DEL', KEYS[1] .. 'lease:' .. ARGV[1])
redis.call('SET', KEYS[1] .. 'reaped:' .. ARGV[1], '1', 'PX', 3600000)
return 1
