-- Stores messages, except those whose name is stored already.
-- KEYS: base of the queue [, its bell]. ARGV: the messages, each: length of the rest (4 bytes), delay in seconds
-- (double), and the record from its deliveries on. Returns how many workers are worth waking.

local queue, now = queue_of(KEYS[1]), clock()
local published = struct.pack('>d', now)
local names, records, delays = {}, {}, {}
local at, batch = 1, ARGV[1]
while at <= #batch do
  local size, delay, _, attempt, _, id = struct.unpack('>I4dI2I4BI2c0', batch, at)
  names[#names + 1] = attempt == 0 and id or later_name(attempt, id)
  records[#records + 1] = published .. batch:sub(at + 12, at + 3 + size)
  delays[#delays + 1] = delay
  at = at + 4 + size
end

local new, ready, held, times, soon = {}, {}, {}, {}, 0
local stored, seen = ask('SMISMEMBER', queue.ids, names), {}
for n, name in ipairs(names) do
  if stored[n] == 0 and not seen[name] then
    seen[name] = true
    new[#new + 1] = name
    if delays[n] > 0 then
      held[#held + 1], held[#held + 2] = name, records[n]
      times[#times + 1], times[#times + 2] = now + delays[n], name
      -- Who listens looks once a second anyway; for what comes due before that, someone has to know of it.
      if delays[n] < 1 then soon = 1 end
    else
      ready[#ready + 1] = records[n]
    end
  end
end
if #new == 0 then return 0 end

remember(queue, new)
line_up(queue, ready)
call('HSET', queue.held, held)
call('ZADD', queue.delayed, times)
local wakes = math.max(#ready, soon)
ring(KEYS[2], wakes)
return wakes
