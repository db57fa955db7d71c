-- ARGV: session, epoch, record, head, channel
local epoch = redis.call('HGET', base .. 's:' .. ARGV[1], 'ep')
if not epoch or (epoch ~= ARGV[2] and mode ~= '2') then return -1 end
-- No topic begins with this byte.
if not may_replace('\0' .. ARGV[1]) then return 0 end
redis.call('HSET', base .. 'records', ARGV[1], ARGV[3])
return announce(ARGV[5], ARGV[4], '\3' .. number8(ARGV[1]) .. ARGV[3])
