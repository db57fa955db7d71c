-- ARGV: 'o' and the origin, numbers (bounds in messages and bytes, number of an append that must have been applied before,
-- attempt (4), 1 if no entry has a publisher (1), 1 if the oldest may go (1), entries (4), first and last number; unless plain for each entry its
-- number, length (4), and a byte that is 1 if its publisher and the publisher's count follow), frame, control.
-- Answer: what became of each entry behind '0', or the first position (a number) and '0'; -1 too early, -2 refused.
local o, numbers, frame = ARGV[1], ARGV[2], ARGV[3]
local max_n, max_bytes, after, attempt, plain, drop, count, first, final, at = struct.unpack('<I8I8I8I4BBI4I8I8', numbers)
local mine = call('HGET', tap, o)
local last, refused = 0, 0
if mine then last, refused = struct.unpack('<I8I4', mine) end
local repeated = final <= last
if not repeated and attempt <= refused then return -2 end
if after > last then return -1 end
look_at_server()

local function fits()
  return tail - acked - skipped + count <= max_n and total - removed + #frame <= max_bytes
end
if not repeated and not fits() and tail > acked + skipped then
  if drop == 1 then
    while not fits() do
      local oldest = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
      if not oldest then break end
      local upto, before = tonumber(string.match(oldest[1], '^(%d+)')) + 1, tail - acked - skipped
      advance(upto)
      call('HINCRBY', tap, 'x', string.format('%.0f', before - (tail - acked - skipped)))
    end
  else
    call('HSET', tap, o, struct.pack('<I8I4', last, attempt))
    save()
    return -2
  end
end

local function put(body, n)
  tail, total = tail + n, total + #body
  call('XADD', log, string.format('%.0f-%.0f', tail - 1, total), 'f', body)
end

if not mine and call('HLEN', tap) > 1024 then
  -- Replicas that are long gone: numbers of replicas rise.
  local origins = {}
  for _, field in ipairs(call('HKEYS', tap)) do
    if string.match(field, '^o%d+$') then origins[#origins + 1] = tonumber(string.sub(field, 2)) end
  end
  table.sort(origins)
  for i = 1, #origins / 2 do call('HDEL', tap, string.format('o%.0f', origins[i])) end
end

if plain == 1 and first > last and count > 0 then
  local position = tail
  put(frame, count)
  call('HSET', tap, 'p', struct.pack('<I8I8I8I8I8', tail, acked, total, removed, skipped), o, struct.pack('<I8I4', final, refused))
  return {position, '0'}
end

local answer, parts, from = {'0'}, {string.sub(frame, 1, 12)}, 13
local position = tail
for i = 1, count do
  local number, length, once = last, 0, 0
  if plain == 0 then number, length, once, at = struct.unpack('<I8I4B', numbers, at) end
  local fate, seen = -1, false
  local publisher, its
  if once == 1 then
    publisher, its = string.sub(numbers, at, at + 7), string.sub(numbers, at + 8, at + 15)
    at = at + 16
    seen = was_seen(publisher, its)
  end
  if number > last then
    last = number
    if not seen then
      fate, position = position, position + 1
      parts[#parts + 1] = string.sub(frame, from, from + length - 1)
      if publisher then see(publisher, its) end
    end
  end
  from = from + length
  answer[i + 1] = fate
end
if #parts > 1 then put(table.concat(parts), #parts - 1) end
call('HSET', tap, 'p', struct.pack('<I8I8I8I8I8', tail, acked, total, removed, skipped), o, struct.pack('<I8I4', last, refused))
return answer
