-- ARGV: session, epoch, record, head, channel. Written again only if the version that it had made is lost.
if redis.call('HGET', base .. 's:' .. ARGV[1], 'ep') ~= ARGV[2] then return -1 end
if mode == '2' then
  look_at_server()
  local began = tonumber(string.sub(redis.call('GET', base .. 'gen'), 9))
  if tonumber(memo) <= began then return 0 end
end
redis.call('HSET', base .. 'records', ARGV[1], ARGV[3])
return announce(ARGV[5], ARGV[4], '\3' .. number8(ARGV[1]) .. ARGV[3])
