-- What the scripts of the queues share. Every script is this file and one other, so all of them see the same state:
--
-- A queue has a base such as `dray:{emails}`. All of its keys begin with it, so a cluster keeps them on one node:
--   :ready:9 to :ready:0   lists of records by priority, the next one first
--   :back      sorted set, all scores 0, of records that were given back and come before all lists of their priority;
--              a member is the digit 9 - priority, the place and the record
--   :held      hash of records by name: what is delayed or lent
--   :delayed   sorted set of names by when they come due
--   :leased    sorted set of receipts by when the loan ends; a receipt is the token, the place and the name
--   :ids       set of the names of all of these
--   :tries     hash by id: the attempts above 0 among them, 4 bytes each
--   :dead      sorted set of the numbers of the letters
--   :letters   hash of letters by number: when buried (double), length of the reason (4 bytes), reason, record
--   :graves    hash by id: the numbers of its letters, separated by blanks
-- A message is always in one of ready, back, held and letters, and changes over within one script.
--
-- A record is, big-endian: published (double), deliveries (2), attempt (4), priority (1), length of the id (2), id, body.
-- A name is the id, and for a later attempt "\2", the attempt (4 bytes) and the id. A token (8 bytes) is drawn by
-- the consumer for each fetch; a place (10 bytes) orders what is given back as it was taken.
--
-- When Redis is full it refuses the first command that needs room, unless the script has already written something.
-- So whatever drains a queue removes first and adds afterwards; publish adds first, and is refused as a whole.

-- Most messages that change over in one call because their time has come, and most bytes that one call moves.
local MOST, HEAVY = 1000, 16 * 1024 * 1024
-- Most rings kept for workers that are not listening, and for how long (ms).
local RINGS, RING_KEPT = 32, 5000
-- Lua takes no more arguments in one call than about 8000; even, because some come in pairs.
local ARGUMENTS = 4000

local function queue_of(base)
  return {
    ready = base .. ':ready:', back = base .. ':back', held = base .. ':held', delayed = base .. ':delayed',
    leased = base .. ':leased', ids = base .. ':ids', tries = base .. ':tries',
    dead = base .. ':dead', letters = base .. ':letters', graves = base .. ':graves',
  }
end

-- Seconds since 1970, by the server.
local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

-- Calls a command that returns nothing of interest with any number of arguments.
local function call(command, key, arguments)
  for first = 1, #arguments, ARGUMENTS do
    redis.call(command, key, unpack(arguments, first, math.min(first + ARGUMENTS - 1, #arguments)))
  end
end

-- The same for commands that answer one value for each argument.
local function ask(command, key, arguments)
  if #arguments <= ARGUMENTS then
    return #arguments > 0 and redis.call(command, key, unpack(arguments)) or {}
  end
  local answers = {}
  for first = 1, #arguments, ARGUMENTS do
    local last = math.min(first + ARGUMENTS - 1, #arguments)
    for _, answer in ipairs(redis.call(command, key, unpack(arguments, first, last))) do
      answers[#answers + 1] = answer
    end
  end
  return answers
end

-- Bytes that carry texts, each behind its length, and the texts they carry.
local function framed(texts)
  local frames = {}
  for _, text in ipairs(texts) do
    frames[#frames + 1] = struct.pack('>I4', #text)
    frames[#frames + 1] = text
  end
  return table.concat(frames)
end

local function unframed(frames)
  local texts, text, at = {}, nil, 1
  while at <= #frames do
    text, at = struct.unpack('>I4c0', frames, at)
    texts[#texts + 1] = text
  end
  return texts
end

local function id_of(record)
  return (struct.unpack('>I2c0', record, 16))
end

local function later_name(attempt, id)
  return '\2' .. struct.pack('>I4', attempt) .. id
end

local function name_in(receipt)
  return receipt:sub(19)
end

local function name_of(record)
  local attempt, _, id = struct.unpack('>I4BI2c0', record, 11)
  return attempt == 0 and id or later_name(attempt, id)
end

local function priority_of(record)
  return record:byte(15)
end

local function deliveries_of(record)
  return (struct.unpack('>I2', record, 9))
end

local function delivered(record, times)
  return record:sub(1, 8) .. struct.pack('>I2', math.min(times, 65535)) .. record:sub(11)
end

-- Which messages are stored.

local function remember(queue, names)
  call('SADD', queue.ids, names)
  for _, name in ipairs(names) do
    if name:byte(1) == 2 then
      local id = name:sub(6)
      redis.call('HSET', queue.tries, id, (redis.call('HGET', queue.tries, id) or '') .. name:sub(2, 5))
    end
  end
end

local function forget(queue, names)
  call('SREM', queue.ids, names)
  for _, name in ipairs(names) do
    if name:byte(1) == 2 then
      local id, left = name:sub(6), ''
      for attempt in (redis.call('HGET', queue.tries, id) or ''):gmatch('....') do
        if attempt ~= name:sub(2, 5) then left = left .. attempt end
      end
      if left == '' then redis.call('HDEL', queue.tries, id) else redis.call('HSET', queue.tries, id, left) end
    end
  end
end

-- Waking workers.

-- Lets up to `times` workers look at once. A ring is a hint and no more: who is not listening hears it later, and one
-- that is lost with its hearer costs the second until the next look. Without a bell the client rings (in a cluster).
local function ring(bell, times)
  if bell and times > 0 then
    times = math.min(times, RINGS - redis.call('LLEN', bell))
    if times > 0 then
      local rings = {}
      for n = 1, times do rings[n] = '1' end
      redis.call('RPUSH', bell, unpack(rings))
      redis.call('PEXPIRE', bell, RING_KEPT)
    end
  end
end

-- Moving messages.

-- Puts records in line behind all others of their priority.
local function line_up(queue, records)
  local lines = {}
  for _, record in ipairs(records) do
    local priority = priority_of(record)
    local line = lines[priority]
    if not line then
      line = {}
      lines[priority] = line
    end
    line[#line + 1] = record
  end
  for priority, line in pairs(lines) do
    call('RPUSH', queue.ready .. priority, line)
  end
end

-- The records of these names. What somebody has deleted by hand, or Redis for want of room, is forgotten.
local function held_by(queue, names)
  local records = {}
  for n, record in ipairs(ask('HMGET', queue.held, names)) do
    if record then records[#records + 1] = record else forget(queue, { names[n] }) end
  end
  return records
end

-- Puts in line what has waited long enough in `times`: `name` reads a member, `change` a record. Returns how many.
local function come_due(queue, times, now, name, change)
  local moved, weight = 0, 0
  while moved < MOST and weight < HEAVY do
    local due = redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, 50)
    if #due == 0 then break end
    redis.call('ZREM', times, unpack(due))
    local names = {}
    for n, member in ipairs(due) do names[n] = name(member) end
    local records = held_by(queue, names)
    redis.call('HDEL', queue.held, unpack(names))
    for n, record in ipairs(records) do
      records[n] = change(record)
      weight = weight + #record
    end
    line_up(queue, records)
    moved = moved + #due
  end
  return moved
end

local function unchanged(text)
  return text
end

-- A loan that has run out was a delivery: here it is written down as one.
local function charged(record)
  return delivered(record, deliveries_of(record) + 1)
end

-- Puts in line all delays and loans that are over. Whoever looks at a queue does this, so there is no reaper to die.
local function catch_up(queue, now)
  return come_due(queue, queue.delayed, now, unchanged, unchanged)
    + come_due(queue, queue.leased, now, name_in, charged)
end
