-- Lends messages of one or several queues, in their order.
-- KEYS: the bases of n queues [, their n bells, the marks of the cancelled ones].
-- ARGV: n, most messages, seconds of the loan, token (8 bytes).
-- Returns how long nothing will change by itself (ms; -1: for ever; 0 when something was lent), the numbers of the lent
-- messages that are cancelled, and for each queue framed: place and record.

local n, limit, lease, token = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local marks = KEYS[2 * n + 1]
if marks and redis.call('EXISTS', marks) == 0 then marks = nil end
local now = clock()
local ends = string.format('%.6f', now + lease) -- as text: a number would be written out anew for each message
-- A place is the time of the loan and its number in this call.
local time, number, weight = struct.pack('>d', math.floor(now * 1e6)), 0, 0
local ids = {}

local function lend(record, place, batch)
  number = number + 1
  weight = weight + #record
  place = place or time .. struct.pack('>I2', number)
  local attempt, _, id = struct.unpack('>I4BI2c0', record, 11)
  local name = attempt == 0 and id or later_name(attempt, id)
  if marks then ids[number] = id end
  local at = 2 * #batch.frames / 3
  batch.held[at + 1], batch.held[at + 2] = name, record
  batch.times[at + 1], batch.times[at + 2] = ends, token .. place .. name
  at = #batch.frames
  batch.frames[at + 1], batch.frames[at + 2], batch.frames[at + 3] = struct.pack('>I4', 10 + #record), place, record
end

-- Takes from the head of a line; in small steps until it is known how heavy its records are.
local function take_from(line, batch)
  local step = 4
  while number < limit and weight < HEAVY do
    local popped = redis.call('LPOP', line, math.min(step, limit - number))
    if not popped then return end
    for _, record in ipairs(popped) do lend(record, nil, batch) end
    step = math.max(1, math.floor(HEAVY / (weight / number + 1)))
  end
end

local function take(queue)
  local batch = { held = {}, times = {}, frames = {} }
  local back, used, at, read, more = {}, {}, 1, 0, true
  local function next_back()
    if at > #back and more then
      back = redis.call('ZRANGE', queue.back, read, read + 49)
      at, read, more = 1, read + #back, #back == 50
    end
    return back[at]
  end
  for priority = 9, 0, -1 do
    while number < limit and weight < HEAVY do
      local member = next_back()
      if not member or member:byte(1) ~= 57 - priority then break end
      at = at + 1
      used[#used + 1] = member
      lend(member:sub(12), member:sub(2, 11), batch)
    end
    take_from(queue.ready .. priority, batch)
  end
  call('ZREM', queue.back, used)
  call('HSET', queue.held, batch.held)
  call('ZADD', queue.leased, batch.times)
  return table.concat(batch.frames)
end

local function next_change(queue)
  local soonest
  for _, times in ipairs({ queue.delayed, queue.leased }) do
    local first = redis.call('ZRANGE', times, 0, 0, 'WITHSCORES')
    if first[2] and (not soonest or tonumber(first[2]) < soonest) then soonest = tonumber(first[2]) end
  end
  return soonest
end

local lent, soonest = {}, nil
for index = 1, n do
  local queue, bell = queue_of(KEYS[index]), KEYS[n + index]
  if number < limit and weight < HEAVY then
    ring(bell, catch_up(queue, now))
    lent[index] = take(queue)
    -- The queue is empty: all rings until now were for what somebody has taken.
    if bell and number < limit and weight < HEAVY then redis.call('DEL', bell) end
  else
    lent[index] = ''
  end
  if number == 0 then
    local change = next_change(queue)
    if change and (not soonest or change < soonest) then soonest = change end
  end
end

local cancelled = {}
if marks then
  for i, mark in ipairs(ask('ZMSCORE', marks, ids)) do
    if mark and tonumber(mark) > now then cancelled[#cancelled + 1] = i end
  end
end
local quiet = number > 0 and 0 or soonest and math.max(0, math.ceil((soonest - now) * 1000)) or -1
return { quiet, cancelled, unpack(lent) }
