-- `dequeues`, `releases`, `puts`, `deletes` and the session's numbers are those of settle_head.lua.
local gaps, gaps_changed = of[3] and parse_gaps(of[3]) or {}, false
local mode = string.sub(ARGV[#ARGV], 9, 9)
local released, head_before = '\1\3', head

local function passed(seq)
  head = seq + 1
  while gaps[1] and gaps[1][1] < head do
    head = math.max(head, gaps[1][1] + gaps[1][2])
    table.remove(gaps, 1)
    gaps_changed = true
  end
end

local function take(body)
  if body == '' or body == '\0' then
    holes = holes - 1
  else
    n, bytes = n - 1, bytes - #body
  end
end

-- First number of the element at the head of the list.
local function first()
  local seq = head
  for _, gap in ipairs(gaps) do
    if gap[1] ~= seq then break end
    seq = seq + gap[2]
  end
  return seq
end

-- Not there: soon after a failover its append may come again, and is to find what has become of it.
local function remember(mark, seq)
  if mode == '0' then return end
  call('SADD', base .. 'd:' .. sid, mark .. string.format('%.0f', seq))
  call('PEXPIRE', base .. 'd:' .. sid, 180000)
end

-- Removes the holes at the head.
local function trim()
  while holes > 0 do
    local body = call('LINDEX', q, 0)
    if body ~= '' and (body ~= '\0' or mode ~= '0') then break end
    local seq = first()
    call('LPOP', q)
    holes = holes - 1
    passed(seq)
  end
end

-- Removes up to `count` entries from the head, and the holes behind them.
local function pop(count)
  local seq = first()
  local popped = call('LPOP', q, count)
  if not popped then return end
  for i, body in ipairs(popped) do
    if body == '\0' then remember('', seq + i - 1) end
    take(body)
  end
  passed(seq + #popped - 1)
  trim()
end

local seqs = {}
at = 17
for i = 1, dequeues + releases do
  seqs[i], at = struct.unpack('<I8', lists, at)
end

local i = 1
while i <= dequeues do
  local seq = seqs[i]
  local place = seq >= head and seq < tail and place_of(seq, head, gaps)
  local run = 1
  if not place then
    remember('', seq)
  elseif place == 0 then
    local bound = tail
    for _, gap in ipairs(gaps) do
      if gap[1] > seq then bound = gap[1] break end
    end
    while i + run <= dequeues and seq + run < bound and seqs[i + run] == seq + run do run = run + 1 end
    pop(run)
  else
    local body = call('LINDEX', q, place)
    if body == '\0' then
      remember('', seq)
      call('LSET', q, place, '')
    elseif body and body ~= '' then
      call('LSET', q, place, '')
      n, bytes, holes = n - 1, bytes - #body, holes + 1
    end
  end
  i = i + run
end
-- After a while what has not come back does not come any more.
if mode == '0' then trim() end

for i = dequeues + 1, dequeues + releases do
  local seq = seqs[i]
  local place = seq >= head and seq < tail and place_of(seq, head, gaps)
  local body = place and call('LINDEX', q, place)
  if body and body ~= '' and body ~= '\0' then
    call('LSET', q, place, released)
    bytes = bytes - #body + #released
  elseif body ~= '' then
    remember('r', seq)
  end
end
if dequeues + releases > 0 or head ~= head_before then call('HSET', s, 'p', struct.pack('<I8I8I8I8I8', tail, n, bytes, head, holes)) end
if gaps_changed then write_gaps(gaps) end

-- Soon after a failover: what was acknowledged before is not to undo what has been done since, nor what was done under
-- a later claim and has come again already.
local function may_set(id)
  if mode == '0' then return true end
  local u = base .. 'u:' .. sid
  if mode == '2' and tonumber(call('HGET', u, id) or '0') > epoch then return false end
  call('HSET', u, id, string.format('%.0f', epoch))
  call('PEXPIRE', u, 180000)
  return true
end

for _ = 1, puts do
  local id
  id, at = struct.unpack('<I2', lists, at)
  if may_set(id) then
    call('HSET', s, 'i' .. id, string.sub(lists, at, at + 7))
    -- Word of how far a connection has sent is of use to the next one only. See claim_tail.lua.
    if id == 0 then call('HSET', s, 'm', string.format('%.0f', epoch)) end
  end
  at = at + 8
end
for _ = 1, deletes do
  local id
  id, at = struct.unpack('<I2', lists, at)
  if may_set(id) then call('HDEL', s, 'i' .. id) end
end
return 1
