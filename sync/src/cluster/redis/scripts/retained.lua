-- ARGV: topic, head, channel, or topic, body, head, channel.
local topic = ARGV[1]
-- Soon after a failover: what was acknowledged before is written again only if it was lost, and if nobody has
-- written the topic since.
if mode == '2' then
  look_at_server()
  local began = tonumber(string.sub(redis.call('GET', base .. 'gen'), 9))
  local since = redis.call('HGET', base .. 'replayed', topic)
  if tonumber(memo) <= began or since == 'w' or (since and tonumber(since) >= tonumber(memo)) then return 0 end
  redis.call('HSET', base .. 'replayed', topic, memo)
  redis.call('PEXPIRE', base .. 'replayed', 180000)
elseif mode == '1' then
  redis.call('HSET', base .. 'replayed', topic, 'w')
  redis.call('PEXPIRE', base .. 'replayed', 180000)
end
