-- Before every script that changes a table. The last argument is the control: 8 bytes that name the server; then '0'
-- usually, '1' soon after a failover, '2' for a request that had been acknowledged before a failover; then the memo,
-- what such a request has to know of its first answer.
local base = KEYS[1]
local server = string.sub(ARGV[#ARGV], 1, 8)
local mode = string.sub(ARGV[#ARGV], 9, 9)
local memo = string.sub(ARGV[#ARGV], 10)
local known_server = false

-- Another server holds the data now, and may lack the newest of it: versions and epochs go on above all that may
-- have been drawn. `gen` holds the server's name, and the version of the table and the epoch that it began with.
local function look_at_server()
  if known_server then return end
  known_server = true
  local gen = redis.call('GET', base .. 'gen')
  if gen and string.sub(gen, 1, 8) == server then return end
  local version, epoch = 0, 0
  if gen or mode ~= '0' then
    version = tonumber(redis.call('GET', base .. 'version') or '0')
    epoch = tonumber(redis.call('GET', base .. 'epoch') or '0')
    local above = epoch
    if not gen then above = math.max(above, redis.call('TIME')[1] - 1700000000) end
    redis.call('SET', base .. 'version', version + 65536)
    redis.call('SET', base .. 'epoch', above + 65536)
  end
  redis.call('SET', base .. 'gen', server .. string.format('%.0f:%.0f', version, epoch))
end

-- `head`: 12 bytes of a frame's head and 2 of the bucket. Returns the version after the change.
local function announce(channel, head, change)
  look_at_server()
  local version = redis.call('INCR', base .. 'version')
  redis.call('PUBLISH', channel, head .. struct.pack('<I8', version) .. change)
  return version
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function number8(text)
  return struct.pack('<I8', tonumber(text))
end

-- The queue of a session that is made. After a failover its entries may have come back before it (see put.lua), or
-- come yet: new ones go behind their places.
local function make_queue(sid)
  local s = base .. 's:' .. sid
  if redis.call('HEXISTS', s, 'p') == 1 then
    for _, key in ipairs({'s:', 'q:', 'k:'}) do redis.call('PERSIST', base .. key .. sid) end
  elseif mode == '2' then
    redis.call('HSET', s, 'p', struct.pack('<I8I8I8I8I8', 65536, 0, 0, 0, 0), 'j', '0:65536;', 'g', server)
  else
    redis.call('HSET', s, 'p', string.rep('\0', 40), 'g', server)
  end
end

local function end_session(channel, head, sid)
  redis.call('UNLINK', base .. 's:' .. sid, base .. 'q:' .. sid, base .. 'k:' .. sid, base .. 'l:' .. sid, base .. 'd:' .. sid, base .. 'u:' .. sid, base .. 'z:' .. sid)
  redis.call('ZREM', base .. 'due', 's:' .. sid)
  redis.call('HDEL', base .. 'records', sid)
  announce(channel, head, '\4' .. number8(sid))
end

-- Bit 0 of the flags of a record: the session has shared subscriptions, so that its owner matters to others.
local function announce_owner(channel, head, sid, record, owner)
  if record and (string.byte(record, 2) or 0) % 2 == 1 then
    announce(channel, head, '\5' .. number8(sid) .. number8(owner))
  end
end
