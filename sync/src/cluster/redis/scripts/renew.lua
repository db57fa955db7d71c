-- ARGV: replica, lease in ms, info ('': as it is); control. Answer: 1 it is on the register, 0 it was taken off, -1 Redis has
-- lost the register.
local alive = redis.call('HEXISTS', KEYS[1] .. 'register', ARGV[1])
local time = redis.call('TIME')
if alive == 1 then
  redis.call('SET', KEYS[1] .. 'lease:' .. ARGV[1], '1', 'PX', ARGV[2])
  if ARGV[3] ~= '' then redis.call('HSET', KEYS[1] .. 'register', ARGV[1], ARGV[3]) end
elseif redis.call('EXISTS', KEYS[1] .. 'reaped:' .. ARGV[1]) == 0 then
  -- Nobody has taken it off. What it writes again has its number: that is cleared away after as usual.
  alive = -1
  redis.call('HSET', KEYS[1] .. 'register', ARGV[1], ARGV[3])
  if tonumber(redis.call('GET', KEYS[1] .. 'counter') or '0') < tonumber(ARGV[1]) then
    -- The numbers are lost, too: they go on above all that may have been drawn. See server.lua.
    local age = time[1] - 1700000000
    local sessions = tonumber(redis.call('GET', KEYS[1] .. 'sessions') or '0')
    redis.call('SET', KEYS[1] .. 'counter', math.max(tonumber(ARGV[1]), age) + 65536)
    redis.call('SET', KEYS[1] .. 'sessions', math.max(sessions, age * 1024) + 1048576)
    redis.call('SET', KEYS[1] .. 'gen', string.sub(ARGV[#ARGV], 1, 8))
  end
end
local ids, leases, live, lapsed = redis.call('HKEYS', KEYS[1] .. 'register'), {}, {}, {}
for i, id in ipairs(ids) do
  leases[i] = KEYS[1] .. 'lease:' .. id
end
if #ids > 0 then leases = redis.call('MGET', unpack(leases)) end
for i, id in ipairs(ids) do
  if leases[i] then live[#live + 1] = id else lapsed[#lapsed + 1] = id end
end
return {alive, time[1] * 1000 + math.floor(time[2] / 1000), live, lapsed, redis.call('EXISTS', KEYS[1] .. 'changed')}
