-- Keeps records, and tells those who wait for a final one.
-- KEYS: one for each record, which is also the name of the channel. ARGV: milliseconds to keep them ("": for ever), the
-- records framed (length in 4 bytes), each: rank (double), 1 if final (1 byte), length of the state (2), state, body.

local ttl, at = ARGV[1], 1
for _, key in ipairs(KEYS) do
  local record
  record, at = struct.unpack('>I4c0', ARGV[2], at)
  local rank, final = struct.unpack('>dB', record)
  -- The kept one stays if it is final and this one is not, or has a lower rank. Its body is not even looked at.
  local kept, stays = redis.call('GETRANGE', key, 0, 8), false
  if #kept == 9 then
    local kept_rank, kept_final = struct.unpack('>dB', kept)
    stays = kept_final == 1 and (final == 0 or rank < kept_rank)
  end
  if not stays then
    if ttl == '' then redis.call('SET', key, record) else redis.call('SET', key, record, 'PX', ttl) end
    -- Who may not publish to channels stores all the same; who waits then looks from time to time.
    if final == 1 then redis.pcall('PUBLISH', key, '') end
  end
end
