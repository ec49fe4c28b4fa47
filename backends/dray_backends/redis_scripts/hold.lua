-- Takes or renews places, by the rule of `dray.Store.hold`. Goes after places.lua.
-- Asked: for each wish: the partition, who wants the place, for how many seconds, and how many places there are.
-- Returns the tokens, separated by blanks: 0 where all places are taken.

local tokens = {}
for n = 1, #asked do
  local name, holder, seconds, most = unpack(asked[n])
  local part = key_of(name)
  local last, held, count = places_of(part)
  local mine = held[holder]
  local token = mine and mine[1] or (count < most and last + 1 or 0)
  if token > 0 then
    held[holder] = { token, now + seconds }
    keep(part, math.max(last, token), held)
  end
  tokens[n] = text_of(token)
end
return table.concat(tokens, ' ')
