-- ARGV: epoch, position, number, checkpoint, control. What was acknowledged before a failover counts, whoever has the lease since; of two at the
-- same position the later one: field a is 'epoch:number' of the last one.
if mode == '2' then look_at_server() end
if mode ~= '2' and (held_by ~= server or call('HGET', tap, 'ep') ~= ARGV[1]) then return 0 end
local upto = tonumber(ARGV[2])
if upto < acked then return 1 end
if upto > acked then
  advance(upto)
  save()
else
  local epoch, number = string.match(call('HGET', tap, 'a') or '0:0', '^(%d+):(%d+)$')
  epoch, number = tonumber(epoch), tonumber(number)
  if epoch > tonumber(ARGV[1]) or (epoch == tonumber(ARGV[1]) and number >= tonumber(ARGV[3])) then return 1 end
end
call('HSET', tap, 'd', ARGV[4], 'a', ARGV[1] .. ':' .. ARGV[3])
return 1
