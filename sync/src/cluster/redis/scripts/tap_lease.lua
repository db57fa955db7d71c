-- ARGV: consumer, epoch (0: take it), length in ms, age from which holes are closed in ms, control. Answer: 0 if it is another's, or epoch,
-- tail, acknowledged, messages, bytes, dropped, checkpoint.
look_at_server()
local now = now_ms()
local open, closed, left = holes_of(call('HGET', tap, 'h')), holes_of(call('HGET', tap, 'c')), {}
if #open > 0 then
  for _, hole in ipairs(open) do
    if hole[3] + ARGV[4] <= now or hole[3] > now then closed[#closed + 1] = {hole[1], hole[2]} else left[#left + 1] = hole end
  end
  table.sort(closed, function(one, other) return one[1] < other[1] end)
  while #closed > 64 and closed[1][2] <= acked do table.remove(closed, 1) end
  put_holes('h', left)
  put_holes('c', closed)
end
local owner, epoch, till, checkpoint, dropped = unpack(call('HMGET', tap, 'ow', 'ep', 'le', 'd', 'x'))
owner, epoch, till = owner or '0', epoch or '0', tonumber(till or '0')
if ARGV[2] ~= '0' then
  if owner ~= ARGV[1] or epoch ~= ARGV[2] then return 0 end
elseif owner ~= ARGV[1] then
  if owner ~= '0' and till > now then return 0 end
  epoch = string.format('%.0f', epoch + 1)
end
call('HSET', tap, 'ow', ARGV[1], 'ep', epoch, 'le', string.format('%.0f', now + ARGV[3]))
return {epoch, tail, acked, tail - acked - skipped, total - removed, dropped or '0', checkpoint or ''}
