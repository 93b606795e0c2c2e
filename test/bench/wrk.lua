-- Given to wrk: sends the requests of a file in turn, and prints what came of them as one line of JSON.
-- The file holds whole requests, each ended by a line "--".

local requests = {}
local at = 0

function init(args)
  local text = {}
  for line in io.lines(args[1]) do
    if line == "--" then
      requests[#requests + 1] = table.concat(text, "\r\n") .. "\r\n\r\n"
      text = {}
    else
      text[#text + 1] = line
    end
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"sent":%d,"failed":%d,"seconds":%f,"latencyUs":{"p50":%f,"p99":%f,"p999":%f,"max":%f}}\n',
    summary.requests,
    errors.status + errors.read + errors.write + errors.timeout + errors.connect,
    summary.duration / 1e6,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max
  ))
end
