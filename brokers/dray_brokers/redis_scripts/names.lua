-- Keeps the names of the queues, because a Redis that is shared may not be searched for them.
-- KEYS: the sorted set of names, by when somebody has published last, to the minute.
-- ARGV: add, and a name; or drop, seconds, and names framed: those that nobody has published to for so long.

local now = clock()
if ARGV[1] == 'add' then
  redis.call('ZADD', KEYS[1], now, ARGV[2])
else
  for _, name in ipairs(unframed(ARGV[3])) do
    local last = redis.call('ZSCORE', KEYS[1], name)
    if last and tonumber(last) < now - tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], name) end
  end
end
