/** The fleet page: one HTML file, one script and one style sheet. They hold nothing; data needs a viewer's rights. */

import type { IncomingMessage, ServerResponse } from "node:http";

const HTML = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sallyport fleet</title>
<link rel="stylesheet" href="/page.css">
<script type="module" src="/page.js"></script>
</head>
<body>
<header>
<h1>Sallyport fleet</h1>
<p id="status" role="status">connecting</p>
</header>
<form id="sign-in" hidden>
<label>Viewer's token <input id="token" type="password" autocomplete="off" required></label>
<button>Show the fleet</button>
</form>
<main>
<table>
<caption>Channels</caption>
<thead><tr><th scope="col">Channel</th><th scope="col">For</th><th scope="col">Bundle</th><th scope="col">Canary</th><th scope="col">Sidecars</th><th scope="col">Current</th><th scope="col">Lagging</th><th scope="col">Failing</th><th scope="col">Ahead</th><th scope="col">Last change</th></tr></thead>
<tbody id="channels"></tbody>
</table>
<table>
<caption>Sidecars <span id="total"></span></caption>
<thead><tr><th scope="col">Sidecar</th><th scope="col">Channel</th><th scope="col">In force</th><th scope="col">Wanted</th><th scope="col">Mode</th><th scope="col">Freshness</th><th scope="col">Checks</th><th scope="col">Scores reached</th><th scope="col">Lately refused or failed</th><th scope="col">Reported</th></tr></thead>
<tbody id="sidecars"></tbody>
</table>
</main>
</body>
</html>
`;

const CSS = `:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 96rem; padding: 1rem; }
header { display: flex; align-items: baseline; gap: 1rem; flex-wrap: wrap; }
h1 { font-size: 1.3rem; margin: 0; }
table { border-collapse: collapse; width: 100%; margin-bottom: 1.5rem; }
caption { text-align: left; padding: .5rem 0; font-weight: 600; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8884; white-space: nowrap; }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
td.number { font-variant-numeric: tabular-nums; text-align: right; }
.warn { color: light-dark(#8a5a00, #f2c14e); font-weight: 600; }
.bad { color: light-dark(#b00020, #ff8a80); font-weight: 700; }
`;

/** Asks with the Connect protocol: JSON for calls, five bytes of flags and length before every message of a stream. */
const JS = `const service = "/sallyport.control.v1.FleetService/";
const status = document.getElementById("status");
const form = document.getElementById("sign-in");
const SIDECARS_SHOWN = 500;
let token = "";
let entered = () => {};

form.addEventListener("submit", (event) => {
  event.preventDefault();
  token = document.getElementById("token").value.trim();
  document.getElementById("token").value = "";
  entered();
});

function headers(type) {
  const all = { "content-type": type, "connect-protocol-version": "1" };
  if (token !== "") all.authorization = "Bearer " + token;
  return all;
}

class SignIn extends Error {}

async function call(method, body) {
  const response = await fetch(service + method, { method: "POST", headers: headers("application/json"), body: JSON.stringify(body) });
  const answer = await response.json();
  if (response.status === 401 || response.status === 403) throw new SignIn(answer.message);
  if (!response.ok) throw new Error(answer.message);
  return answer;
}

function cell(row, text, className) {
  const td = row.insertCell();
  td.textContent = text;
  if (className) td.className = className;
}

function ref(bundle) {
  return bundle ? bundle.name + ":" + bundle.revision : "nothing";
}

function selector(one) {
  const pairs = Object.entries(one?.labels ?? {}).map(([key, value]) => key + "=" + value).sort();
  return pairs.length ? pairs.join(", ") : "everyone";
}

function canary(one) {
  if (!one) return "";
  const who = (one.share ? [one.share + " %"] : []).concat((one.selectors ?? []).map(selector));
  return ref(one.candidate) + " for " + who.join(" or ");
}

function showChannels(news) {
  const rows = document.getElementById("channels");
  rows.replaceChildren();
  for (const one of news.channels ?? []) {
    const row = rows.insertRow();
    const channel = one.channel;
    cell(row, channel.name);
    cell(row, channel.name === "default" ? "everyone else" : selector(channel.selector));
    cell(row, ref(channel.stable));
    cell(row, canary(channel.canary));
    cell(row, one.sidecars ?? 0, "number");
    cell(row, one.current ?? 0, "number");
    cell(row, one.lagging ?? 0, one.lagging ? "number warn" : "number");
    cell(row, one.failing ?? 0, one.failing ? "number bad" : "number");
    cell(row, one.ahead ?? 0, "number");
    const change = channel.lastChange;
    cell(row, change ? change.what + " by " + change.by + " at " + new Date(change.at).toLocaleString() : "", "text");
  }
}

async function showSidecars() {
  const { sidecars = [], total = 0 } = await call("ListSidecars", { limit: SIDECARS_SHOWN });
  const rows = document.getElementById("sidecars");
  rows.replaceChildren();
  document.getElementById("total").textContent = sidecars.length < total ? "(" + sidecars.length + " of " + total + ")" : "(" + total + ")";
  for (const one of sidecars) {
    const row = rows.insertRow();
    const said = one.status;
    cell(row, said.sidecarId);
    cell(row, one.channel + (one.canary ? " (canary)" : ""));
    cell(row, said.inForce ? ref(said.inForce) : said.policyRevision || "nothing", one.lagging ? "warn" : "");
    cell(row, ref(one.wanted) + (one.ahead ? " (it is ahead)" : ""));
    cell(row, said.mode ?? "");
    cell(row, said.freshness ?? "", said.freshness && said.freshness !== "fresh" ? "bad" : "");
    const decisions = Object.entries(said.decisions ?? {}).filter(([, count]) => Number(count) > 0).map(([name, count]) => name + " " + count).join(", ");
    cell(row, decisions || String(said.checks ?? 0), "text");
    cell(row, (said.scoreRates ?? []).map((rate) => "≥ " + (rate.score ?? 0) + ": " + ((rate.observed ?? 0) * 100).toFixed(2) + " %").join(", "), "text");
    const [latest, ...older] = said.refusals ?? [];
    const more = older.length ? " (and " + older.length + " before it)" : "";
    cell(row, latest ? latest.code + " " + latest.message + more : "", one.failing ? "text bad" : "text");
    cell(row, new Date(one.reportedAt).toLocaleTimeString());
  }
}

async function watch() {
  const response = await fetch(service + "WatchFleet", { method: "POST", headers: headers("application/connect+json"), body: new Uint8Array([0, 0, 0, 0, 2, 123, 125]) });
  const reader = response.body.getReader();
  let held = new Uint8Array();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const joined = new Uint8Array(held.length + value.length);
    joined.set(held);
    joined.set(value, held.length);
    held = joined;
    while (held.length >= 5) {
      const size = new DataView(held.buffer, held.byteOffset).getUint32(1);
      if (held.length < 5 + size) break;
      const message = JSON.parse(new TextDecoder().decode(held.subarray(5, 5 + size)));
      const last = (held[0] & 2) !== 0;
      held = held.slice(5 + size);
      if (last) {
        if (["unauthenticated", "permission_denied"].includes(message.error?.code)) throw new SignIn(message.error.message);
        return;
      }
      form.hidden = true;
      status.textContent = (message.connected ?? 0) + " connected here · store " + message.store;
      showChannels(message);
      await showSidecars();
    }
  }
}

for (;;) {
  try {
    await watch();
    status.textContent = "not reachable";
  } catch (error) {
    if (error instanceof SignIn) {
      status.textContent = error.message;
      form.hidden = false;
      await new Promise((resolve) => { entered = resolve; });
      continue;
    }
    status.textContent = "not reachable";
  }
  await new Promise((resolve) => setTimeout(resolve, 1000));
}
`;

const PAGES: ReadonlyMap<string, readonly [type: string, body: string]> = new Map([
  ["/", ["text/html; charset=utf-8", HTML]],
  ["/page.js", ["text/javascript; charset=utf-8", JS]],
  ["/page.css", ["text/css; charset=utf-8", CSS]],
]);

/** Answers what is no call of a service. */
export function servePage(request: Pick<IncomingMessage, "url" | "method">, response: ServerResponse): void {
  const page = PAGES.get(request.url?.split("?", 1)[0] ?? "");
  if (page === undefined || (request.method !== "GET" && request.method !== "HEAD")) {
    response.writeHead(404, { "content-type": "text/plain" });
    response.end("not found\n");
    return;
  }
  response.writeHead(200, {
    "content-type": page[0],
    "content-security-policy":
      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
  });
  response.end(request.method === "HEAD" ? undefined : page[1]);
}
