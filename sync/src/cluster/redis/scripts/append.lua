-- ARGV: session, 'o' and the origin, then numbers of 8 bytes (bounds in messages and bytes, number of an append that
-- must have been applied before; a byte that is 1 if no entry has a publisher; for each entry its number, and a byte
-- that is 1 if its publisher and the publisher's count follow; the last number again), then the bodies; control.
-- Answer: the owner and what became of each entry, or the first number and the owner if all are in the queue.
-- Fields of a session: ow owner, p packed numbers (tail, entries, bytes, head, holes), g the server that appended
-- last, j gaps, o<origin> number of its last append. Few arguments and few fields: each costs a tenth of a microsecond.
local call, s, o, numbers = redis.call, KEYS[1] .. 's:' .. ARGV[1], ARGV[2], ARGV[3]
local of = call('HMGET', s, 'ow', 'p', 'g', o)
local owner, packed = of[1], of[2]
if not owner then return {} end
local max_n, max_bytes, after, plain, number, once, at = struct.unpack('<I8I8I8BI8B', numbers)
local tail, n, bytes = struct.unpack('<I8I8I8', packed)
local before = of[4] and struct.unpack('<I8', of[4]) or 0
local last = before
if after > last then return -1 end

local server = string.sub(ARGV[#ARGV], 1, 8)
local count = #ARGV - 4

-- Soon after a failover: what was read before it came back without its append, which comes now. See restore.lua.
local z = string.sub(ARGV[#ARGV], 9, 9) ~= '0' and KEYS[1] .. 'z:' .. ARGV[1]
if z and call('EXISTS', z) == 0 then z = nil end

-- What happens most: all are new, and there is room.
if plain == 1 and not z and number > before and of[3] == server and n + count <= max_n and count > 0 then
  local sum = bytes
  for i = 4, 3 + count do sum = sum + #ARGV[i] end
  if sum <= max_bytes then
    if count == 1 then
      call('RPUSH', KEYS[1] .. 'q:' .. ARGV[1], ARGV[4])
    else
      for i = 4, 3 + count, 1000 do
        call('RPUSH', KEYS[1] .. 'q:' .. ARGV[1], unpack(ARGV, i, math.min(i + 999, 3 + count)))
      end
    end
    call('HSET', s, 'p', struct.pack('<I8I8I8', tail + count, n + count, sum) .. string.sub(packed, 25), o, string.sub(numbers, -8))
    return {tail, owner}
  end
end

-- Another server holds the queue now, and may lack its end: sequence numbers go on above all that may have been
-- given, so that an acknowledgement of a lost entry cannot hit another one.
if of[3] ~= server and struct.unpack('<I8', numbers, #numbers - 7) > before then
  call('HSET', s, 'g', server, 'j', (call('HGET', s, 'j') or '') .. string.format('%.0f:65536;', tail))
  tail = tail + 65536
end

local answer, bodies, body = {owner}, {}, nil
for i = 1, count do
  if i > 1 then number, once, at = struct.unpack('<I8B', numbers, at) end
  local fate = -1
  local seen, publisher, its = false, nil, nil
  if once == 1 then
    -- Two generations of publishers' counts, k the newer one. Counts need all of their 64 bits.
    publisher, its = string.sub(numbers, at, at + 7), string.sub(numbers, at + 8, at + 15)
    at = at + 16
    local k = KEYS[1] .. 'k:' .. ARGV[1]
    local known = number > last and (call('HGET', k, publisher) or call('HGET', KEYS[1] .. 'l:' .. ARGV[1], publisher))
    if known then
      local low, high = struct.unpack('<I4I4', its)
      local low_before, high_before = struct.unpack('<I4I4', known)
      seen = high < high_before or (high == high_before and low <= low_before)
    end
  end
  if number > last then
    last = number
    body = ARGV[3 + i]
    if not seen and z and call('HDEL', z, redis.sha1hex(body)) == 1 then
      seen = true
      if publisher then call('HSET', KEYS[1] .. 'k:' .. ARGV[1], publisher, its) end
    end
    if not seen then
      if n >= max_n or bytes + #body > max_bytes then
        fate = -2
      else
        fate = tail
        tail, n, bytes = tail + 1, n + 1, bytes + #body
        bodies[#bodies + 1] = body
        if publisher then
          local k = KEYS[1] .. 'k:' .. ARGV[1]
          if call('HSET', k, publisher, its) == 1 and call('HLEN', k) > 8192 then
            call('HDEL', k, publisher)
            call('RENAME', k, KEYS[1] .. 'l:' .. ARGV[1])
            call('HSET', k, publisher, its)
          end
        end
      end
    end
  end
  answer[i + 1] = fate
end
if #bodies == 1 then
  call('RPUSH', KEYS[1] .. 'q:' .. ARGV[1], bodies[1])
else
  for i = 1, #bodies, 1000 do
    call('RPUSH', KEYS[1] .. 'q:' .. ARGV[1], unpack(bodies, i, math.min(i + 999, #bodies)))
  end
end
if last > before then
  call('HSET', s, 'p', struct.pack('<I8I8I8', tail, n, bytes) .. string.sub(packed, 25), o, string.sub(numbers, -8))
end
return answer
