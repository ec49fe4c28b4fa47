-- Deletes some of what waits, ready or delayed.
-- KEYS: base of the queue. Returns how many were deleted, and 1 when there may be more.

local queue = queue_of(KEYS[1])
local moved = catch_up(queue, clock())
local names = {}

while #names < MOST do
  local member = redis.call('ZPOPMIN', queue.back)[1]
  if not member then break end
  names[#names + 1] = name_of(member:sub(12))
end
for priority = 9, 0, -1 do
  while #names < MOST do
    local records = redis.call('LPOP', queue.ready .. priority, math.min(50, MOST - #names))
    if not records then break end
    for _, record in ipairs(records) do names[#names + 1] = name_of(record) end
  end
end
if #names < MOST then
  local delayed = redis.call('ZRANGE', queue.delayed, 0, MOST - #names - 1)
  call('ZREM', queue.delayed, delayed)
  call('HDEL', queue.held, delayed)
  for _, name in ipairs(delayed) do names[#names + 1] = name end
end
forget(queue, names)
return { #names, (#names >= MOST or moved > 0) and 1 or 0 }
