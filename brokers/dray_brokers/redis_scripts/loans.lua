-- Loans, and what comes back by itself when its time has come: for the scripts that lend, settle, count and delete. The
-- layout is at the head of shared.lua, which comes before this file.

-- Puts in line what has been delayed long enough. Returns how many.
local function end_delays(queue, now)
  local moved, weight = 0, 0
  while moved < MOST and weight < HEAVY do
    local due = redis.call('ZRANGEBYSCORE', queue.delayed, '-inf', now, 'LIMIT', 0, 50)
    if #due == 0 then break end
    redis.call('ZREM', queue.delayed, unpack(due))
    local records = held_by(queue, due)
    redis.call('HDEL', queue.held, unpack(due))
    for _, record in ipairs(records) do weight = weight + #record end
    line_up(queue, records)
    moved = moved + #due
  end
  return moved
end

-- Loans.

local function words_of(mask)
  local words = { struct.unpack('<' .. ('i4'):rep(#mask / 4), mask) }
  words[#words] = nil -- where the mask ends
  return words
end

local function mask_of(words)
  return struct.pack('<' .. ('i4'):rep(#words), unpack(words))
end

local function holds(words)
  for _, word in ipairs(words) do
    if word ~= 0 then return true end
  end
  return false
end

local function terms_in(text)
  local terms, at = {}, 1
  while text and at <= #text do
    local ends, mask
    ends, mask, at = struct.unpack('>dI2c0', text, at)
    terms[#terms + 1] = { ends = ends, words = words_of(mask) }
  end
  return terms
end

-- The terms of a loan: none when it is over.
local function terms_of(queue, token)
  return terms_in(redis.call('HGET', queue.loans, token .. 't'))
end

-- What of a loan is over, and the terms of the rest.
local function split(terms, now)
  local over, on = {}, {}
  for _, term in ipairs(terms) do
    if term.ends <= now then
      for k, word in ipairs(term.words) do over[k] = bit.bor(over[k] or 0, word) end
    else
      on[#on + 1] = term
    end
  end
  return over, on
end

-- Terms as they are kept, and when the first group of them comes back; nothing when they hold nothing.
local function written(terms)
  local groups, soonest = {}, nil
  for _, term in ipairs(terms) do
    if holds(term.words) then
      local mask = mask_of(term.words)
      groups[#groups + 1] = struct.pack('>dI2', term.ends, #mask) .. mask
      soonest = math.min(soonest or term.ends, term.ends)
    end
  end
  return table.concat(groups), soonest
end

-- Keeps what is left of a loan. Removes before it adds.
local function keep(queue, token, terms)
  local text, soonest = written(terms)
  if soonest then
    redis.call('HDEL', queue.loans, token .. 't')
    redis.call('HSET', queue.loans, token .. 't', text)
    redis.call('ZADD', queue.leased, soonest, token)
  else
    redis.call('HDEL', queue.loans, token, token .. 't', token .. 'p')
    redis.call('ZREM', queue.leased, token)
  end
end

-- The records of a loan that `words` choose, their numbers, and its head. What somebody has deleted by hand is not there.
local function lent(queue, token, words)
  local packed, records, numbers, n = redis.call('HGET', queue.loans, token), {}, {}, 0
  if not packed then return records, numbers, '' end
  local loan, band, lshift = cmsgpack.unpack(packed), bit.band, bit.lshift
  for number = 0, #loan - 2 do
    local i = number % 32
    if band(words[(number - i) / 32 + 1] or 0, lshift(1, i)) ~= 0 then
      n = n + 1
      records[n], numbers[n] = loan[number + 2], number
    end
  end
  return records, numbers, loan[1]
end

-- The places of these numbers of a loan, out of its head.
local function places_of(head, numbers)
  local places, own, time = {}, {}, head:sub(1, 8)
  for at = 9, #head, 12 do
    local number, place = struct.unpack('>I2c10', head, at)
    own[number] = place
  end
  for n, number in ipairs(numbers) do places[n] = own[number] or time .. struct.pack('>I2', number) end
  return places
end

-- A loan that has run out was a delivery: here it is written down as one.
local function charged(record)
  return delivered(record, deliveries_of(record) + 1)
end

-- Puts in line what was lent for a time that is over. Returns how many.
local function end_loans(queue, now)
  local moved, weight = 0, 0
  while moved < MOST and weight < HEAVY do
    local token = redis.call('ZRANGEBYSCORE', queue.leased, '-inf', now, 'LIMIT', 0, 1)[1]
    if not token then break end
    local over, on = split(terms_of(queue, token), now)
    local records = lent(queue, token, over)
    for n, record in ipairs(records) do
      records[n] = charged(record)
      weight = weight + #record
    end
    keep(queue, token, on)
    line_up(queue, records)
    moved = moved + #records
  end
  return moved
end

-- Puts in line all delays and loans that are over. Whoever looks at a queue does this, so there is no reaper to die.
local function catch_up(queue, now)
  return end_delays(queue, now) + end_loans(queue, now)
end
