-- ARGV: client, replica, head, channel
local was = redis.call('HGET', base .. 'owners', ARGV[1])
local replica, epoch, sid
if was then replica, epoch, sid = string.match(was, '^(%d+):(%d+):(%d+)') end
if replica ~= ARGV[2] then
  redis.call('SREM', base .. 'owned:' .. ARGV[2], ARGV[1])
  return 1
end
local expiry = sid ~= '0' and redis.call('HGET', base .. 's:' .. sid, 'ex') or '0'
local will, will_in = redis.call('HGET', base .. 'wills', epoch), nil
if will then will_in = math.min(struct.unpack('<I4', will), tonumber(expiry)) * 1000 end
let_go(ARGV[1], replica, epoch, sid, expiry ~= '0' and expiry or nil, will_in, ARGV[4], ARGV[3])
return 1
