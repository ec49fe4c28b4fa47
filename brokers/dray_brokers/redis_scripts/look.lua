-- Answers questions about queues.
-- KEYS: bases of queues. ARGV: the question, and
--   sizes           returns for each queue: ready, delayed, leased, dead
--   find   ids framed   returns for each id the best of its states in these queues: 8 * attempt + 4 if alive + state,
--                   where the state is 0 ready, 1 delayed, 2 leased, 3 dead; -1 if there is none
--   peek   limit    returns of the first queue, framed: state (1 byte), delay (double), record

local now = clock()

local function waiting(queue)
  local ready = redis.call('ZCARD', queue.back)
  for priority = 0, 9 do ready = ready + redis.call('LLEN', queue.ready .. priority) end
  return ready
end

local function sizes(queue)
  local delayed_past, leased_past = redis.call('ZCOUNT', queue.delayed, '-inf', now),
    redis.call('ZCOUNT', queue.leased, '-inf', now)
  return {
    waiting(queue) + delayed_past + leased_past,
    redis.call('ZCARD', queue.delayed) - delayed_past,
    redis.call('ZCARD', queue.leased) - leased_past,
    redis.call('ZCARD', queue.dead),
  }
end

-- The newest attempt of an id speaks for it, and the living before the dead.
local function find(queue, id)
  local best = -1
  local function found(attempt, alive, state)
    best = math.max(best, 8 * attempt + (alive and 4 or 0) + state)
  end
  local function look_for(name, attempt)
    if redis.call('SISMEMBER', queue.ids, name) == 1 then
      local delayed = redis.call('ZSCORE', queue.delayed, name)
      found(attempt, true, delayed and 1 or redis.call('HEXISTS', queue.held, name) == 1 and 2 or 0)
    end
  end
  look_for(id, 0)
  for attempt in (redis.call('HGET', queue.tries, id) or ''):gmatch('....') do
    look_for('\2' .. attempt .. id, (struct.unpack('>I4', attempt)))
  end
  for number in (redis.call('HGET', queue.graves, id) or ''):gmatch('%d+') do
    local letter = redis.call('HGET', queue.letters, number)
    if letter then
      local start = 13 + struct.unpack('>I4', letter, 9)
      found((struct.unpack('>I4', letter, start + 10)), false, 3)
    end
  end
  return best
end

local function peek(queue, limit)
  local seen = {}
  local function show(state, delay, record)
    if record and #seen < limit then
      seen[#seen + 1] = string.char(state) .. struct.pack('>d', delay) .. record
    end
  end
  local back, at = redis.call('ZRANGE', queue.back, 0, limit - 1), 1
  for priority = 9, 0, -1 do
    while back[at] and back[at]:byte(1) == 57 - priority do
      show(0, 0, back[at]:sub(12))
      at = at + 1
    end
    if #seen < limit then
      for _, record in ipairs(redis.call('LRANGE', queue.ready .. priority, 0, limit - #seen - 1)) do
        show(0, 0, record)
      end
    end
  end
  for state, times in ipairs({ queue.delayed, queue.leased }) do
    if #seen < limit then
      local some = redis.call('ZRANGE', times, 0, limit - #seen - 1, 'WITHSCORES')
      for n = 1, #some, 2 do
        local name = state == 2 and name_in(some[n]) or some[n]
        local left, record = tonumber(some[n + 1]) - now, redis.call('HGET', queue.held, name)
        if state == 2 and record then record = charged(record) end
        show(left > 0 and state or 0, state == 1 and math.max(0, left) or 0, record)
      end
    end
  end
  return framed(seen)
end

if ARGV[1] == 'peek' then return peek(queue_of(KEYS[1]), tonumber(ARGV[2])) end

local answers = {}
if ARGV[1] == 'sizes' then
  for n, base in ipairs(KEYS) do answers[n] = sizes(queue_of(base)) end
else
  -- Who holds a name is told by its receipt only; so first of all nobody holds what is over.
  for _, base in ipairs(KEYS) do catch_up(queue_of(base), now) end
  for n, id in ipairs(unframed(ARGV[2])) do
    answers[n] = -1
    for _, base in ipairs(KEYS) do answers[n] = math.max(answers[n], find(queue_of(base), id)) end
  end
end
return answers
