-- Stores messages, except those whose name is stored already.
-- KEYS: base of the queue [, its bell]. ARGV: the names, framed, the records without the time, framed, and the delays
-- in seconds (doubles), or nothing when there are none. Returns how many workers are worth waking.

local queue, now = queue_of(KEYS[1]), clock()
local names, tails, delays = unframed(ARGV[1]), unframed(ARGV[2]), ARGV[3]

local stored, new, numbers, count = ask('SMISMEMBER', queue.ids, names), {}, {}, 0
for n = 1, #names do
  if stored[n] == 0 then
    count = count + 1
    new[count], numbers[count] = names[n], n
  end
end
if count == 0 then return 0 end

-- When some come twice in this batch, the first of them counts.
if remember_names(queue, new) < count then
  local seen, all = {}, numbers
  new, numbers = {}, {}
  for _, n in ipairs(all) do
    local name = names[n]
    if not seen[name] then
      seen[name] = true
      new[#new + 1], numbers[#numbers + 1] = name, n
    end
  end
end
remember_tries(queue, new)

local published = struct.pack('>d', now)
local ready, held, times, soon = {}, {}, {}, 0
for i = 1, #numbers do
  local n = numbers[i]
  local record, delay = published .. tails[n], delays ~= '' and struct.unpack('>d', delays, 8 * n - 7) or 0
  if delay > 0 then
    held[#held + 1], held[#held + 2] = names[n], record
    times[#times + 1], times[#times + 2] = now + delay, names[n]
    -- Who listens looks every two seconds anyway; for what comes due before that, someone has to know of it.
    if delay < LOOK then soon = 1 end
  else
    ready[#ready + 1] = record
  end
end

line_up(queue, ready)
call('HSET', queue.held, held)
call('ZADD', queue.delayed, times)
local wakes = math.max(#ready, soon)
ring(KEYS[2], wakes)
return wakes
