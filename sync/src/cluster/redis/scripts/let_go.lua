-- What Release and Orphan have in common. `expiry` nil: the session ends now. `will_in` nil: the will is dropped.
local function let_go(client, replica, epoch, sid, expiry, will_in, channel, head)
  local owners, due = base .. 'owners', base .. 'due'
  redis.call('SREM', base .. 'owned:' .. replica, client)
  if not will_in then
    redis.call('HDEL', base .. 'wills', epoch)
    redis.call('ZREM', due, 'w:' .. epoch)
  elseif redis.call('HEXISTS', base .. 'wills', epoch) == 1 then
    redis.call('ZADD', due, now_ms() + will_in, 'w:' .. epoch)
  end
  local there = sid ~= '0' and redis.call('EXISTS', base .. 's:' .. sid) == 1
  if there and expiry then
    redis.call('HSET', base .. 's:' .. sid, 'ow', 0, 'ex', expiry)
    -- Unless somebody has said how far it was sent: what comes from now on was not. Soon after a failover entries may
    -- come back beyond the end.
    local at = redis.call('HMGET', base .. 's:' .. sid, 'p', 'ep', 'm')
    if mode == '0' and at[2] ~= at[3] then
      redis.call('HSET', base .. 's:' .. sid, 'i0', string.sub(at[1], 1, 8), 'm', at[2])
    end
    if expiry ~= '4294967295' then redis.call('ZADD', due, now_ms() + expiry * 1000, 's:' .. sid) end
    redis.call('HSET', owners, client, '0:' .. epoch .. ':' .. sid)
    announce_owner(channel, head, sid, redis.call('HGET', base .. 'records', sid), 0)
  else
    redis.call('HDEL', owners, client)
    if there then end_session(channel, head, sid) end
  end
end
