-- What `hold` and `let_go` share: who holds the places of a partition, kept as `dray.Store` keeps it.

-- Seconds for which it is remembered which token was given out last.
local TOKENS_KEPT = 7 * 86400

local now = clock()

-- The last token given out, and by holder { token, until when }, without the places whose time is up; and how many.
local function places_of(part)
  local kept = call('HGET', part, 'places')
  if not kept then return 0, {}, 0 end
  local last, all = unpack(cmsgpack.unpack(kept))
  local held, count = {}, 0
  for holder, place in pairs(all) do
    if place[2] > now then
      held[holder] = place
      count = count + 1
    end
  end
  return last, held, count
end

local function keep(part, last, held)
  -- An empty table would be written as an array.
  local places = next(held) and cmsgpack.pack(held) or '\128'
  call('HSET', part, 'places', '\146' .. cmsgpack.pack(last) .. places)
  local longest = 0
  for _, place in pairs(held) do longest = math.max(longest, place[2] - now) end
  keep_for(part, longest + TOKENS_KEPT)
end
