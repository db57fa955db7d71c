-- ARGV: epoch, position, checkpoint, control. What was acknowledged before a failover counts, whoever has the lease since.
if mode == '2' then look_at_server() end
if mode ~= '2' and (held_by ~= server or call('HGET', tap, 'ep') ~= ARGV[1]) then return 0 end
local upto = tonumber(ARGV[2])
if upto > acked then
  advance(upto)
  save()
elseif mode == '2' or upto < acked then
  return 1
end
call('HSET', tap, 'd', ARGV[3])
return 1
