-- Answers questions about queues.
-- KEYS: bases of queues. ARGV: the question, and
--   sizes           returns for each queue: ready, delayed, leased, dead
--   find   ids framed   returns for each id the best of its states in these queues: 8 * attempt + 4 if alive + state,
--                   where the state is 0 ready, 1 delayed, 2 leased, 3 dead; -1 if there is none
--   peek   limit    returns of the first queue, packed: state (1 byte), delay (double), record

-- Most ids that are searched for one by one.
local FEW = 100

local now = clock()

local function waiting(queue)
  local ready = redis.call('ZCARD', queue.back)
  for priority = 0, 9 do ready = ready + redis.call('LLEN', queue.ready .. priority) end
  return ready
end

local function how_many(words)
  local number = 0
  for _, word in ipairs(words) do
    -- The bits of each pair, of each four, of each byte; the bytes are added up by the remainder.
    word = word - bit.band(bit.rshift(word, 1), 0x55555555)
    word = bit.band(word, 0x33333333) + bit.band(bit.rshift(word, 2), 0x33333333)
    number = number + bit.band(word + bit.rshift(word, 4), 0x0F0F0F0F) % 255
  end
  return number
end

-- How many messages are lent, and how many are in loans that are over.
local function borrowed(queue)
  local fields, on, over = redis.call('ZRANGE', queue.leased, 0, -1), 0, 0
  for n, token in ipairs(fields) do fields[n] = token .. 't' end
  for _, text in ipairs(ask('HMGET', queue.loans, fields)) do
    for _, term in ipairs(terms_in(text)) do
      if term.ends <= now then over = over + how_many(term.words) else on = on + how_many(term.words) end
    end
  end
  return on, over
end

local function sizes(queue)
  local delayed_past, leased, leased_past = redis.call('ZCOUNT', queue.delayed, '-inf', now), borrowed(queue)
  return {
    waiting(queue) + delayed_past + leased_past,
    redis.call('ZCARD', queue.delayed) - delayed_past,
    leased,
    redis.call('ZCARD', queue.dead),
  }
end

local function prints_of(queue, token)
  local prints, packed = redis.call('HGET', queue.loans, token .. 'p'), nil
  if not prints then packed = redis.call('HGET', queue.loans, token) end
  if packed then
    local each = cmsgpack.unpack(packed)
    each[1] = ''
    for n = 2, #each do each[n] = each[n]:sub(31, 34) end
    prints = table.concat(each)
    -- For the next who asks. A server that is full refuses, and he reads the loan himself.
    redis.pcall('HSET', queue.loans, token .. 'p', prints)
  end
  return prints or ''
end

-- Whether a loan has to be read to know which of these ids it lends; a few long ones are looked for in its prints.
local function may_lend(queue, token, ids)
  if #ids > FEW then return true end
  local prints = prints_of(queue, token)
  for _, id in ipairs(ids) do
    if #id < 17 or prints:find(id:sub(14, 17), 1, true) then return true end
  end
  return false
end

-- Names that are lent, as keys, those of `ids` among them. Only the loans know what they lend.
local function names_lent(queue, ids)
  local names = {}
  for _, token in ipairs(redis.call('ZRANGE', queue.leased, 0, -1)) do
    if may_lend(queue, token, ids) then
      local all = split(terms_of(queue, token), math.huge)
      for _, record in ipairs((lent(queue, token, all))) do names[name_of(record)] = true end
    end
  end
  return names
end

-- The newest attempt of an id speaks for it, and the living before the dead. `is_lent` says whether a name is lent.
local function find(queue, id, is_lent)
  local best = -1
  local function found(attempt, alive, state)
    best = math.max(best, 8 * attempt + (alive and 4 or 0) + state)
  end
  local function look_for(name, attempt)
    if redis.call('SISMEMBER', queue.ids, name) == 1 then
      local delayed = redis.call('ZSCORE', queue.delayed, name)
      found(attempt, true, delayed and 1 or is_lent(name) and 2 or 0)
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
  if #seen < limit then
    local some = redis.call('ZRANGE', queue.delayed, 0, limit - #seen - 1, 'WITHSCORES')
    for n = 1, #some, 2 do
      local left = math.max(0, tonumber(some[n + 1]) - now)
      show(left > 0 and 1 or 0, left, redis.call('HGET', queue.held, some[n]))
    end
  end
  if #seen < limit then
    for _, token in ipairs(redis.call('ZRANGE', queue.leased, 0, limit - #seen - 1)) do
      for _, term in ipairs(terms_of(queue, token)) do
        if #seen < limit then
          for _, record in ipairs((lent(queue, token, term.words))) do
            show(term.ends > now and 2 or 0, 0, charged(record))
          end
        end
      end
    end
  end
  return cmsgpack.pack(seen)
end

if ARGV[1] == 'peek' then return peek(queue_of(KEYS[1]), tonumber(ARGV[2])) end

local answers = {}
if ARGV[1] == 'sizes' then
  for n, base in ipairs(KEYS) do answers[n] = sizes(queue_of(base)) end
else
  local ids = unframed(ARGV[2])
  for n in ipairs(ids) do answers[n] = -1 end
  for _, base in ipairs(KEYS) do
    local queue, names = queue_of(base), nil
    -- First of all nobody holds what is over.
    catch_up(queue, now)
    local function is_lent(name)
      names = names or names_lent(queue, ids)
      return names[name]
    end
    for n, id in ipairs(ids) do answers[n] = math.max(answers[n], find(queue, id, is_lent)) end
  end
end
return answers
