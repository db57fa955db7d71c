-- Arguments as of append.lua; the memo holds the sequence numbers that the entries had (8 bytes each, the greatest
-- for one that had none). Entries go back to their places.
local o = 'o' .. ARGV[2]
local of = redis.call('HMGET', s, 'h', 't', 'n', 'y', 'x', 'j', o)
if not of[1] then return 1 end
local head, tail, n, bytes, holes, last = tonumber(of[1]), tonumber(of[2]), tonumber(of[3]), tonumber(of[4]), tonumber(of[5] or '0'), tonumber(of[7] or '0')
local gaps, memo = parse_gaps(of[6]), ARGV[#ARGV - 1]
local RELEASED = '\1\3'
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

local k, l = base .. 'k:' .. sid, base .. 'l:' .. sid
for i = 6, #ARGV - 2, 4 do
  local number, publisher, count, body = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local from = (i - 6) * 2 + 1
  local packed = string.sub(memo, from, from + 7)
  if number > last then
    last = number
    local before = publisher ~= '' and (redis.call('HGET', k, publisher) or redis.call('HGET', l, publisher))
    if packed ~= none and not (before and count <= before) then
      if publisher ~= '' then redis.call('HSET', k, publisher, count) end
      local seq = struct.unpack('<I8', packed)
      local text = string.format('%.0f', seq)
      if redis.call('SISMEMBER', base .. 'd:' .. sid, text) == 0 then
        if redis.call('SISMEMBER', base .. 'd:' .. sid, 'r' .. text) == 1 then body = RELEASED end
        put(seq, body)
      end
    end
  end
end
redis.call('HSET', s, 't', tail, 'n', n, 'y', bytes, 'x', holes, o, last)
if of[6] then write_gaps(gaps) end
return 1
