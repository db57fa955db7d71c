-- Arguments as of append.lua; behind the control come the sequence numbers that the entries had (8 bytes each, the
-- greatest for one that had none). Entries go back to their places.
local o, numbers, memo = ARGV[2], ARGV[3], string.sub(ARGV[#ARGV], 10)
local of = redis.call('HMGET', s, 'p', 'j', o)
if not of[1] then return 1 end
local tail, n, bytes, head, holes = struct.unpack('<I8I8I8I8I8', of[1])
local last = of[3] and struct.unpack('<I8', of[3]) or 0
local gaps = parse_gaps(of[2])
local none = '\255\255\255\255\255\255\255\255'

local function insert(place, body)
  local there = redis.call('LINDEX', q, place)
  if not there then
    redis.call('RPUSH', q, body)
    return
  end
  -- LINSERT finds by value: a value that is nowhere else.
  local mark = 'dunlin-here' .. o
  redis.call('LSET', q, place, mark)
  redis.call('LINSERT', q, 'BEFORE', mark, body)
  redis.call('LSET', q, place + 1, there)
end

local function put(seq, body)
  local place, gap, behind
  if seq >= head and seq < tail then place, gap, behind = place_of(seq, head, gaps) end
  if seq >= tail and seq - tail <= 65536 then
    for _ = tail, seq - 1 do
      redis.call('RPUSH', q, '\0')
      holes = holes + 1
    end
    redis.call('RPUSH', q, body)
    tail = seq + 1
  elseif gap then
    for _ = gaps[gap][1], seq - 1 do
      insert(behind, '\0')
      behind, holes = behind + 1, holes + 1
    end
    insert(behind, body)
    gaps[gap] = {seq + 1, gaps[gap][1] + gaps[gap][2] - seq - 1}
    if gaps[gap][2] == 0 then table.remove(gaps, gap) end
  elseif place and redis.call('LINDEX', q, place) == '' then
    return
  elseif place and redis.call('LINDEX', q, place) == '\0' then
    redis.call('LSET', q, place, body)
    holes = holes - 1
  else
    -- Somebody else has the place: at the end.
    redis.call('RPUSH', q, body)
    tail = tail + 1
  end
  n, bytes = n + 1, bytes + #body
end

local k, l, d = base .. 'k:' .. sid, base .. 'l:' .. sid, base .. 'd:' .. sid
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
      local seq = struct.unpack('<I8', had)
      local text, body = string.format('%.0f', seq), ARGV[3 + i]
      if redis.call('SISMEMBER', d, text) == 0 then
        if redis.call('SISMEMBER', d, 'r' .. text) == 1 then body = '\1\3' end
        put(seq, body)
      end
    end
  end
end
redis.call('HSET', s, 'p', struct.pack('<I8I8I8I8I8', tail, n, bytes, head, holes), o, struct.pack('<I8', last))
if of[2] then write_gaps(gaps) end
return 1
