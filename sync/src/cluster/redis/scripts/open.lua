-- Keys of a replica: it has routes, version 0, and an inbox without frames.
if redis.call('EXISTS', KEYS[1] .. 'inbox') == 0 then
  local id = redis.call('XADD', KEYS[1] .. 'inbox', '*', 'f', '')
  redis.call('XDEL', KEYS[1] .. 'inbox', id)
end
redis.call('SET', KEYS[1] .. 'routes:version', 0, 'NX')
return 1
