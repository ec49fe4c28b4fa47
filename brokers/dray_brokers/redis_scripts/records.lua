-- What the scripts share that read records and move them. Comes behind shared.lua.

local function id_of(record)
  return (struct.unpack('>I2c0', record, 16))
end

local function name_of(record)
  local attempt, _, id = struct.unpack('>I4BI2c0', record, 11)
  return attempt == 0 and id or later_name(attempt, id)
end

local function names_of(records)
  local names = {}
  for n, record in ipairs(records) do names[n] = name_of(record) end
  return names
end

local function priority_of(record)
  return record:byte(15)
end

local function deliveries_of(record)
  return (struct.unpack('>I2', record, 9))
end

local function delivered(record, times)
  return record:sub(1, 8) .. struct.pack('>I2', math.min(times, 65535)) .. record:sub(11)
end

-- Which messages are stored.

local function forget(queue, names)
  call('SREM', queue.ids, names)
  local byte = string.byte
  for n = 1, #names do
    local name = names[n]
    if byte(name) == 2 then
      local id, left = name:sub(6), ''
      for attempt in (redis.call('HGET', queue.tries, id) or ''):gmatch('....') do
        if attempt ~= name:sub(2, 5) then left = left .. attempt end
      end
      if left == '' then redis.call('HDEL', queue.tries, id) else redis.call('HSET', queue.tries, id, left) end
    end
  end
end

-- Moving messages.

-- Puts records in line behind all others of their priority.
local function line_up(queue, records)
  local lines = {}
  for _, record in ipairs(records) do
    local priority = priority_of(record)
    local line = lines[priority]
    if not line then
      line = {}
      lines[priority] = line
    end
    line[#line + 1] = record
  end
  for priority, line in pairs(lines) do
    call('RPUSH', queue.ready .. priority, line)
  end
end

-- The records of these names. What somebody has deleted by hand, or Redis for want of room, is forgotten.
local function held_by(queue, names)
  local records = {}
  for n, record in ipairs(ask('HMGET', queue.held, names)) do
    if record then records[#records + 1] = record else forget(queue, { names[n] }) end
  end
  return records
end
