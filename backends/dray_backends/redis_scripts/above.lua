-- Whether the bytes of one text come after those of another. `<` of Lua goes by the locale of the server.
local function above(one, other)
  local n = 1
  while true do
    local x, y = string.byte(one, n), string.byte(other, n)
    if x ~= y then return (x or -1) > (y or -1) end
    if not x then return false end
    n = n + 1
  end
end
