-- ARGV: consumer, length in ms (0: it leaves), control. Answer: who is there.
local key, time = KEYS[1] .. 'consumers', redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] == '0' then
  redis.call('ZREM', key, ARGV[1])
else
  redis.call('ZADD', key, string.format('%.0f', now + ARGV[2]), ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
return redis.call('ZRANGE', key, 0, -1)
