-- Another server: numbers go on above all that may have been drawn.
local server, mode = string.sub(ARGV[#ARGV], 1, 8), string.sub(ARGV[#ARGV], 9, 9)
local gen = redis.call('GET', KEYS[1] .. 'gen')
if gen ~= server then
  if gen or mode ~= '0' then
    -- Others may not have come yet to write again what it lacks. See renew.lua.
    redis.call('SET', KEYS[1] .. 'changed', '1', 'PX', 30000)
    local age = gen and 0 or redis.call('TIME')[1] - 1700000000
    local replicas = tonumber(redis.call('GET', KEYS[1] .. 'counter') or '0')
    local sessions = tonumber(redis.call('GET', KEYS[1] .. 'sessions') or '0')
    redis.call('SET', KEYS[1] .. 'counter', math.max(replicas, age) + 65536)
    redis.call('SET', KEYS[1] .. 'sessions', math.max(sessions, age * 1024) + 1048576)
  end
  redis.call('SET', KEYS[1] .. 'gen', server)
end
