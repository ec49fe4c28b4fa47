-- Returns in how many shards the store is, and keeps that when it is new.
-- KEYS: where that is kept. ARGV: how many there are to be.
local shards = redis.call('GET', KEYS[1])
if shards then return shards end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
