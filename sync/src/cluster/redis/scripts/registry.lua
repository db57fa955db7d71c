local answer = redis.call('HGETALL', KEYS[1] .. 'register')
for i = 1, #answer, 2 do
  local left = redis.call('PTTL', KEYS[1] .. 'lease:' .. answer[i])
  answer[i] = {answer[i], math.max(left, 0)}
end
return answer
