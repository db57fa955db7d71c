-- The list holds contiguous sequence numbers, head first, but for gaps that failovers have made: field j is
-- 'from:by;…', ascending, where `by` numbers from `from` on were never given or are lost.
-- An element that is '' is a hole: done with. '\0' is a place that an append from before a failover may take again.
local base, sid, server = KEYS[1], ARGV[1], string.sub(ARGV[#ARGV], 1, 8)
local s, q = base .. 's:' .. sid, base .. 'q:' .. sid

local function parse_gaps(text)
  local gaps = {}
  for from, by in string.gmatch(text or '', '(%d+):(%d+);') do gaps[#gaps + 1] = {tonumber(from), tonumber(by)} end
  return gaps
end

local function write_gaps(gaps)
  local text = ''
  for _, gap in ipairs(gaps) do text = text .. string.format('%.0f:%.0f;', gap[1], gap[2]) end
  if text == '' then redis.call('HDEL', s, 'j') else redis.call('HSET', s, 'j', text) end
end

-- Place of a sequence number in the list; nil in a gap, and then the gap and the place behind it.
local function place_of(seq, head, gaps)
  local index = seq - head
  for i, gap in ipairs(gaps) do
    if seq < gap[1] then break end
    if seq < gap[1] + gap[2] then return nil, i, index - (seq - gap[1]) end
    index = index - gap[2]
  end
  return index
end
