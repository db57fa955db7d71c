-- ARGV: first position of the inbox that must be empty ('': whatever is in it). 0: somebody has put something there.
local inbox = KEYS[1] .. 'inbox'
if ARGV[1] ~= '' and #redis.call('XRANGE', inbox, ARGV[1], '+', 'COUNT', 1) > 0 then return 0 end
redis.call('UNLINK', KEYS[1] .. 'routes', KEYS[1] .. 'routes:version', inbox)
return 1
