-- ARGV: limit
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local due = redis.call('ZRANGEBYSCORE', KEYS[1] .. 'due', '-inf', now, 'LIMIT', 0, ARGV[1])
-- Records have an index of their own: replicas of earlier versions do not know it.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1] .. 'ends', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  due[#due + 1] = 'r:' .. member
end
return due
