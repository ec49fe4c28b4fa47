-- Shows dead letters, brings them back to life, or throws them away.
-- KEYS: base of the queue [, its bell].
-- ARGV: show, replay or discard; most letters; number after which to begin [; ids, framed: only theirs].
-- Returns the number of the last letter looked at (0: there is none left), how many were moved, and when shown, they,
-- packed.

local queue, verb, most, after = queue_of(KEYS[1]), ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function of_ids(ids)
  local all, seen = {}, {}
  for _, id in ipairs(ids) do
    for text in (redis.call('HGET', queue.graves, id) or ''):gmatch('%d+') do
      local number = tonumber(text)
      if number > after and not seen[number] then
        seen[number] = true
        all[#all + 1] = number
      end
    end
  end
  table.sort(all)
  return { unpack(all, 1, math.min(#all, most)) }
end

local function remove(number, id)
  local left = ''
  for other in redis.call('HGET', queue.graves, id):gmatch('%d+') do
    if tonumber(other) ~= number then left = left .. other .. ' ' end
  end
  redis.call('ZREM', queue.dead, number)
  redis.call('HDEL', queue.letters, number)
  if left == '' then redis.call('HDEL', queue.graves, id) else redis.call('HSET', queue.graves, id, left) end
end

local numbers
if ARGV[4] then
  numbers = of_ids(unframed(ARGV[4]))
else
  numbers = redis.call('ZRANGEBYSCORE', queue.dead, '(' .. after, '+inf', 'LIMIT', 0, most)
end

local shown, moved, last = {}, 0, 0
for _, number in ipairs(numbers) do
  last = tonumber(number)
  local letter = redis.call('HGET', queue.letters, number)
  if letter then
    local record = letter:sub(13 + struct.unpack('>I4', letter, 9))
    if verb == 'show' then
      shown[#shown + 1] = letter
    elseif verb == 'discard' then
      remove(last, id_of(record))
      moved = moved + 1
    -- One whose name has been published again meanwhile stays dead: it must not run twice.
    elseif redis.call('SISMEMBER', queue.ids, name_of(record)) == 0 then
      remove(last, id_of(record))
      local attempt, _, id = struct.unpack('>I4BI2c0', record, 11)
      remember(queue, attempt, id)
      line_up(queue, { delivered(record, 0) })
      moved = moved + 1
    end
  end
end
if verb == 'replay' then ring(KEYS[2], moved) end
return { last, moved, cmsgpack.pack(shown) }
