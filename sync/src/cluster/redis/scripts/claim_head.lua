-- ARGV: client, replica, nonce, clean, expiry interval, number of a fresh session, its record, delay of the will,
-- the will ('': none), grace for an old will in ms, head, channel
local client, replica, nonce, clean, expiry, fresh = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5], ARGV[6]
local head, channel = ARGV[11], ARGV[12]
local owners, wills, due = base .. 'owners', base .. 'wills', base .. 'due'

local function answer(epoch, sid, present, old_replica, old_epoch, will_epoch)
  local fields, record, will = {}, '', ''
  if sid ~= '0' then
    fields = redis.call('HGETALL', base .. 's:' .. sid)
    if present == '1' then record = redis.call('HGET', base .. 'records', sid) or '' end
  end
  if will_epoch ~= '0' then
    will = redis.call('HGET', wills, will_epoch)
    if will then will = string.sub(will, 5) else will, will_epoch = '', '0' end
  end
  return {epoch, sid, present, old_replica, old_epoch, will_epoch, will, record, fields}
end

local old_replica, old_epoch, old_sid, was = '0', '0', '0', redis.call('HGET', owners, client)
if was then
  local rest
  old_replica, old_epoch, old_sid, rest = string.match(was, '^(%d+):(%d+):(%d+):?(.*)$')
  local its, present, r, e, w = string.match(rest, '^(%d+):(%d):(%d+):(%d+):(%d+)$')
  if its == nonce then return answer(old_epoch, old_sid, present, r, e, w) end
end
