-- Rings where the script that had something to ring about could not.
-- KEYS: a bell. ARGV: how many workers are worth waking.

ring(KEYS[1], tonumber(ARGV[1]))
