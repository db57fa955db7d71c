-- ARGV: session, first number, at most so many
local of = redis.call('HMGET', s, 'p', 'j')
if not of[1] then return {} end
local tail, n, bytes, head, holes = struct.unpack('<I8I8I8I8I8', of[1])
local gaps = parse_gaps(of[2])
local seq, limit, answer = math.max(tonumber(ARGV[2]), head), tonumber(ARGV[3]), {}
while seq < tail and limit > 0 do
  local place, gap = place_of(seq, head, gaps)
  if gap then
    seq = gaps[gap][1] + gaps[gap][2]
  else
    local bound = tail
    for _, gap in ipairs(gaps) do
      if gap[1] > seq then bound = gap[1] break end
    end
    local count = math.min(limit, bound - seq)
    local bodies = redis.call('LRANGE', q, place, place + count - 1)
    for i, body in ipairs(bodies) do
      if holes == 0 or (body ~= '' and body ~= '\0') then
        answer[#answer + 1] = seq + i - 1
        answer[#answer + 1] = body
        limit = limit - 1
      end
    end
    if #bodies == 0 then break end
    seq = seq + #bodies
  end
end
return answer
