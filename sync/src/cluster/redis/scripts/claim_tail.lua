local now = now_ms()
local old = old_sid ~= '0' and redis.call('EXISTS', base .. 's:' .. old_sid) == 1
local kept = old and not clean
if kept then
  local at = redis.call('ZSCORE', due, 's:' .. old_sid)
  kept = not at or tonumber(at) > now
end

-- The first claim since a failover, and the newest one that it has found.
if mode == '1' then
  local began = string.match(redis.call('GET', base .. 'gen'), ':(%d+)$', 9)
  if began and tonumber(old_epoch) <= tonumber(began) and tonumber(epoch) > tonumber(began) then
    redis.call('HSET', base .. 'firsts', client, old_epoch)
    redis.call('PEXPIRE', base .. 'firsts', 60000)
  end
end

local will_epoch = '0'
if was then
  local will = redis.call('HGET', wills, old_epoch)
  if will then
    local at = redis.call('ZSCORE', due, 'w:' .. old_epoch)
    local overdue = at and tonumber(at) <= now
    local at_once = struct.unpack('<I4', will) == 0
    if old_replica == '0' and at_once and at and not overdue then
      -- It is being published by whoever had the connection, or is due soon.
    elseif not kept or overdue or at_once then
      redis.call('ZADD', due, now + ARGV[10], 'w:' .. old_epoch)
      will_epoch = old_epoch
    else
      redis.call('HDEL', wills, old_epoch)
      redis.call('ZREM', due, 'w:' .. old_epoch)
    end
  end
end

if old and not kept then end_session(channel, head, old_sid) end
local sid = '0'
if kept then
  sid = old_sid
  -- Another server: what it lacks comes back below the tail that the claimer is told. See append.lua.
  local at = redis.call('HMGET', base .. 's:' .. sid, 'g', 'p', 'j', 'ep', 'm')
  if at[1] ~= server then
    local tail = struct.unpack('<I8', at[2])
    redis.call('HSET', base .. 's:' .. sid, 'g', server, 'p', struct.pack('<I8', tail + 65536) .. string.sub(at[2], 9),
      'j', (at[3] or '') .. string.format('%.0f:65536;', tail))
  end
  -- The newest claim that a failover has left. See settle_head.lua.
  local began = string.match(redis.call('GET', base .. 'gen'), ':(%d+)$', 9)
  if began and tonumber(at[4]) <= tonumber(began) then redis.call('HSET', base .. 's:' .. sid, 'b', at[4]) end
  -- How far an older connection than the last one has sent says nothing.
  if at[5] and at[5] ~= at[4] then redis.call('HDEL', base .. 's:' .. sid, 'i0', 'm') end
  redis.call('HSET', base .. 's:' .. sid, 'ex', expiry, 'ep', epoch, 'ow', replica)
  redis.call('ZREM', due, 's:' .. sid)
  -- Of the numbers of last appends only the newest replicas' matter.
  if redis.call('HLEN', base .. 's:' .. sid) > 1024 then
    local origins = {}
    for _, field in ipairs(redis.call('HKEYS', base .. 's:' .. sid)) do
      if string.match(field, '^o%d') then origins[#origins + 1] = tonumber(string.sub(field, 2)) end
    end
    table.sort(origins)
    for i = 1, #origins - 256 do redis.call('HDEL', base .. 's:' .. sid, 'o' .. string.format('%.0f', origins[i])) end
  end
elseif expiry ~= '0' then
  sid = again_sid or fresh
  make_queue(sid)
  redis.call('HSET', base .. 's:' .. sid, 'ow', replica, 'ex', expiry, 'ep', epoch, 'cl', client)
  redis.call('HSET', base .. 'records', sid, ARGV[7])
  announce(channel, head, '\3' .. number8(sid) .. ARGV[7])
end

if old_replica ~= replica then
  if old_replica ~= '0' then redis.call('SREM', base .. 'owned:' .. old_replica, client) end
  redis.call('SADD', base .. 'owned:' .. replica, client)
end
if ARGV[9] ~= '' then redis.call('HSET', wills, epoch, struct.pack('<I4', tonumber(ARGV[8])) .. ARGV[9]) end
local present = kept and '1' or '0'
local r, e = old_replica, old_epoch
if r == '0' then e = '0' end
redis.call('HSET', owners, client, table.concat({replica, epoch, sid, nonce, present, r, e, will_epoch}, ':'))
if sid ~= '0' then announce_owner(channel, head, sid, redis.call('HGET', base .. 'records', sid), replica) end
return answer(epoch, sid, present, r, e, will_epoch)
