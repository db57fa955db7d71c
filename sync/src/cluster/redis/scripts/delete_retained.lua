-- ARGV: topic, head, channel
if not may_replace(ARGV[1]) then return 0 end
if redis.call('HDEL', base .. 'retained', ARGV[1]) == 0 then return tonumber(redis.call('GET', base .. 'version') or '0') end
return announce(ARGV[3], ARGV[2], '\2' .. ARGV[1])
