-- ARGV: epoch, position, most bytes, control. Answer: 0 if the lease is another's, or tail, acknowledged, messages, bytes, dropped, and for each frame the
-- position of its last message and the frame. Nothing is read past an open hole.
if held_by ~= server or call('HGET', tap, 'ep') ~= ARGV[1] then return 0 end
local answer = {tail, acked, tail - acked - skipped, total - removed, tonumber(call('HGET', tap, 'x') or '0')}
local from, most, bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), 0
local limit = tail
for _, hole in ipairs(holes_of(call('HGET', tap, 'h'))) do
  if hole[2] > from then limit = math.min(limit, hole[1]) end
end
local first, above = string.format('%.0f-0', from), string.format('(%.0f-0', limit)
local again = call('ZRANGEBYSCORE', back, string.format('%.0f', from), string.format('(%.0f', limit), 'LIMIT', 0, 16)
local entries = {}
if limit > from then
  if #again == 0 then
    local ask = 4
    while true do
      local some = call('XRANGE', log, first, above, 'COUNT', ask)
      for _, entry in ipairs(some) do
        bytes = bytes + #entry[2][2]
        entries[#entries + 1] = {string.match(entry[1], '^(%d+)'), entry[2][2]}
        if bytes >= most then break end
      end
      if #some < ask or bytes >= most then break end
      first, ask = '(' .. some[#some][1], ask * 2
    end
  else
    local some = call('XRANGE', log, first, above, 'COUNT', 16)
    for _, entry in ipairs(some) do entries[#entries + 1] = {string.match(entry[1], '^(%d+)'), entry[2][2]} end
    for _, entry in ipairs(again) do
      local last, frame = string.match(entry, '^(%d+):(.*)$')
      entries[#entries + 1] = {last, frame}
    end
    table.sort(entries, function(one, other) return tonumber(one[1]) < tonumber(other[1]) end)
    -- Where one of the two lists was cut, what the other one has behind comes later.
    local upto = limit
    if #some == 16 then upto = math.min(upto, tonumber(string.match(some[16][1], '^(%d+)'))) end
    if #again == 16 then upto = math.min(upto, tonumber(string.match(again[16], '^(%d+)'))) end
    while #entries > 0 and tonumber(entries[#entries][1]) > upto do table.remove(entries) end
  end
end
bytes = 0
for _, entry in ipairs(entries) do
  answer[#answer + 1], answer[#answer + 2] = entry[1], entry[2]
  bytes = bytes + #entry[2]
  if bytes >= most then break end
end
return answer
