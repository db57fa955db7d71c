-- ARGV: session, epoch ('': whoever has it), head, channel
local sid = ARGV[1]
local of = redis.call('HMGET', base .. 's:' .. sid, 'ep', 'cl')
if not of[1] then return 1 end
if ARGV[2] ~= '' and ARGV[2] ~= of[1] then return 0 end
end_session(ARGV[4], ARGV[3], sid)
local owner = redis.call('HGET', base .. 'owners', of[2])
if owner then
  local replica, epoch, its = string.match(owner, '^(%d+):(%d+):(%d+)')
  if its == sid then
    if replica == '0' then redis.call('HDEL', base .. 'owners', of[2])
    else redis.call('HSET', base .. 'owners', of[2], replica .. ':' .. epoch .. ':0') end
  end
end
return 1
