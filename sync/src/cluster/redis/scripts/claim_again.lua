-- The memo is the epoch that the claim had. A newer claim stays.
if was and tonumber(old_epoch) >= tonumber(memo) then return 1 end
look_at_server()
local epoch = memo
if tonumber(redis.call('GET', base .. 'epoch') or '0') < tonumber(memo) then redis.call('SET', base .. 'epoch', memo) end
