-- Returns keys of a partition and their values, unsorted: "+", the keys and the values. Goes after above.lua.
-- Asked: the partition; with what keys begin; after which key they come ("": any); which is the last ("": any); and of how
-- many the values are wanted. If there are more, and no last one was asked for, the answer is "-" and the keys alone.

local name, prefix, after, last, most = unpack(asked)
local part, keys, found = key_of(name), {}, {}
for _, key in ipairs(call('HKEYS', part)) do
  if
    string.sub(key, 1, #prefix) == prefix
    and string.byte(key) ~= 255
    and (after == '' or above(key, after))
    and (last == '' or not above(key, last))
  then
    keys[#keys + 1], found[#found + 1] = key, key
  end
end
if #keys > most and last == '' then return '-' .. packed(keys) end
return '+' .. packed(look(part, keys, found))
