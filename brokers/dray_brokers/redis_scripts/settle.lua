-- Ends loans, or renews them.
-- KEYS: base of the queue [, its bell]. ARGV: what to do, the receipts framed, and
--   ack
--   requeue   seconds of delay        behind all others, charged
--   release                           in the old place, not charged
--   return                            in the old place, charged
--   bury      reason
--   extend    seconds from now
-- Returns the numbers of the receipts whose loan was over, and how many workers are worth waking.

local queue, verb, detail = queue_of(KEYS[1]), ARGV[1], ARGV[3]
local receipts, names, lost = {}, {}, {}
for n, receipt in ipairs(unframed(ARGV[2])) do
  -- One by one, which tells at once whose loan was over.
  if redis.call('ZREM', queue.leased, receipt) == 1 then
    receipts[#receipts + 1], names[#names + 1] = receipt, name_in(receipt)
  else
    lost[#lost + 1] = n
  end
end
if #names == 0 then return { lost, 0 } end

if verb == 'extend' then
  local ends, times = clock() + tonumber(detail), {}
  for _, receipt in ipairs(receipts) do
    times[#times + 1], times[#times + 2] = ends, receipt
  end
  call('ZADD', queue.leased, times)
  return { lost, 0 }
end

local records = verb ~= 'ack' and held_by(queue, names) or {}
call('HDEL', queue.held, names)

if verb == 'ack' then
  forget(queue, names)
  return { lost, 0 }
end

if verb == 'bury' then
  forget(queue, names)
  local last = redis.call('ZREVRANGE', queue.dead, 0, 0)[1]
  local number, head = tonumber(last or 0), struct.pack('>dI4', clock(), #detail) .. detail
  for _, record in ipairs(records) do
    number = number + 1
    local id = id_of(record)
    redis.call('ZADD', queue.dead, number, number)
    redis.call('HSET', queue.letters, number, head .. charged(record))
    redis.call('HSET', queue.graves, id, (redis.call('HGET', queue.graves, id) or '') .. number .. ' ')
  end
  return { lost, 0 }
end

if verb == 'requeue' then
  for n, record in ipairs(records) do records[n] = charged(record) end
  local delay = tonumber(detail)
  if delay > 0 then
    local due, held, times = clock() + delay, {}, {}
    for _, record in ipairs(records) do
      local name = name_of(record)
      held[#held + 1], held[#held + 2] = name, record
      times[#times + 1], times[#times + 2] = due, name
    end
    call('HSET', queue.held, held)
    call('ZADD', queue.delayed, times)
    -- As in publish: whoever listens looks once a second anyway.
    local soon = delay < 1 and 1 or 0
    ring(KEYS[2], soon)
    return { lost, soon }
  end
  line_up(queue, records)
else
  local places = {}
  for n, receipt in ipairs(receipts) do places[names[n]] = receipt:sub(9, 18) end
  for _, record in ipairs(records) do
    local place = places[name_of(record)]
    if verb == 'return' then record = charged(record) end
    redis.call('ZADD', queue.back, 0, string.char(57 - priority_of(record)) .. place .. record)
  end
end
ring(KEYS[2], #records)
return { lost, #records }
