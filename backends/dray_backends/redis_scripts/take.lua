-- Takes tokens out of buckets, by the rule of `dray.Store.take`.
-- Asked: for each wish: the partition, seconds for one token, size of the bucket, tokens, seconds it may be reserved
-- beforehand. Returns the waits in seconds, separated by blanks.

-- Seconds for which a full bucket is remembered.
local BUCKET_KEPT = 60

local now, waits = clock(), {}
for n = 1, #asked do
  local name, every, burst, cost, ahead = unpack(asked[n])
  local part = key_of(name)
  local full = call('HGET', part, 'full')
  local filling = math.max(0, (full and tonumber(full) or now) - now) + cost * every
  -- What is a millionth of a second away is there.
  local wait = math.max(0, math.floor((filling - burst * every) * 1e6 + 0.5) / 1e6)
  if wait <= ahead then
    call('HSET', part, 'full', text_of(now + filling))
    keep_for(part, filling + BUCKET_KEPT)
  end
  waits[n] = text_of(wait)
end
return table.concat(waits, ' ')
