-- ARGV: session, head, channel
local sid = ARGV[1]
local of = redis.call('HMGET', base .. 's:' .. sid, 'ow', 'cl')
if not of[1] then
  redis.call('ZREM', base .. 'due', 's:' .. sid)
  return 0
end
local at = redis.call('ZSCORE', base .. 'due', 's:' .. sid)
if of[1] ~= '0' or not at or tonumber(at) > now_ms() then return 0 end
end_session(ARGV[3], ARGV[2], sid)
local owner = redis.call('HGET', base .. 'owners', of[2])
if owner and string.match(owner, '^%d+:%d+:(%d+)') == sid then redis.call('HDEL', base .. 'owners', of[2]) end
return 1
