-- ARGV: control. Answer: consumer (0: nobody), epoch, what is left of the lease in ms, tail, acknowledged, messages, bytes, dropped, and the first frame that
-- is not acknowledged whole, after the position of its last message.
local owner, epoch, till, dropped = unpack(call('HMGET', tap, 'ow', 'ep', 'le', 'x'))
local left = math.max(0, tonumber(till or '0') - now_ms())
if left == 0 then owner = '0' end
local answer = {owner or '0', epoch or '0', left, tail, acked, tail - acked - skipped, total - removed, tonumber(dropped or '0')}
local from = string.format('%.0f', acked)
local entry, again = call('XRANGE', log, from .. '-0', '+', 'COUNT', 1)[1], call('ZRANGEBYSCORE', back, from, '+inf', 'LIMIT', 0, 1)[1]
local last, frame
if entry then last, frame = string.match(entry[1], '^(%d+)'), entry[2][2] end
if again then
  local at, text = string.match(again, '^(%d+):(.*)$')
  if not last or tonumber(at) < tonumber(last) then last, frame = at, text end
end
if last then answer[9], answer[10] = last, frame end
return answer
