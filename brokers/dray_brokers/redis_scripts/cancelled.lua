-- Which ids are cancelled.
-- KEYS: the marks. ARGV: ids, framed. Returns the numbers of those that are.

local now, cancelled = clock(), {}
for n, mark in ipairs(ask('ZMSCORE', KEYS[1], unframed(ARGV[1]))) do
  if mark and tonumber(mark) > now then cancelled[#cancelled + 1] = n end
end
return cancelled
