-- ARGV: replica, lease in ms, info ('': as it is)
local alive = redis.call('HEXISTS', KEYS[1] .. 'register', ARGV[1])
if alive == 1 then
  redis.call('SET', KEYS[1] .. 'lease:' .. ARGV[1], '1', 'PX', ARGV[2])
  if ARGV[3] ~= '' then redis.call('HSET', KEYS[1] .. 'register', ARGV[1], ARGV[3]) end
end
local ids, leases, live, lapsed = redis.call('HKEYS', KEYS[1] .. 'register'), {}, {}, {}
for i, id in ipairs(ids) do
  leases[i] = KEYS[1] .. 'lease:' .. id
end
if #ids > 0 then leases = redis.call('MGET', unpack(leases)) end
for i, id in ipairs(ids) do
  if leases[i] then live[#live + 1] = id else lapsed[#lapsed + 1] = id end
end
local time = redis.call('TIME')
return {alive, time[1] * 1000 + math.floor(time[2] / 1000), live, lapsed}
