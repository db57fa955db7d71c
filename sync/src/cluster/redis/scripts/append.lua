-- ARGV: session, origin, bounds in messages and bytes, number of an append that must have been applied before, then
-- for each entry its number, publisher ('': none), the publisher's count (20 digits) and the body; memo, control.
-- Fields of a session: ow owner, h head, t tail, n entries, y bytes, x holes, g the server that appended last,
-- j gaps, o<origin> number of its last append.
local s, q = KEYS[1] .. 's:' .. ARGV[1], KEYS[1] .. 'q:' .. ARGV[1]
local o = 'o' .. ARGV[2]
local of = redis.call('HMGET', s, 'ow', 't', 'n', 'y', 'g', o)
if not of[1] then return {} end
local tail, n, bytes, last = tonumber(of[2]), tonumber(of[3]), tonumber(of[4]), tonumber(of[6] or '0')
if tonumber(ARGV[5]) > last then return -1 end
local max_n, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])

-- Another server holds the queue now, and may lack its end: sequence numbers go on above all that may have been
-- given, so that an acknowledgement of a lost entry cannot hit another one.
local server = string.sub(ARGV[#ARGV], 1, 8)
if of[5] ~= server then
  local gaps = redis.call('HGET', s, 'j') or ''
  redis.call('HSET', s, 'g', server, 'j', gaps .. string.format('%.0f:65536;', tail))
  tail = tail + 65536
end

-- Two generations of publishers' counts, k the newer one.
local function seen(publisher, count)
  local before = redis.call('HGET', KEYS[1] .. 'k:' .. ARGV[1], publisher) or redis.call('HGET', KEYS[1] .. 'l:' .. ARGV[1], publisher)
  return before and count <= before
end
local function note(publisher, count)
  local k = KEYS[1] .. 'k:' .. ARGV[1]
  if redis.call('HSET', k, publisher, count) == 1 and redis.call('HLEN', k) > 8192 then
    redis.call('HDEL', k, publisher)
    redis.call('RENAME', k, KEYS[1] .. 'l:' .. ARGV[1])
    redis.call('HSET', k, publisher, count)
  end
end

local answer, bodies = {of[1]}, {}
for i = 6, #ARGV - 2, 4 do
  local number, publisher, fate = tonumber(ARGV[i]), ARGV[i + 1], -1
  if number > last then
    last = number
    if publisher == '' or not seen(publisher, ARGV[i + 2]) then
      local body = ARGV[i + 3]
      if n >= max_n or bytes + #body > max_bytes then
        fate = -2
      else
        fate = tail
        tail, n, bytes = tail + 1, n + 1, bytes + #body
        bodies[#bodies + 1] = body
        if publisher ~= '' then note(publisher, ARGV[i + 2]) end
      end
    end
  end
  answer[#answer + 1] = fate
end
for i = 1, #bodies, 1000 do redis.call('RPUSH', q, unpack(bodies, i, math.min(i + 999, #bodies))) end
redis.call('HSET', s, 't', tail, 'n', n, 'y', bytes, o, last)
return answer
