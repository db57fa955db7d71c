-- A partition of a tap. Keys: `tap` (hash), `log` (stream: id '<last position>-<bytes so far>', field f), `back` (sorted set by last
-- position: frames that were written again after a failover, '<last position>:<frame>').
-- Fields: p packed numbers (tail, acknowledged, bytes so far, bytes removed, positions that nobody holds), g server that wrote last, h holes
-- 'from:to:since;', c closed ones 'from:to;', ow, ep, le the lease (consumer, epoch, end), d checkpoint, a who stored it, x messages dropped,
-- o<origin> number of its last append and the last attempt that was refused.
local call, tap, log, back = redis.call, KEYS[1] .. 'tap', KEYS[1] .. 'log', KEYS[1] .. 'back'
local server, mode = string.sub(ARGV[#ARGV], 1, 8), string.sub(ARGV[#ARGV], 9, 9)
local packed, held_by = unpack(call('HMGET', tap, 'p', 'g'))
local tail, acked, total, removed, skipped = 1, 1, 0, 0, 0
if packed then tail, acked, total, removed, skipped = struct.unpack('<I8I8I8I8I8', packed) end

local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function save()
  call('HSET', tap, 'p', struct.pack('<I8I8I8I8I8', tail, acked, total, removed, skipped))
end

local function holes_of(text)
  local holes = {}
  for from, to, since in string.gmatch(text or '', '(%d+):(%d+):?(%d*);') do
    holes[#holes + 1] = {tonumber(from), tonumber(to), tonumber(since)}
  end
  return holes
end

local function put_holes(field, holes)
  local text = ''
  for _, hole in ipairs(holes) do
    text = text .. string.format(hole[3] and '%.0f:%.0f:%.0f;' or '%.0f:%.0f;', hole[1], hole[2], hole[3])
  end
  if text == '' then call('HDEL', tap, field) else call('HSET', tap, field, text) end
end

-- Another server holds the log now, and may lack its end: positions go on above all that may have been given, and leases end.
local function look_at_server()
  if held_by == server then return end
  if held_by or mode ~= '0' then
    -- Not twice by as much: two servers that begin at the same position do not give the same ones.
    local holes, jump = holes_of(call('HGET', tap, 'h')), 16777216 * (1 + struct.unpack('<I2', server))
    holes[#holes + 1] = {tail, tail + jump, now_ms()}
    put_holes('h', holes)
    tail, skipped = tail + jump, skipped + jump
    call('HSET', tap, 'ow', '0', 'ep', string.format('%.0f', tonumber(call('HGET', tap, 'ep') or '0') + 65536))
  end
  call('HSET', tap, 'g', server)
  held_by = server
  save()
end

-- Everything below a position is done with.
local function advance(upto)
  if skipped > 0 then
    local open, left = holes_of(call('HGET', tap, 'h')), {}
    for _, hole in ipairs(open) do
      skipped = skipped - math.max(0, math.min(hole[2], upto) - hole[1])
      if hole[2] > upto then left[#left + 1] = {math.max(hole[1], upto), hole[2], hole[3]} end
    end
    put_holes('h', left)
    for _, hole in ipairs(holes_of(call('HGET', tap, 'c'))) do
      skipped = skipped - math.max(0, math.min(hole[2], upto) - math.max(hole[1], acked))
    end
  end
  local below = string.format('%.0f-0', upto)
  local last = call('XREVRANGE', log, '(' .. below, '-', 'COUNT', 1)[1]
  if last then removed = tonumber(string.match(last[1], '%-(%d+)')) end
  call('XTRIM', log, 'MINID', below)
  call('ZREMRANGEBYSCORE', back, '-inf', string.format('(%.0f', upto))
  acked, tail = upto, math.max(tail, upto)
end
