-- Makes changes, one after the other, each as a whole or not at all.
-- Asked: for each change: the partition; checks, three texts each (kind, key, value); writes of records, three each (kind,
-- key, value or number); writes of entries, three each (index, key, instant or false); keys to read; and seconds to live,
-- or false. Returns a digit for each change, 1 if it was made, and if anything was to be read all values behind them.

local function holds(part, checks)
  for n = 1, #checks, 3 do
    local kind, key, value = checks[n], checks[n + 1], checks[n + 2]
    if kind == 'equals' then
      if call('HGET', part, key) ~= value then return false end
    elseif call('HEXISTS', part, key) ~= (kind == 'present' and 1 or 0) then
      return false
    end
  end
  return true
end

-- Adds a number at once; returns the server's error if that cannot be. `pending` is what the change will have written to
-- other keys, `before` what to put back, of which only changes that add twice have need, or to what they have just put.
local function add(part, key, number, pending, before, careful)
  local put = pending[key]
  if before[key] == nil and (careful or put ~= nil) then before[key] = call('HGET', part, key) end
  if put ~= nil then
    call('HSET', part, key, put or '0')
    pending[key] = nil
  end
  local answer = redis.pcall('HINCRBY', part, key, number)
  return type(answer) == 'table' and answer.err
end

local function put_back(part, before)
  for key, value in pairs(before) do
    if value then call('HSET', part, key, value) else call('HDEL', part, key) end
  end
end

-- Works out what is to be put (a text) and what to be deleted (false); counts are added to meanwhile. On an error
-- everything is as it was.
local function pending_of(part, writes)
  local pending, before, adds = {}, {}, 0
  for n = 1, #writes, 3 do
    if writes[n] == 'add' then adds = adds + 1 end
  end
  for n = 1, #writes, 3 do
    local kind, key, value = writes[n], writes[n + 1], writes[n + 2]
    if kind == 'put' then
      pending[key] = value
    elseif kind == 'delete' then
      pending[key] = false
    else
      local trouble = add(part, key, value, pending, before, adds > 1)
      if trouble then
        put_back(part, before)
        if trouble:find('integer') or trouble:find('overflow') then
          trouble = 'NOCOUNT adding ' .. value .. ' to ' .. key .. ', which is no count or would be too large for one'
        end
        return nil, trouble
      end
    end
  end
  return pending
end

local function write(part, name, writes, entries)
  local pending, trouble = pending_of(part, writes)
  if trouble then return trouble end
  for n = 1, #entries, 3 do
    pending[field_of(entries[n], entries[n + 1])] = entries[n + 2] and ''
  end
  local puts, drops = {}, {}
  for key, value in pairs(pending) do
    if value then
      puts[#puts + 1], puts[#puts + 2] = key, value
    else
      drops[#drops + 1] = key
    end
  end
  -- In this order, because a hash that is empty in between loses its time to live.
  each('HSET', part, puts)
  each('HDEL', part, drops)
  for n = 1, #entries, 3 do
    local line, member, at = base .. 'i:' .. entries[n], name .. '\0' .. entries[n + 1], entries[n + 2]
    if at then call('ZADD', line, text_of(at), member) else call('ZREM', line, member) end
  end
end

local marks, values, telling = {}, {}, false
for n = 1, #asked do
  local name, checks, writes, entries, reads, ttl = unpack(asked[n])
  local part = key_of(name)
  local applied = holds(part, checks)
  local writing = applied and (writes[1] or entries[1])
  local trouble = writing and write(part, name, writes, entries)
  if trouble then return redis.error_reply(trouble) end
  marks[n] = applied and '1' or '0'
  if reads[1] then
    telling = true
    look(part, reads, values)
  end
  if writing and ttl then keep_for(part, ttl) end
end
return table.concat(marks) .. (telling and packed(values) or '')
