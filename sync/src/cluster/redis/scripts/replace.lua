-- Soon after a failover: what was acknowledged before is written again only if it was lost, and if nobody has
-- replaced it since.
local function may_replace(what)
  if mode == '2' then
    look_at_server()
    local began = tonumber(string.match(redis.call('GET', base .. 'gen'), '^%d+', 9))
    local since = redis.call('HGET', base .. 'replayed', what)
    if tonumber(memo) <= began or since == 'w' or (since and tonumber(since) >= tonumber(memo)) then return false end
    redis.call('HSET', base .. 'replayed', what, memo)
    redis.call('PEXPIRE', base .. 'replayed', 180000)
  elseif mode == '1' then
    redis.call('HSET', base .. 'replayed', what, 'w')
    redis.call('PEXPIRE', base .. 'replayed', 180000)
  end
  return true
end
