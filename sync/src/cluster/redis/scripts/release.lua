-- ARGV: client, epoch, expiry interval ('': the session ends now), ms until the will is due ('': dropped), head, channel
local was = redis.call('HGET', base .. 'owners', ARGV[1])
if not was then return 1 end
local replica, epoch, sid = string.match(was, '^(%d+):(%d+):(%d+)')
if epoch ~= ARGV[2] then
  -- A will may have come back for a claim that was lost in a failover. See claim_again.lua.
  if redis.call('HEXISTS', base .. 'wills', ARGV[2]) == 1 then
    if ARGV[4] ~= '' then
      redis.call('ZADD', base .. 'due', now_ms() + ARGV[4], 'w:' .. ARGV[2])
    else
      redis.call('HDEL', base .. 'wills', ARGV[2])
      redis.call('ZREM', base .. 'due', 'w:' .. ARGV[2])
    end
  end
  return 0
end
if replica == '0' then return 1 end
let_go(ARGV[1], replica, epoch, sid, ARGV[3] ~= '' and ARGV[3] or nil, ARGV[4] ~= '' and ARGV[4] or nil, ARGV[6], ARGV[5])
return 1
