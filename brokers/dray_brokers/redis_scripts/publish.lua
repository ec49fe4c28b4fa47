-- Stores messages, except those whose name is stored already.
-- KEYS: base of the queue [, its bell]. ARGV: the delays in seconds (doubles), or nothing when there are none; and the
-- records, each by itself, for each text that is made in Lua costs by the byte. Returns how many workers are worth waking.

local queue, delays, read = queue_of(KEYS[1]), ARGV[1], struct.unpack
local now, held, times, lines, ready, soon = delays ~= '' and clock(), {}, {}, {}, 0, 0

-- All that is done for each single message: it has to be cheap.
for n = 2, #ARGV do
  local record = ARGV[n]
  local attempt, priority, id = read('>I4BI2c0', record, 11)
  local name = remember(queue, attempt, id)
  if name then
    local delay = now and read('>d', delays, 8 * n - 15) or 0
    if delay > 0 then
      held[#held + 1], held[#held + 2] = name, record
      times[#times + 1], times[#times + 2] = now + delay, name
      -- Who listens looks every few seconds anyway (LOOK); for what comes due before that, someone has to know of it.
      if delay < LOOK then soon = 1 end
    else
      local line = lines[priority]
      if line then line[#line + 1] = record else lines[priority] = { record } end
      ready = ready + 1
    end
  end
end

for priority, line in pairs(lines) do call('RPUSH', queue.ready .. priority, line) end
if held[1] then
  call('HSET', queue.held, held)
  call('ZADD', queue.delayed, times)
end
local wakes = math.max(ready, soon)
ring(KEYS[2], wakes)
return wakes
