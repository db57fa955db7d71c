-- ARGV: session, epoch ('': whoever has it), bytes of a released entry, number of entries to dequeue, they, number of
-- entries to release, they, number of packet ids to remember, they and their counts, packet ids to forget; memo, control
local of = redis.call('HMGET', s, 'ep', 'h', 't', 'n', 'y', 'x', 'j')
if not of[1] then return ARGV[2] == '' and 1 or 0 end
if ARGV[2] ~= '' and ARGV[2] ~= of[1] then return 0 end
local head, tail, n, bytes, holes = tonumber(of[2]), tonumber(of[3]), tonumber(of[4]), tonumber(of[5]), tonumber(of[6] or '0')
local gaps = of[7] and parse_gaps(of[7]) or {}
local mode = string.sub(ARGV[#ARGV], 9, 9)
local released, gaps_changed = ARGV[3], false

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
  if gaps[1] and gaps[1][1] == head then return head + gaps[1][2] end
  return head
end

-- Removes up to `count` entries from the head.
local function pop(count)
  local seq = first()
  local popped = redis.call('LPOP', q, count)
  if not popped then return end
  for _, body in ipairs(popped) do take(body) end
  passed(seq + #popped - 1)
  while holes > 0 do
    local body = redis.call('LINDEX', q, 0)
    if body ~= '' and (body ~= '\0' or mode ~= '0') then break end
    seq = first()
    redis.call('LPOP', q)
    holes = holes - 1
    passed(seq)
  end
end

-- Not there: soon after a failover its append may come again, and is to find that it is done with.
local function remember(mark)
  if mode == '0' then return end
  redis.call('SADD', base .. 'd:' .. sid, mark)
  redis.call('PEXPIRE', base .. 'd:' .. sid, 180000)
end

local at = 4
local function list()
  local from = at + 1
  at = from + tonumber(ARGV[at])
  return from, at - 1
end

local i, last = list()
while i <= last do
  local seq = tonumber(ARGV[i])
  local place = seq >= head and seq < tail and place_of(seq, head, gaps)
  local run = 1
  if not place then
    remember(ARGV[i])
  elseif place == 0 then
    local bound = tail
    for _, gap in ipairs(gaps) do
      if gap[1] > seq then bound = gap[1] break end
    end
    while i + run <= last and seq + run < bound and tonumber(ARGV[i + run]) == seq + run do run = run + 1 end
    pop(run)
  else
    local body = redis.call('LINDEX', q, place)
    if body == '\0' then
      redis.call('LSET', q, place, '')
    elseif body and body ~= '' then
      redis.call('LSET', q, place, '')
      n, bytes, holes = n - 1, bytes - #body, holes + 1
    end
  end
  i = i + run
end

local i, last = list()
while i <= last do
  local seq = tonumber(ARGV[i])
  local place = seq >= head and seq < tail and place_of(seq, head, gaps)
  local body = place and redis.call('LINDEX', q, place)
  if body and body ~= '' and body ~= '\0' then
    redis.call('LSET', q, place, released)
    bytes = bytes - #body + #released
  elseif body ~= '' then
    remember('r' .. ARGV[i])
  end
  i = i + 1
end
redis.call('HSET', s, 'h', head, 'n', n, 'y', bytes)
if holes > 0 then redis.call('HSET', s, 'x', holes) elseif of[6] then redis.call('HDEL', s, 'x') end
if gaps_changed then write_gaps(gaps) end

local i, last = list()
while i <= last do
  redis.call('HSET', s, 'i' .. ARGV[i], ARGV[i + 1])
  i = i + 2
end
local i, last = list()
while i <= last do
  redis.call('HDEL', s, 'i' .. ARGV[i])
  i = i + 1
end
return 1
