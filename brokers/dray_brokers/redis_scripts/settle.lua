-- Ends loans of messages, or renews them.
-- KEYS: base of the queue [, its bell]. ARGV: what to do, a detail, and for each loan: its token, the mask of the
-- messages, and for ack their names, framed. What to do, and the detail:
--   ack
--   requeue   seconds of delay        behind all others, charged
--   release                           in the old place, not charged
--   return                            in the old place, charged
--   bury      reason
--   extend    seconds from now
-- Returns how many workers are worth waking, and for each loan the mask of those whose loan was over.

local queue, verb, detail = queue_of(KEYS[1]), ARGV[1], ARGV[2]

-- Clears the bits of a mask in all terms. Returns those that were set, those that were not, and how it was.
local function clear(terms, asked)
  local got, gone, some, all = {}, {}, false, true
  for k, wanted in ipairs(asked) do
    local left = wanted
    for _, term in ipairs(terms) do
      local word = term.words[k] or 0
      local common = bit.band(left, word)
      term.words[k] = bit.bxor(word, common)
      left = bit.bxor(left, common)
    end
    got[k], gone[k] = bit.bxor(wanted, left), left
    some, all = some or got[k] ~= 0, all and left == 0
  end
  return got, gone, some, all
end

local function bury(records)
  local last = redis.call('ZREVRANGE', queue.dead, 0, 0)[1]
  local number, head = tonumber(last or 0), struct.pack('>dI4', clock(), #detail) .. detail
  for _, record in ipairs(records) do
    number = number + 1
    local id = id_of(record)
    redis.call('ZADD', queue.dead, number, number)
    redis.call('HSET', queue.letters, number, head .. charged(record))
    redis.call('HSET', queue.graves, id, (redis.call('HGET', queue.graves, id) or '') .. number .. ' ')
  end
end

local function delay(records)
  local due, held, times = clock() + tonumber(detail), {}, {}
  for _, record in ipairs(records) do
    local name = name_of(record)
    held[#held + 1], held[#held + 2] = name, charged(record)
    times[#times + 1], times[#times + 2] = due, name
  end
  call('HSET', queue.held, held)
  call('ZADD', queue.delayed, times)
  -- As in publish: whoever listens looks in time for all others.
  return tonumber(detail) < LOOK and 1 or 0
end

local function send_to_the_end(records)
  for n, record in ipairs(records) do records[n] = charged(record) end
  line_up(queue, records)
  return #records
end

local function put_back(records, places)
  local members = {}
  for n, record in ipairs(records) do
    if verb == 'return' then record = charged(record) end
    members[#members + 1], members[#members + 2] = 0, string.char(57 - priority_of(record)) .. places[n] .. record
  end
  call('ZADD', queue.back, members)
  return #records
end

local lost, records, places = {}, {}, {}
-- Rounded up, so that who renews one by one does not make a group of each.
local ends = verb == 'extend' and math.ceil((clock() + tonumber(detail)) * 50) / 50
for at = 3, #ARGV, 3 do
  local token = ARGV[at]
  local terms = terms_of(queue, token)
  local got, gone, some, all = clear(terms, words_of(ARGV[at + 1]))
  lost[#lost + 1] = all and '' or mask_of(gone)
  if some then
    if verb == 'extend' then
      terms[#terms + 1] = { ends = ends, words = got }
    elseif verb == 'ack' and all then
      forget(queue, unframed(ARGV[at + 2]))
    else
      local its_records, numbers, head = lent(queue, token, got)
      local its_places = places_of(head, numbers)
      for n, record in ipairs(its_records) do
        records[#records + 1], places[#places + 1] = record, its_places[n]
      end
    end
    keep(queue, token, terms)
  end
end

local wakes = 0
if #records > 0 then
  if verb == 'ack' or verb == 'bury' then forget(queue, names_of(records)) end
  if verb == 'bury' then
    bury(records)
  elseif verb == 'requeue' then
    wakes = (tonumber(detail) > 0 and delay or send_to_the_end)(records)
  elseif verb ~= 'ack' then
    wakes = put_back(records, places)
  end
  ring(KEYS[2], wakes)
end
return { wakes, lost }
