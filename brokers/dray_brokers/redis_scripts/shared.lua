-- What the scripts of the queues share. Every script begins with this file, so all of them see the same state. For a
-- script that moves a single message it is a third of the work to get all this ready, so what only some need is elsewhere.
--
-- A queue has a base such as `dray:{emails}`. All of its keys begin with it, so a cluster keeps them on one node:
--   :ready:9 to :ready:0   lists of records by priority, the next one first
--   :back      sorted set, all scores 0, of records that were given back and come before all lists of their priority;
--              a member is the digit 9 - priority, the place and the record
--   :held      hash of records by name: what is delayed
--   :delayed   sorted set of names by when they come due
--   :loans     hash with the fields of each loan: by its token what it lends, by its token and "t" the terms, and, when
--              somebody has looked for an id, by its token and "p" the prints
--   :leased    sorted set of tokens by when the first of what the loan still holds comes back
--   :ids       set of the names of all of these
--   :tries     hash by id: the attempts above 0 among them, 4 bytes each
--   :dead      sorted set of the numbers of the letters
--   :letters   hash of letters by number: when buried (double), length of the reason (4 bytes), reason, record
--   :graves    hash by id: the numbers of its letters, separated by blanks
-- A message is always in one of ready, back, held, letters and the terms of one loan, and changes over within one script.
--
-- A record is, big-endian: published (double, by the clock of who did), deliveries (2), attempt (4), priority (1), length of the id (2), id, body.
-- A name is the id, and for a later attempt "\2", the attempt (4 bytes) and the id.
--
-- A loan is what one fetch takes from one queue; its token (8 bytes) is drawn by the consumer. Nothing is written for a
-- single message of it. What it lends never changes: an array of MessagePack, which Lua writes in one go, of a head and
-- the records, numbered from 0. A place orders what is given back as it was taken: time of the loan (double), number in
-- it (2). The head is the time and, for each record that has been given back before, its number (2) and that place (10).
-- The prints are bytes 31 to 34 of each record, where an id that is a UUID ends: who looks for one looks there first.
-- The terms say what the loan still holds, in groups that come back together: when (double), length of the mask (2),
-- mask. A mask has the bit n set for the message n, in words of 4 bytes, little-endian. Who settles a message clears its
-- bit; a bit that is not set is a loan that is over. A loan that holds nothing is deleted.
--
-- When Redis is full it refuses the first command that needs room, unless the script has already written something.
-- So whatever drains a queue removes first and adds afterwards; publish adds first, and is refused as a whole.

-- Most messages that change over in one call because their time has come, and most bytes that one call moves: a script
-- keeps everybody waiting, at 4 ms for a megabyte; and 16 times as much at once takes not 16 but 30 times as long.
local MOST, HEAVY = 1000, 1024 * 1024
-- Most rings kept for workers that are not listening, and for how long (ms).
local RINGS, RING_KEPT = 32, 5000
-- Within how many seconds who listens looks at the queues anyway: LOOK in redis_consumer.py.
local LOOK = 2.5
-- Lua takes no more arguments in one call than about 8000; even, because some come in pairs.
local ARGUMENTS = 4000

local key_of = {
  __index = function(queue, part)
    local key = queue.base .. ':' .. part
    queue[part] = key
    return key
  end,
}

-- The keys of a queue by their parts: `ids`, `held` and so on; `ready` wants its priority yet.
local function queue_of(base)
  return setmetatable({ base = base, ready = base .. ':ready:' }, key_of)
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

-- The texts that bytes carry, behind how many there are and the length of each.
local function unframed(frames)
  local texts, sub = {}, string.sub
  local count = struct.unpack('>I4', frames)
  local at = 5 + 4 * count
  for first = 1, count, ARGUMENTS do
    local some = math.min(ARGUMENTS, count - first + 1)
    local lengths = { struct.unpack('>' .. ('I4'):rep(some), frames, 4 * first + 1) }
    for n = 1, some do
      local after = at + lengths[n]
      texts[first + n - 1] = sub(frames, at, after - 1)
      at = after
    end
  end
  return texts
end

-- Which messages are stored.

local function later_name(attempt, id)
  return '\2' .. struct.pack('>I4', attempt) .. id
end

-- Adds a message to those that are stored; returns its name, or nothing when it was there already.
local function remember(queue, attempt, id)
  local name = attempt == 0 and id or later_name(attempt, id)
  if redis.call('SADD', queue.ids, name) == 0 then return nil end
  if attempt > 0 then
    local others = redis.call('HGET', queue.tries, id) or ''
    redis.call('HSET', queue.tries, id, others .. struct.pack('>I4', attempt))
  end
  return name
end

-- Waking workers.

-- Lets up to `times` workers look at once. A ring is a hint and no more: who is not listening hears it later, and one
-- that is lost with its hearer costs the time until the next look. Without a bell the client rings (in a cluster).
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
