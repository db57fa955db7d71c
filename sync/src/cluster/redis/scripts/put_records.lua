-- ARGV: name of the call, head, channel; for each record what is to be done (its table, what is expected: 0 anything, 1
-- nothing, 2 a revision; that, its end or 0, the hint, whether there is a value; 1 1 8 8 1 1 bytes), key, value; control.
-- A record: revision (8), end (8), value. The revision is the version of the bucket that its change has made: rises, and is never given
-- again. Answer: the version, or 0 if nothing has changed; then for each its revision, or what was found instead.
-- Memo: the version, a colon, and for each a letter: d done, g nothing to remove, c conflict.
local call = redis.call
local count = (#ARGV - 4) / 3
local named = base .. 'puts:' .. ARGV[1]

local time = nil
local function over(found)
  local ends = struct.unpack('<I8', found, 9)
  if ends == 0 then return false end
  time = time or now_ms()
  return ends <= time
end

local function look(h, key)
  local found = call('HGET', h, key)
  return found, found and not over(found) and found
end

-- What the first call has done, if this is a repetition; or was to do again what a failover has lost.
local its, fates = nil, nil
if mode == '2' then
  its, fates = string.match(memo, '^(%d+):(%l*)$')
  memo = its
else
  local before = call('GET', named)
  if before then its, fates = string.match(before, '^(%d+):(%l*)$') end
end

local answer, letters, changes, version = {0}, {}, {}, nil
for i = 1, count do
  local what, key, value = ARGV[3 * i + 1], ARGV[3 * i + 2], ARGV[3 * i + 3]
  local code, expect, revision, ends, hint, some = struct.unpack('<BBI8I8BB', what)
  local h = base .. 'r:' .. code
  local fate = fates and string.sub(fates, i, i)
  local found, live, does = nil, nil, false
  if fate and mode ~= '2' then
    -- Done before.
    if fate == 'c' then
      found, live = look(h, key)
      answer[i + 1] = live
    else
      answer[i + 1] = fate == 'd' and tonumber(its) or 0
    end
  elseif fate then
    does = fate == 'd' and may_replace('\1' .. string.char(code) .. key)
    if does then found = call('HGET', h, key) end
    answer[i + 1] = 0
  else
    found, live = look(h, key)
    local at = live and struct.unpack('<I8', live)
    if (expect == 1 and live) or (expect == 2 and at ~= revision) then
      letters[i] = 'c'
      answer[i + 1] = live
    elseif some == 0 and not live then
      letters[i] = 'g'
      answer[i + 1] = 0
    else
      letters[i] = 'd'
      does = true
      may_replace('\1' .. string.char(code) .. key)
    end
  end
  if does then
    if not version then
      look_at_server()
      version = call('INCR', base .. 'version')
    end
    local own = mode == '2' and tonumber(its) or version
    if mode ~= '2' then answer[i + 1] = version end
    if some == 1 then
      call('HSET', h, key, struct.pack('<I8I8', own, ends) .. value)
    else
      call('HDEL', h, key)
    end
    if some == 1 and ends ~= 0 then
      call('ZADD', base .. 'ends', string.format('%.0f', ends), code .. ':' .. key)
    elseif found and string.sub(found, 9, 16) ~= '\0\0\0\0\0\0\0\0' then
      call('ZREM', base .. 'ends', code .. ':' .. key)
    end
    changes[#changes + 1] = struct.pack('<BBI8I2', code, hint, own, #key) .. key
  end
end
if version then
  call('PUBLISH', ARGV[3], ARGV[2] .. struct.pack('<I8', version) .. '\6' .. table.concat(changes))
  answer[1] = version
  if mode ~= '2' then
    call('SET', named, string.format('%.0f:', version) .. table.concat(letters), 'PX', 60000)
  end
elseif its then
  answer[1] = tonumber(its)
end
return answer
