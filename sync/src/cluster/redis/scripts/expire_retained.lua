-- ARGV: topic, head, channel. A message: version 1, flags (8: it has an end), two numbers of 8 bytes, then when it ends.
local body = redis.call('HGET', base .. 'retained', ARGV[1])
if not body or #body < 26 or string.byte(body, 1) ~= 1 then return 0 end
if math.floor(string.byte(body, 2) / 8) % 2 == 0 or struct.unpack('<I8', body, 19) > now_ms() then return 0 end
redis.call('HDEL', base .. 'retained', ARGV[1])
announce(ARGV[3], ARGV[2], '\2' .. ARGV[1])
return 1
