-- Gives places back. Goes after places.lua.
-- Asked: for each: the partition and who holds the place.

for n = 1, #asked do
  local name, holder = unpack(asked[n])
  local part = key_of(name)
  local last, held = places_of(part)
  if held[holder] then
    held[holder] = nil
    keep(part, last, held)
  end
end
