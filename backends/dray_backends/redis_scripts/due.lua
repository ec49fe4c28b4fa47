-- Returns entries of an index in their order: "+", or "-" if it has to be asked again because there was too much to tidy
-- up, and for each entry its instant and its member. Goes after above.lua.
-- Asked: the index; until when; how many; and if they are to come after an entry, its instant and member, else false.

-- Most entries that one call looks at beyond those that were asked for, so that it does not keep the server for long.
local MOST = 5000
-- How many are looked at together where forgotten ones were met: those seldom come alone.
local LEFT = 500

local index, until_when, limit, after_at, after_member = unpack(asked)
local line = base .. 'i:' .. index

-- How many entries are not after a place in the order. There need be no entry at that place.
local function rank_after(at, member)
  local low = call('ZCOUNT', line, '-inf', '(' .. text_of(at))
  local high = call('ZCOUNT', line, '-inf', text_of(at))
  while low < high do
    local middle = math.floor((low + high) / 2)
    if above(call('ZRANGE', line, middle, middle)[1], member) then high = middle else low = middle + 1 end
  end
  return low
end

-- Whether the partition still has this entry: it may have been forgotten since, and begun anew.
local function is_there(member)
  local stop = string.find(member, '\0', 1, true)
  local part, key = string.sub(member, 1, stop - 1), string.sub(member, stop + 1)
  return call('HEXISTS', key_of(part), field_of(index, key)) == 1
end

local found, gone, seen, over = {}, {}, 0, false
local rank = after_at and rank_after(after_at, after_member) or 0
while not over and seen < limit + MOST do
  local wanted = math.max(limit - #found / 2, #gone > 0 and LEFT or 0)
  local some = call('ZRANGE', line, rank + seen, rank + seen + wanted - 1, 'WITHSCORES')
  over = #some < 2 * wanted
  for n = 1, #some, 2 do
    local member, at = some[n], some[n + 1]
    if #found == 2 * limit or tonumber(at) > until_when then
      over = true
      break
    elseif is_there(member) then
      found[#found + 1], found[#found + 2] = at, member
    else
      gone[#gone + 1] = member
    end
  end
  seen = seen + wanted
  over = over or #found == 2 * limit
end
each('ZREM', line, gone)
return (over and '+' or '-') .. packed(found)
