-- wrk profile: the same GET over and over, or those of a file in turn.
--
--   wrk -t1 -c64 -d30s -s loadtest/plain.lua http://127.0.0.1:8080/
--   REQUESTS=requests.txt wrk -t1 -c64 -d30s -s loadtest/plain.lua http://127.0.0.1:8080/
--
-- REQUESTS names a file with a request a line: the path, and headers behind tabs (`/orders<TAB>X-Api-Key: abc`). The last line of
-- the output is JSON, for scripts.

local requests, at = {}, 0

function init(_)
  local file = os.getenv("REQUESTS")
  if not file or file == "" then
    return
  end
  for line in io.lines(file) do
    local path, headers = line:match("^[^\t]+"), { ["Host"] = wrk.headers["Host"] }
    for name, value in line:gmatch("\t([^:\t]+): ([^\t]*)") do
      headers[name] = value
    end
    requests[#requests + 1] = wrk.format("GET", path, headers)
  end
  -- Without a file wrk's own request() stays: it builds the request once.
  function request()
    at = at % #requests + 1
    return requests[at]
  end
end

-- No response() here: it would make wrk collect every header and body.

function done(summary, latency, _)
  local errors = summary.errors
  print("percentile  latency")
  for _, p in ipairs({ 50, 75, 90, 99, 99.9 }) do
    print(string.format("%9.1f%%  %8.3f ms", p, latency:percentile(p) / 1000))
  end
  print(string.format("not 2xx or 3xx: %d", errors.status))
  print(string.format(
    '{"requests":%d,"micros":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,"p50":%d,"p99":%d,"max":%d}',
    summary.requests, summary.duration, summary.bytes, errors.connect, errors.read, errors.write, errors.status, errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
