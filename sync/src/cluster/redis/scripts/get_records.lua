-- ARGV: for each record a byte for its table, and its key; control
local answer, now = {}, nil
for i = 1, #ARGV - 1 do
  local found = redis.call('HGET', KEYS[1] .. 'r:' .. string.byte(ARGV[i]), string.sub(ARGV[i], 2))
  if found and string.sub(found, 9, 16) ~= '\0\0\0\0\0\0\0\0' then
    if not now then
      local time = redis.call('TIME')
      now = time[1] * 1000 + math.floor(time[2] / 1000)
    end
    if struct.unpack('<I8', found, 9) <= now then found = false end
  end
  answer[i] = found
end
return answer
