-- ARGV: replica, lease in ms
local leader = redis.call('GET', KEYS[1] .. 'leader')
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1] .. 'leader', ARGV[1], 'PX', ARGV[2])
return 1
