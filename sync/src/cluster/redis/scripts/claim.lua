look_at_server()
local again_sid = nil
local epoch = string.format('%.0f', redis.call('INCR', base .. 'epoch'))
