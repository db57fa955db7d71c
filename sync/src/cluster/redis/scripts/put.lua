-- Entries that a failover may have lost go back to their places. If the session is lost, too, whoever has made it makes it again: until then they wait for it for a while.
local of = redis.call('HMGET', s, 'p', 'j', 'ow')
local waits = not of[3]
local tail, n, bytes, head, holes = 65536, 0, 0, 0, 0
local gaps, gaps_changed = {{0, 65536}}, true
if of[1] then
  tail, n, bytes, head, holes = struct.unpack('<I8I8I8I8I8', of[1])
  gaps, gaps_changed = parse_gaps(of[2]), false
end
local d = base .. 'd:' .. sid

local function insert(place, body)
  local there = redis.call('LINDEX', q, place)
  if not there then
    redis.call('RPUSH', q, body)
    return
  end
  -- LINSERT finds by value: a value that is nowhere else.
  local mark = 'dunlin-here'
  redis.call('LSET', q, place, mark)
  redis.call('LINSERT', q, 'BEFORE', mark, body)
  redis.call('LSET', q, place + 1, there)
end

-- So many places that were not given, or are not there yet, are filled in front of an entry; more become a gap.
local fill = 1024

local function put(seq, body)
  local place, gap, behind
  if seq >= head and seq < tail then place, gap, behind = place_of(seq, head, gaps) end
  if seq >= tail then
    if seq - tail > fill then
      gaps[#gaps + 1], gaps_changed = {tail, seq - tail}, true
    else
      for _ = tail, seq - 1 do
        redis.call('RPUSH', q, '\0')
        holes = holes + 1
      end
    end
    redis.call('RPUSH', q, body)
    tail = seq + 1
  elseif gap then
    local from, left = gaps[gap][1], gaps[gap][1] + gaps[gap][2] - seq - 1
    gaps_changed = true
    table.remove(gaps, gap)
    if left > 0 then table.insert(gaps, gap, {seq + 1, left}) end
    if seq - from > fill then
      table.insert(gaps, gap, {from, seq - from})
    else
      for _ = from, seq - 1 do
        insert(behind, '\0')
        behind, holes = behind + 1, holes + 1
      end
    end
    insert(behind, body)
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

-- What its client has done with an entry since counts.
local function put_back(seq, body)
  local text = string.format('%.0f', seq)
  if redis.call('SISMEMBER', d, text) == 1 then return end
  if redis.call('SISMEMBER', d, 'r' .. text) == 1 then body = '\1\3' end
  put(seq, body)
end

local function save()
  redis.call('HSET', s, 'p', struct.pack('<I8I8I8I8I8', tail, n, bytes, head, holes))
  if gaps_changed then write_gaps(gaps) end
  if waits then
    redis.call('HSET', s, 'g', server)
    for _, key in ipairs({'s:', 'q:', 'k:'}) do redis.call('PEXPIRE', base .. key .. sid, 180000) end
  end
end
