-- The memo is the epoch that the claim had, and its session: it may have been another's before, who makes it again later.
-- A newer claim stays.
local had_epoch, again_sid = string.match(memo, '^(%d+):?(%d*)$')
if again_sid == '' then again_sid = nil end
memo = had_epoch
if was and tonumber(old_epoch) >= tonumber(memo) then return 1 end
look_at_server()
local epoch = memo
if tonumber(redis.call('GET', base .. 'epoch') or '0') < tonumber(memo) then redis.call('SET', base .. 'epoch', memo) end
