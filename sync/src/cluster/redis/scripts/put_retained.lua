redis.call('HSET', base .. 'retained', topic, ARGV[2])
return announce(ARGV[4], ARGV[3], '\1' .. ARGV[2])
