if redis.call('HDEL', base .. 'retained', topic) == 0 then return tonumber(redis.call('GET', base .. 'version') or '0') end
return announce(ARGV[3], ARGV[2], '\2' .. topic)
