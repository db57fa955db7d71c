-- ARGV: nonce, info, lease in ms; the memo is the number that it had before a failover
local nonce, counter, memo = KEYS[1] .. 'nonce:' .. ARGV[1], KEYS[1] .. 'counter', string.sub(ARGV[#ARGV], 10)
local id = redis.call('GET', nonce)
if mode == '2' then
  if id or redis.call('EXISTS', KEYS[1] .. 'reaped:' .. memo) == 1 then return tonumber(memo) end
  id = memo
  if tonumber(redis.call('GET', counter) or '0') < tonumber(memo) then redis.call('SET', counter, memo) end
elseif not id then
  id = string.format('%.0f', redis.call('INCR', counter))
end
redis.call('SET', nonce, id, 'PX', 600000)
redis.call('HSET', KEYS[1] .. 'register', id, ARGV[2])
redis.call('SET', KEYS[1] .. 'lease:' .. id, '1', 'PX', ARGV[3])
return tonumber(id)
