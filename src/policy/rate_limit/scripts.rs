//! What the store does in one go, so that nobody comes in between. Times are microseconds since 1970 on the clock of the store; a key holds
//! one for each limit, when all of it is there again.

use redis::Script;

/// Reads the times of a key into `at`; those of limits that were lower before block for no longer than these ever would.
const READ: &str = "
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local at = {}
local kept = redis.call('GET', KEYS[1])
if kept then for text in string.gmatch(kept, '%S+') do at[#at + 1] = tonumber(text) end end
local function settle(i, capacity)
  local full = at[i] or 0
  if full < now then return now end
  if full > now + capacity + 60000000 then return now + capacity end
  return full
end
local function write(n)
  local last, texts = now, {}
  for i = 1, n do
    if at[i] > last then last = at[i] end
    texts[i] = string.format('%.0f', at[i])
  end
  if last > now then redis.call('SET', KEYS[1], table.concat(texts, ' '), 'PX', string.format('%.0f', math.ceil((last - now) / 1000))) end
end
";

/// Takes a request from all limits or from none. Arguments: how long it would wait, then for each limit what the request
/// takes and how much there is. Returns whether it passes, after what wait (or after what wait it would), and how much of each is used.
pub(super) fn take() -> Script {
    Script::new(&format!(
        "{READ}
local patience = tonumber(ARGV[1])
local n = (#ARGV - 1) / 2
local passes, wait, over, moved = 1, 0, 0, {{}}
for i = 1, n do
  local price, capacity = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  at[i] = settle(i, capacity)
  moved[i] = at[i] + price
  local early = moved[i] - now - capacity
  if early > patience then
    passes = 0
    if early > over then over = early end
  elseif early > wait then
    wait = early
  end
end
if passes == 1 then
  at = moved
  write(n)
else
  wait = over
end
local answer = {{ passes, wait }}
for i = 1, n do answer[i + 2] = at[i] - now end
return answer"
    ))
}

/// Takes what is owed, whatever is left, and then up to so many requests ahead. Arguments: both numbers, then for each limit what a
/// request takes and how much there is. Returns how many were taken ahead, when there is one again if none, and how much of each is used.
pub(super) fn lease() -> Script {
    Script::new(&format!(
        "{READ}
local owed, granted = tonumber(ARGV[1]), tonumber(ARGV[2])
local n = (#ARGV - 2) / 2
local wait = 0
for i = 1, n do
  local price, capacity = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  at[i] = settle(i, capacity) + math.min(owed * price, capacity)
  local room = math.floor((now + capacity - at[i]) / price)
  if room < granted then granted = room end
  local early = at[i] + price - now - capacity
  if early > wait then wait = early end
end
if granted < 0 then granted = 0 end
for i = 1, n do at[i] = at[i] + granted * tonumber(ARGV[2 * i + 1]) end
write(n)
local answer = {{ granted, wait }}
for i = 1, n do answer[i + 2] = at[i] - now end
return answer"
    ))
}
