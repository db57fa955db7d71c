-- ARGV: limit
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1] .. 'due', '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
