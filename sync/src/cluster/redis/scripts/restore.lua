-- ARGV: session, sequence numbers (8 bytes each), bodies; control. Entries that were read before a failover, and whose
-- appends may not have been answered: such an append is sent again, and is to find that it was done.
local z = base .. 'z:' .. sid
for i = 1, #ARGV - 3 do
  local seq, body = struct.unpack('<I8', ARGV[2], i * 8 - 7), ARGV[2 + i]
  local place = seq >= head and seq < tail and place_of(seq, head, gaps)
  local there = place and redis.call('LINDEX', q, place)
  if seq >= head and (not there or there == '\0') then put_back(seq, body) end
  if there ~= body then redis.call('HSET', z, redis.sha1hex(body), 1) end
end
redis.call('PEXPIRE', z, 180000)
save()
return 1
