-- ARGV: client, epoch, expiry interval ('': the session ends now), ms until the will is due ('': dropped), head, channel
local was = redis.call('HGET', base .. 'owners', ARGV[1])
if not was then return 1 end
local replica, epoch, sid = string.match(was, '^(%d+):(%d+):(%d+)')
if epoch ~= ARGV[2] then return 0 end
if replica == '0' then return 1 end
let_go(ARGV[1], replica, epoch, sid, ARGV[3] ~= '' and ARGV[3] or nil, ARGV[4] ~= '' and ARGV[4] or nil, ARGV[6], ARGV[5])
return 1
