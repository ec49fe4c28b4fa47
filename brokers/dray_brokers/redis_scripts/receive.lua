-- Lends messages of one or several queues, in their order.
-- KEYS: the bases of n queues [, their n bells, the marks of the cancelled ones].
-- ARGV: n, most messages, seconds of the loan, token (8 bytes).
-- Returns how long nothing more will be there by itself (ms; -1: for ever; 0: there may be more now), the numbers of the
-- lent messages that are cancelled, and for each queue what was lent of it, packed as it is kept, or nothing.

local n, limit, lease, token = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local marks = KEYS[2 * n + 1]
if marks and redis.call('EXISTS', marks) == 0 then marks = nil end
local now = clock()
local time = struct.pack('>d', math.floor(now * 1e6))
local number, weight, ids = 0, 0, {}

-- Most records that are taken at once: those behind small ones may be large, and nobody knows before.
local STEP = 64

-- Takes from the head of a line: one, and then as many at a time as those before say can be had.
local function take_from(line, loan)
  local step, last = 1, #loan
  while number < limit and weight < HEAVY do
    local wanted = math.min(step, limit - number)
    local popped = redis.call('LPOP', line, wanted)
    if not popped then return end
    -- All that is done for each single message: it has to be cheap.
    for i = 1, #popped do
      local record = popped[i]
      loan[last + i] = record
      weight = weight + #record
    end
    number, last = number + #popped, last + #popped
    if #popped < wanted then return end
    step = math.max(1, math.min(STEP, math.floor((HEAVY - weight) / (weight / number + 1))))
  end
end

local function take(queue)
  local loan, places = { time }, {}
  local back, used, at, read, more = {}, {}, 1, 0, true
  local function next_back()
    if at > #back and more then
      back = redis.call('ZRANGE', queue.back, read, read + 49)
      at, read, more = 1, read + #back, #back == 50
    end
    return back[at]
  end
  local lines = {}
  for priority = 9, 1, -1 do lines[10 - priority] = queue.ready .. priority end
  local urgent = redis.call('EXISTS', unpack(lines)) > 0
  for priority = 9, 0, -1 do
    while number < limit and weight < HEAVY do
      local member = next_back()
      if not member or member:byte(1) ~= 57 - priority then break end
      at, number, weight = at + 1, number + 1, weight + #member
      used[#used + 1] = member
      places[#places + 1] = struct.pack('>I2', #loan - 1) .. member:sub(2, 11)
      loan[#loan + 1] = member:sub(12)
    end
    if urgent or priority == 0 then take_from(queue.ready .. priority, loan) end
  end
  call('ZREM', queue.back, used)
  if used[1] then loan[1] = time .. table.concat(places) end
  return loan
end

local function lend(queue, loan)
  local count, words = #loan - 1, {}
  if marks then
    for n = 2, #loan do ids[#ids + 1] = id_of(loan[n]) end
  end
  for first = 0, count - 1, 32 do
    words[#words + 1] = count - first >= 32 and -1 or bit.rshift(-1, 32 - count + first)
  end
  local packed, ends = cmsgpack.pack(loan), now + lease
  redis.call('HSET', queue.loans, token, packed, token .. 't', (written({ { ends = ends, words = words } })))
  redis.call('ZADD', queue.leased, ends, token)
  return packed
end

local function next_change(queue)
  local soonest
  for _, times in ipairs({ queue.delayed, queue.leased }) do
    local first = redis.call('ZRANGE', times, 0, 0, 'WITHSCORES')
    if first[2] and (not soonest or tonumber(first[2]) < soonest) then soonest = tonumber(first[2]) end
  end
  return soonest
end

-- Whether more could be lent: then every queue that was looked at is empty.
local function has_room() return number < limit and weight < HEAVY end

local loans, soonest = {}, nil
for index = 1, n do
  local queue, bell = queue_of(KEYS[index]), KEYS[n + index]
  loans[index] = ''
  if has_room() then
    ring(bell, catch_up(queue, now))
    local loan = take(queue)
    if #loan > 1 then loans[index] = lend(queue, loan) end
    -- The queue is empty: all rings until now were for what somebody has taken.
    if bell and has_room() then redis.call('DEL', bell) end
  end
  if has_room() then
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
local quiet = not has_room() and 0 or soonest and math.max(0, math.ceil((soonest - now) * 1000)) or -1
return { quiet, cancelled, unpack(loans) }
