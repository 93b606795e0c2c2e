/** The live page: one HTML file and one script, served as they stand here. */

export const PAGE_HTML = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sallyport</title>
<link rel="stylesheet" href="/page.css">
<script type="module" src="/page.js"></script>
</head>
<body>
<header>
<h1>Sallyport</h1>
<p id="status" role="status">connecting</p>
</header>
<main>
<table>
<caption>Decisions, newest first</caption>
<thead><tr><th scope="col">Time</th><th scope="col">Decision</th><th scope="col">Score</th><th scope="col">Principal</th><th scope="col">Request</th><th scope="col">From</th><th scope="col">Reasons</th></tr></thead>
<tbody id="decisions"></tbody>
</table>
</main>
<footer><small>Autonomous systems: <a href="https://db-ip.com">IP to ASN by DB-IP</a>, RouteViews and NRO, CC BY 4.0</small></footer>
</body>
</html>
`;

export const PAGE_CSS = `:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem; }
header { display: flex; align-items: baseline; gap: 1rem; flex-wrap: wrap; }
h1 { font-size: 1.3rem; margin: 0; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8884; overflow-wrap: anywhere; }
td.score { font-variant-numeric: tabular-nums; text-align: right; }
.allow { color: light-dark(#0a6b2d, #6fd08c); }
.challenge { color: light-dark(#8a5a00, #f2c14e); font-weight: 600; }
.deny, .terminate { color: light-dark(#b00020, #ff8a80); font-weight: 700; }
small { opacity: .75; }
`;

/** Reads the server stream of the Connect protocol: five bytes of flags and length before every JSON message. */
export const PAGE_JS = `const rows = document.getElementById("decisions");
const status = document.getElementById("status");
const ROWS_MAX = 200;
const service = "/sallyport.local.v1.LocalService/";

async function call(method, body) {
  const response = await fetch(service + method, {
    method: "POST",
    headers: { "content-type": "application/json", "connect-protocol-version": "1" },
    body: JSON.stringify(body),
  });
  return response.json();
}

function cell(row, text, className) {
  const td = row.insertCell();
  td.textContent = text;
  if (className) td.className = className;
  return td;
}

function show(decision) {
  const row = rows.insertRow(0);
  row.dataset.id = decision.decisionId;
  cell(row, new Date(decision.time).toLocaleTimeString());
  const observed = decision.decision !== decision.enforced ? " (observed)" : "";
  cell(row, decision.decision + observed, decision.decision);
  cell(row, (decision.score ?? 0).toFixed(1), "score");
  cell(row, decision.principal);
  cell(row, [decision.destination, decision.route].filter(Boolean).join(" "));
  cell(row, [decision.sourceAddress, decision.userAgent].filter(Boolean).join(" "));
  const reasons = cell(row, "");
  for (const reason of decision.reasons ?? []) {
    if (!reason.points) continue;
    const line = document.createElement("div");
    line.textContent = reason.points + " " + reason.signal + ": " + reason.seen;
    const expected = document.createElement("small");
    expected.textContent = " expected " + reason.expected;
    line.append(expected);
    reasons.append(line);
  }
  while (rows.rows.length > ROWS_MAX) rows.deleteRow(-1);
}

async function watch() {
  const body = new TextEncoder().encode(JSON.stringify({ recent: 50 }));
  const framed = new Uint8Array(5 + body.length);
  new DataView(framed.buffer).setUint32(1, body.length);
  framed.set(body, 5);
  const response = await fetch(service + "WatchDecisions", {
    method: "POST",
    headers: { "content-type": "application/connect+json", "connect-protocol-version": "1" },
    body: framed,
  });
  const reader = response.body.getReader();
  let held = new Uint8Array();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const joined = new Uint8Array(held.length + value.length);
    joined.set(held);
    joined.set(value, held.length);
    held = joined;
    for (;;) {
      if (held.length < 5) break;
      const size = new DataView(held.buffer, held.byteOffset).getUint32(1);
      if (held.length < 5 + size) break;
      const message = JSON.parse(new TextDecoder().decode(held.subarray(5, 5 + size)));
      if ((held[0] & 2) === 0 && message.decision) show(message.decision);
      held = held.slice(5 + size);
    }
  }
}

async function refresh() {
  const now = await call("GetStatus", {});
  const problems = (now.policyProblems ?? []).length ? " · newest policy not in force: " + now.policyProblems[0] : "";
  const freshness = now.policyFreshness && now.policyFreshness !== "fresh" ? " · policy " + now.policyFreshness : "";
  status.textContent = "policy " + now.policyName + " " + now.policyRevision + " · " + now.mode + " · " +
    (now.checks ?? 0) + " checks · " + (now.principals ?? 0) + " principals · " + (now.locks ?? 0) + " locks" + freshness + problems;
}

setInterval(() => refresh().catch(() => { status.textContent = "not reachable"; }), 2000);
for (;;) {
  try {
    await refresh();
    rows.replaceChildren();
    await watch();
  } catch {
    status.textContent = "not reachable";
  }
  await new Promise((resolve) => setTimeout(resolve, 1000));
}
`;
