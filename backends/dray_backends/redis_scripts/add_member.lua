-- Adds a member to a group unless it is there.
-- Asked: the partition, the key of the member, that of the count, and the value. Returns 1 if it was added, else 0, and
-- behind that how many the group has.

local name, key, count, value = unpack(asked)
local part = key_of(name)
if call('HSETNX', part, key, value) == 0 then return '0' .. (call('HGET', part, count) or '0') end
local number = redis.pcall('HINCRBY', part, count, 1)
if type(number) == 'table' then
  call('HDEL', part, key)
  return redis.error_reply('NOCOUNT adding 1 to ' .. count .. ', which is no count or would be too large for one')
end
return '1' .. text_of(number)
