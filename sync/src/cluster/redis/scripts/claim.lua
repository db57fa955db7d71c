look_at_server()
local epoch = string.format('%.0f', redis.call('INCR', base .. 'epoch'))
