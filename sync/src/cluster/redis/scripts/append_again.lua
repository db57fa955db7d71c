-- Arguments as of append.lua; behind the control come the sequence numbers that the entries had (8 bytes each, the
-- greatest for one that had none). Entries go back to their places.
local o, numbers, memo = ARGV[2], ARGV[3], string.sub(ARGV[#ARGV], 10)
local before = redis.call('HGET', s, o)
local last = before and struct.unpack('<I8', before) or 0
local none = '\255\255\255\255\255\255\255\255'

local k, l, z = base .. 'k:' .. sid, base .. 'l:' .. sid, base .. 'z:' .. sid
local function seen(publisher, its)
  local before = redis.call('HGET', k, publisher) or redis.call('HGET', l, publisher)
  if not before then return false end
  local low, high = struct.unpack('<I4I4', its)
  local low_before, high_before = struct.unpack('<I4I4', before)
  return high < high_before or (high == high_before and low <= low_before)
end

local at = 26
for i = 1, #ARGV - 4 do
  local number, once, publisher, its
  number, once, at = struct.unpack('<I8B', numbers, at)
  if once == 1 then
    publisher, its = string.sub(numbers, at, at + 7), string.sub(numbers, at + 8, at + 15)
    at = at + 16
  end
  local had = string.sub(memo, i * 8 - 7, i * 8)
  if number > last then
    last = number
    if had ~= none and not (publisher and seen(publisher, its)) then
      if publisher then redis.call('HSET', k, publisher, its) end
      -- Whoever had read it may have put it back already. See restore.lua.
      local body = ARGV[3 + i]
      if redis.call('HDEL', z, redis.sha1hex(body)) == 0 then put_back(struct.unpack('<I8', had), body) end
    end
  end
end
save()
redis.call('HSET', s, o, struct.pack('<I8', last))
return 1
