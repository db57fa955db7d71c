-- Arguments as of tap_append.lua; behind the control come the positions that the messages had (8 bytes each, the greatest for one that had
-- none). They go back there; behind a hole that was closed, to the end.
local o, numbers, frame, memo = ARGV[1], ARGV[2], ARGV[3], string.sub(ARGV[#ARGV], 10)
local _, _, _, _, plain, _, count, first, final, at = struct.unpack('<I8I8I8I4BBI4I8I8', numbers)
look_at_server()
local mine = call('HGET', tap, o)
local last, refused = 0, 0
if mine then last, refused = struct.unpack('<I8I4', mine) end
if final <= last then return 1 end

-- Where each message lies in the frame: all have a tag and the length of the rest in front.
local holes, closed = holes_of(call('HGET', tap, 'h')), holes_of(call('HGET', tap, 'c'))
local head, from, late, run, run_last = string.sub(frame, 1, 12), 13, {}, {}, 0
local none = '\255\255\255\255\255\255\255\255'

local function put_run()
  if #run == 0 then return end
  call('ZADD', back, string.format('%.0f', run_last), string.format('%.0f:', run_last) .. head .. table.concat(run))
  run = {}
end

-- Takes a position out of the open holes; whether it was in one.
local function take(position)
  for i, hole in ipairs(holes) do
    if position >= hole[1] and position < hole[2] then
      table.remove(holes, i)
      if position + 1 < hole[2] then table.insert(holes, i, {position + 1, hole[2], hole[3]}) end
      if position > hole[1] then table.insert(holes, i, {hole[1], position, hole[3]}) end
      skipped = skipped - 1
      return true
    end
  end
  return false
end

local function was_closed(position)
  for _, hole in ipairs(closed) do
    if position >= hole[1] and position < hole[2] then return true end
  end
  return false
end

for i = 1, count do
  local length = 5 + struct.unpack('<I4', frame, from + 1)
  local number, once, publisher, its = first, 0, nil, nil
  if plain == 0 then
    local _
    number, _, once, at = struct.unpack('<I8I4B', numbers, at)
    if once == 1 then
      publisher, its = string.sub(numbers, at, at + 7), string.sub(numbers, at + 8, at + 15)
      at = at + 16
    end
  elseif first <= last then
    -- Only whole appends are applied.
    number = last
  end
  local had = string.sub(memo, i * 8 - 7, i * 8)
  if number > last and had ~= none and not (publisher and was_seen(publisher, its)) then
    if publisher then see(publisher, its) end
    local position = struct.unpack('<I8', had)
    local body = string.sub(frame, from, from + length - 1)
    if was_closed(position) or position >= tail then
      late[#late + 1] = body
    elseif position >= acked and take(position) then
      if #run > 0 and run_last + 1 ~= position then put_run() end
      run[#run + 1] = body
      run_last = position
    end
  end
  from = from + length
end
put_run()
if #late > 0 then
  local body = head .. table.concat(late)
  tail, total = tail + #late, total + #body
  call('XADD', log, string.format('%.0f-%.0f', tail - 1, total), 'f', body)
end
put_holes('h', holes)
save()
call('HSET', tap, o, struct.pack('<I8I4', final, refused))
return 1
