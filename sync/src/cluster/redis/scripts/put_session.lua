-- ARGV: session, client, expiry interval, epoch, record, head, channel
local s = base .. 's:' .. ARGV[1]
if mode == '2' and tonumber(redis.call('HGET', s, 'ep') or '-1') >= tonumber(ARGV[4]) then return 1 end
local owner = redis.call('HGET', s, 'ow')
if not owner then
  owner = '0'
  make_queue(ARGV[1])
  redis.call('HSET', s, 'ow', 0)
end
redis.call('HSET', s, 'ex', ARGV[3], 'ep', ARGV[4], 'cl', ARGV[2])
redis.call('HSET', base .. 'owners', ARGV[2], owner .. ':' .. ARGV[4] .. ':' .. ARGV[1])
redis.call('HSET', base .. 'records', ARGV[1], ARGV[5])
announce(ARGV[7], ARGV[6], '\3' .. number8(ARGV[1]) .. ARGV[5])
return 1
