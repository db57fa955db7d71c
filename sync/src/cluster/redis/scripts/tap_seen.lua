-- Two generations of publishers' counts, k the newer one. Counts need all of their 64 bits.
local function was_seen(publisher, its)
  local known = call('HGET', KEYS[1] .. 'k', publisher) or call('HGET', KEYS[1] .. 'l', publisher)
  if not known then return false end
  local low, high = struct.unpack('<I4I4', its)
  local low_before, high_before = struct.unpack('<I4I4', known)
  return high < high_before or (high == high_before and low <= low_before)
end

local function see(publisher, its)
  local k = KEYS[1] .. 'k'
  if call('HSET', k, publisher, its) == 1 and call('HLEN', k) > 16384 then
    call('HDEL', k, publisher)
    call('RENAME', k, KEYS[1] .. 'l')
    call('HSET', k, publisher, its)
  end
end
