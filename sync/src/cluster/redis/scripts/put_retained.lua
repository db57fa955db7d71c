-- ARGV: topic, body, head, channel
if not may_replace(ARGV[1]) then return 0 end
redis.call('HSET', base .. 'retained', ARGV[1], ARGV[2])
return announce(ARGV[4], ARGV[3], '\1' .. ARGV[2])
