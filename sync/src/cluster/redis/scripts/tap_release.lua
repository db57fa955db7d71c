-- ARGV: epoch, control
if call('HGET', tap, 'ep') == ARGV[1] then call('HSET', tap, 'ow', '0') end
return 1
