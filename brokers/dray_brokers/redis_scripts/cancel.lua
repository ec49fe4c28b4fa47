-- Marks ids as cancelled.
-- KEYS: the marks. ARGV: seconds to keep them, ids framed.

local now = clock()
local ends, marks = now + tonumber(ARGV[1]), {}
for _, id in ipairs(unframed(ARGV[2])) do
  marks[#marks + 1], marks[#marks + 2] = ends, id
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for first = 1, #marks, ARGUMENTS do
  redis.call('ZADD', KEYS[1], 'GT', unpack(marks, first, math.min(first + ARGUMENTS - 1, #marks)))
end
-- The last one to end takes the key along, so that nothing is left of marks nobody asks about.
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] then redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', tonumber(last[2]) * 1000 + 1000)) end
