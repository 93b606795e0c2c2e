import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { runCommand, startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { PAGE_JS } from "../../src/console/page.ts";
import { checkBytes, checkClient } from "../support/check-client.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-console-"));
const sidecar = await startSidecarProcess({ name: "sidecar", folder });
const client = checkClient(sidecar.extAuthz);
t.teardown(async () => {
  client.close();
  await sidecar.stop();
  await rm(folder, { recursive: true, force: true });
});

const [host = "", port = ""] = sidecar.api.split(":");
const SERVICE = "/sallyport.local.v1.LocalService/";

interface Page {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

/** A request with whatever path and headers; `fetch` would correct them. */
async function get(
  path: string,
  headers: Record<string, string> = {},
  method = "GET",
  body?: string | Buffer,
): Promise<Page> {
  const request = httpRequest({ host, port, path, method, headers });
  request.end(body);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  const parts: Buffer[] = [];
  for await (const part of response as AsyncIterable<Buffer>) parts.push(part);
  return { status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts).toString("utf8") };
}

const call = (method: string, message: unknown, headers: Record<string, string> = {}) =>
  get(`${SERVICE}${method}`, { "content-type": "application/json", ...headers }, "POST", JSON.stringify(message));

t.test("the page and its parts are served with a policy that lets nothing foreign in", async (t) => {
  const types = { "/": /^text\/html/, "/page.js": /^text\/javascript/, "/page.css": /^text\/css/ };
  for (const [path, type] of Object.entries(types)) {
    const { status, headers, body } = await get(path);
    t.equal(status, 200, path);
    t.match(headers["content-type"], type, path);
    t.ok(body.length > 100, path);
    t.equal(
      headers["content-security-policy"],
      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
      path,
    );
    t.match(headers, {
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-store",
    });
  }
});

t.test("the page holds nothing that its own policy forbids", async (t) => {
  const { body } = await get("/");
  t.notOk(/<script(?![^>]*\ssrc="\/)|<style|\son\w+=|\sstyle=/i.test(body), "no inline script, style or handler");
  t.notOk(
    /innerHTML|insertAdjacentHTML|document\.write|eval\(/.test(PAGE_JS),
    "what callers say is text, never markup",
  );
});

t.test("HEAD gives the headers, other methods and paths are not there", async (t) => {
  t.match(await get("/", {}, "HEAD"), { status: 200, body: "" });
  for (const [path, method] of [
    ["/", "POST"],
    ["/none", "GET"],
    ["/page.js/x", "GET"],
    ["/../package.json", "GET"],
  ] as const) {
    t.equal((await get(path, {}, method)).status, 404, `${method} ${path}`);
  }
});

t.test("paths that are no URL end nothing", async (t) => {
  for (const path of ["//", "//[", "/%", "/\\", "http://[", "*"]) {
    const socket = connect(Number(port), host);
    socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
    const [answer] = (await once(socket, "data")) as [Buffer];
    t.match(answer.toString(), /^HTTP\/1\.1 40[04] /, path);
    socket.destroy();
  }
  t.equal((await get("/")).status, 200);
});

const hosts = [
  { name: "no name but an address", headers: { host: "127.0.0.1:8181" }, status: 200 },
  { name: "localhost", headers: { host: "localhost:8181" }, status: 200 },
  { name: "an IPv6 address", headers: { host: "[::1]:8181" }, status: 200 },
  { name: "another site's name, as after DNS rebinding", headers: { host: "evil.example" }, status: 403 },
  { name: "a name that begins like ours", headers: { host: "localhost.evil.example:8181" }, status: 403 },
  { name: "a name that ends like an address", headers: { host: "x.127.0.0.1.example" }, status: 403 },
  {
    name: "a page of its own origin",
    headers: { host: "localhost:8181", origin: "http://localhost:8181" },
    status: 200,
  },
  {
    name: "a page of another origin",
    headers: { host: "localhost:8181", origin: "https://evil.example" },
    status: 403,
  },
  { name: "a page of another port", headers: { host: "localhost:8181", origin: "http://localhost:3000" }, status: 403 },
  { name: "a page without an origin", headers: { host: "localhost:8181", origin: "null" }, status: 403 },
];
for (const { name, headers, status } of hosts) {
  t.test(`${name}: ${status}, for pages and calls alike`, async (t) => {
    t.equal((await get("/", headers)).status, status);
    t.equal((await call("GetStatus", {}, headers)).status, status);
  });
}

t.test("status, locks and principals are there to read; changes are not without proof", async (t) => {
  t.match(JSON.parse((await call("GetStatus", {})).body), { version: /^\d/, policyName: "default", mode: "enforce" });
  t.same(JSON.parse((await call("ListLocks", {})).body), {});
  t.same(JSON.parse((await call("ListPrincipals", {})).body), {});
  const changes = ["AddLock", "RemoveLock", "PutPosture", "ResetBaseline", "ExportBaselines", "ImportBaselines"];
  for (const method of changes) t.equal((await call(method, {})).status, 401, method);
  const guess = { authorization: "Bearer 0123456789abcdef" };
  t.equal((await call("AddLock", { lock: { principal: "x" } }, guess)).status, 401, "no token was configured");
});

t.test("calls that make no sense are refused", async (t) => {
  t.equal((await call("GetDecision", { decisionId: "none" })).status, 404);
  t.equal((await call("NoSuchCall", {})).status, 404);
  t.equal((await get(`${SERVICE}GetStatus`, { "content-type": "application/json" }, "POST", "{")).status, 400);
  t.equal((await get(`${SERVICE}GetStatus`, { "content-type": "text/html" }, "POST", "{}")).status, 415);
});

/** Messages of a server stream of the Connect protocol, as the page reads them. */
async function* watch(message: unknown): AsyncGenerator<{ decision: Record<string, unknown> }> {
  const body = Buffer.from(JSON.stringify(message));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(body.length, 1);
  const ended = new AbortController();
  const response = await fetch(`http://${sidecar.api}${SERVICE}WatchDecisions`, {
    method: "POST",
    headers: { "content-type": "application/connect+json", "connect-protocol-version": "1" },
    body: Buffer.concat([head, body]),
    signal: ended.signal,
  });
  let held = Buffer.alloc(0);
  try {
    for await (const part of response.body as unknown as AsyncIterable<Uint8Array>) {
      held = Buffer.concat([held, part]);
      while (held.length >= 5 && held.length >= 5 + held.readUInt32BE(1)) {
        const size = held.readUInt32BE(1);
        yield JSON.parse(held.subarray(5, 5 + size).toString("utf8"));
        held = held.subarray(5 + size);
      }
    }
  } finally {
    ended.abort();
  }
}

t.test("decisions are streamed as they are made, past ones first", async (t) => {
  for (const principal of ["spiffe://td/one", "spiffe://td/two", "spiffe://td/three"]) {
    await client.send(checkBytes({ principal }));
  }
  const stream = watch({ recent: 2 });
  const next = async (): Promise<unknown> =>
    ((await stream.next()).value as { decision: { principal: string } }).decision;
  t.match(await next(), { principal: "spiffe://td/two", decision: "allow", decisionId: /^[0-9a-f-]{36}$/ });
  t.match(await next(), { principal: "spiffe://td/three" });
  const live = next();
  await client.send(checkBytes({ principal: "spiffe://td/four", path: "/<b>&" }));
  t.match(await live, { principal: "spiffe://td/four", route: "/<b>&", sourceAddress: "10.0.0.1" });
  await stream.return(undefined);
});

t.test("a watcher may leave out what is ordinary", async (t) => {
  const stream = watch({ recent: 1_000, scoreMin: 90 });
  const first = stream.next();
  await client.send(checkBytes({ principal: "spiffe://td/ordinary" }));
  await runCommand([
    "lock",
    "--principal",
    "spiffe://td/locked",
    "--reason",
    "test",
    "--api",
    `unix:${sidecar.apiSocket}`,
  ]);
  await client.send(checkBytes({ principal: "spiffe://td/locked" }));
  t.match((await first).value, { decision: { principal: "spiffe://td/locked", decision: "terminate", score: 100 } });
  await stream.return(undefined);
});

t.test("many watchers that come and go leave the sidecar as it was", async (t) => {
  for (let round = 0; round < 5; round++) {
    const streams = Array.from({ length: 20 }, () => watch({ recent: 1 }));
    t.equal((await Promise.all(streams.map((stream) => stream.next()))).length, 20);
    await Promise.all(streams.map((stream) => stream.return(undefined)));
  }
  t.equal(await client.decision(checkBytes({ principal: "spiffe://td/after" })), "allow");
});
