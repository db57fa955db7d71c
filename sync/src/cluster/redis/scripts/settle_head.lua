-- ARGV: session, epoch ('': whoever has it), lists, control. The lists begin with how many entries are to be dequeued
-- and released, and how many packet ids are to be remembered and forgotten (4 bytes each); then come the entries'
-- numbers (8 bytes each), the packet ids (2) with their counts (8), and the packet ids to forget (2).
local call, s, q = redis.call, KEYS[1] .. 's:' .. ARGV[1], KEYS[1] .. 'q:' .. ARGV[1]
local of = call('HMGET', s, 'ep', 'p', 'j')
if not of[1] then return ARGV[2] == '' and 1 or 0 end
local epoch = tonumber(ARGV[2] ~= '' and ARGV[2] or of[1])
if string.sub(ARGV[#ARGV], 9, 9) == '2' then
  -- What was acknowledged before a failover counts, whoever has claimed the session since; but if a later claim
  -- was not lost, what was done before that was not, either. `b` is the claim that the failover has left, if
  -- the one that is there came after.
  local gen = call('GET', KEYS[1] .. 'gen')
  local began = gen and string.sub(gen, 1, 8) == string.sub(ARGV[#ARGV], 1, 8) and string.match(gen, ':(%d+)$', 9)
  local known = (not began or tonumber(of[1]) <= tonumber(began)) and of[1] or call('HGET', s, 'b') or '0'
  if epoch < tonumber(known) then return 1 end
elseif ARGV[2] ~= '' and ARGV[2] ~= of[1] then
  return 0
end
local lists, packed = ARGV[3], of[2]
local dequeues, releases, puts, deletes, at = struct.unpack('<I4I4I4I4', lists)
local tail, n, bytes, head, holes = struct.unpack('<I8I8I8I8I8', packed)

-- What happens most: the oldest entries are done with, in order.
if dequeues > 0 and struct.unpack('<I8', lists, 17) == head and holes == 0 and not of[3] and releases + puts + deletes == 0
  and struct.unpack('<I8', lists, 9 + dequeues * 8) == head + dequeues - 1 and head + dequeues <= tail then
  local popped = call('LPOP', q, dequeues)
  for i = 1, #popped do bytes = bytes - #popped[i] end
  call('HSET', s, 'p', struct.pack('<I8I8I8I8I8', tail, n - #popped, bytes, head + #popped, 0))
  return 1
end
