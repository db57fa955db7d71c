-- ARGV: version, version that must be there before (8 bytes), head, channel, changes as announced, then for each change its
-- filter and what is stored ('': nothing any more); control
local version = redis.call('GET', KEYS[1] .. 'routes:version')
if not version then return -1 end
version = tonumber(version)
if tonumber(ARGV[1]) <= version then return version end
if struct.unpack('<I8', ARGV[2]) > version then return -2 end
for i = 6, #ARGV - 1, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[1] .. 'routes', ARGV[i])
  else redis.call('HSET', KEYS[1] .. 'routes', ARGV[i], ARGV[i + 1]) end
end
redis.call('SET', KEYS[1] .. 'routes:version', ARGV[1])
redis.call('PUBLISH', ARGV[4], ARGV[3] .. struct.pack('<I8', tonumber(ARGV[1])) .. ARGV[5])
return tonumber(ARGV[1])
