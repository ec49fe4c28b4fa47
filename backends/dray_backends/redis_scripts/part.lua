-- What the scripts of the store share. Every one of them begins with this file.
-- ARGV[1]: the base of the keys, such as `dray:store:{00}:`; ARGV[2]: what is asked, as MessagePack. What the store keeps:
--   BASE p:PART    hash of one partition: its records, and for each of its entries in an index a field
--                  "\255", index, "\255", key - no name has a byte 255 in it - without a value
--   BASE i:INDEX   sorted set of the entries of one index by their instant; a member is the partition, a zero byte, the key
-- Names of partitions come without zero bytes, so members sort by partition and then by key, as bytes, and with that as
-- code points. A partition is forgotten by the server, as one key; its entries in the indexes stay behind, and count for
-- nothing, because their fields are gone. `due` takes those that it meets out.

local call = redis.call
local base, asked = ARGV[1], cmsgpack.unpack(ARGV[2])
-- Lua takes no more arguments in one call than about 8000; even, because some come in pairs.
local ARGUMENTS = 4000

local function key_of(part)
  return base .. 'p:' .. part
end

local function field_of(index, key)
  return '\255' .. index .. '\255' .. key
end

-- Seconds since 1970, by the server.
local function clock()
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

-- A number as text from which the same number is read again.
local function text_of(number)
  return string.format('%.17g', number)
end

-- Calls a command that returns nothing of interest with any number of arguments.
local function each(command, key, arguments)
  for first = 1, #arguments, ARGUMENTS do
    call(command, key, unpack(arguments, first, math.min(first + ARGUMENTS - 1, #arguments)))
  end
end

-- The values of fields (false: there is none), at the end of what is in `found`.
local function look(part, fields, found)
  for first = 1, #fields, ARGUMENTS do
    local some = call('HMGET', part, unpack(fields, first, math.min(first + ARGUMENTS - 1, #fields)))
    for n = 1, #some do found[#found + 1] = some[n] end
  end
  return found
end

-- Lets a partition be forgotten in so many seconds. What is longer than 300 years is for ever.
local function keep_for(part, seconds)
  if seconds > 1e10 then
    call('PERSIST', part)
  else
    call('PEXPIRE', part, math.max(1, math.ceil(seconds * 1000)))
  end
end

-- Texts, and false for those that are missing, as an array of MessagePack that has them as bytes.
local function packed(texts)
  local pieces = { '\221' .. struct.pack('>I4', #texts) }
  for n = 1, #texts do
    local text = texts[n]
    if text then
      pieces[#pieces + 1] = #text < 256 and '\196' .. string.char(#text) or '\198' .. struct.pack('>I4', #text)
      pieces[#pieces + 1] = text
    else
      pieces[#pieces + 1] = '\192'
    end
  end
  return table.concat(pieces)
end
