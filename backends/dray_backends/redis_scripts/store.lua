-- Keeps records, and tells those who wait for a final one.
-- KEYS: that of the first record (in a cluster all are in its slot). ARGV: milliseconds to keep them ("": for ever), the
-- records one after the other, each: length of the key (4 bytes), length of what is kept (4), the key, which is also
-- the name of the channel, and what is kept: rank (double), 1 if final (1 byte), length of the state (2), state, body.

-- Most bytes of a record that is told with the news of it; who waits for a larger one fetches it.
local SMALL = 1024

local records, at = ARGV[2], 1
local keep = ARGV[1] == '' and {} or { 'PX', ARGV[1] }

-- Whether the record at a key stays: it is final, and the new one is not or has a lower rank.
local function stays(key, new)
  local kept = redis.call('GETRANGE', key, 0, 8)
  if #kept < 9 then return false end
  local kept_rank, kept_final = struct.unpack('>dB', kept)
  local rank, final = struct.unpack('>dB', new)
  return kept_final == 1 and (final == 0 or rank < kept_rank)
end

while at <= #records do
  local key_length, length, start = struct.unpack('>I4I4', records, at)
  at = start + key_length + length
  local key, record = records:sub(start, start + key_length - 1), records:sub(start + key_length, at - 1)
  -- Most records are the first of their key: only for the others something has to be read.
  local stored = redis.call('SET', key, record, 'NX', unpack(keep))
  if not stored and not stays(key, record) then stored = redis.call('SET', key, record, unpack(keep)) end
  -- Who may not publish to channels stores all the same; who waits then looks from time to time.
  if stored and record:byte(9) == 1 then redis.pcall('PUBLISH', key, length <= SMALL and record or '') end
end
