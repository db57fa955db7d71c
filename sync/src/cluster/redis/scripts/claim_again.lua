-- The memo is the epoch that the claim had, and its session: it may have been another's before, who makes it again later.
-- A newer claim stays.
local had_epoch, again_sid = string.match(memo, '^(%d+):?(%d*)$')
if again_sid == '' then again_sid = nil end
memo = had_epoch
if was and tonumber(old_epoch) >= tonumber(memo) then
  -- One that had not seen this claim, as it was lost: nobody has decided what becomes of its will. See claim_tail.lua.
  local first = redis.call('HGET', base .. 'firsts', client)
  if first and tonumber(first) < tonumber(memo) and ARGV[9] ~= '' and redis.call('HEXISTS', wills, memo) == 0 then
    redis.call('HSET', wills, memo, struct.pack('<I4', tonumber(ARGV[8])) .. ARGV[9])
    redis.call('ZADD', due, now_ms() + ARGV[10], 'w:' .. memo)
  end
  return 1
end
look_at_server()
local epoch = memo
if tonumber(redis.call('GET', base .. 'epoch') or '0') < tonumber(memo) then redis.call('SET', base .. 'epoch', memo) end
