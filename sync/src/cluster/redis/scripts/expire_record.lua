-- ARGV: table, key, head, channel
local h, member = base .. 'r:' .. ARGV[1], ARGV[1] .. ':' .. ARGV[2]
local found = redis.call('HGET', h, ARGV[2])
local ends = found and struct.unpack('<I8', found, 9) or 0
if ends == 0 then
  redis.call('ZREM', base .. 'ends', member)
  return 0
end
if ends > now_ms() then return 0 end
redis.call('HDEL', h, ARGV[2])
redis.call('ZREM', base .. 'ends', member)
look_at_server()
local version = redis.call('INCR', base .. 'version')
redis.call('PUBLISH', ARGV[4], ARGV[3] .. struct.pack('<I8', version) .. '\6'
  .. struct.pack('<BBI8I2', tonumber(ARGV[1]), 0, version, #ARGV[2]) .. ARGV[2])
return 1
