import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { runCommand } from "../../scripts/demo/sidecar.ts";
import { curl, fetchOnce, nodeClient } from "../support/clients.ts";
import { type Entry, eventually, metric, startGuarded, startOrders } from "../support/guarded.ts";

const SECRETS = { token: "", key: "sk-live-4f9a1c77b2", cookie: "session=7c1e55aa90d3" };

const guarded = await startGuarded({
  config: "envoy/http-mtls.yaml",
  service: startOrders,
  spec: {
    identity: {
      trustedSpiffe: ["spiffe://shop.example/**"],
      issuers: [{ issuer: "https://issuer.example", audiences: ["sallyport"], jwks: { file: "jwks.json" } }],
      apiKeys: { header: "x-api-key", keys: [] },
    },
    rules: [
      { name: "closed", match: { routes: ["/closed/**"] }, decision: "deny" },
      { name: "watched", match: { routes: ["/watched/**"] }, decision: "deny", mode: "observe" },
      { name: "step-up", match: { routes: ["/step-up/**"] }, decision: "challenge" },
    ],
  },
  flags: ["--decision-log", "stdout"],
  // As where another part of the policy wants bodies: Sallyport skips them unread.
  change: (bootstrap) => {
    const text = JSON.stringify(bootstrap.static_resources.listeners);
    bootstrap.static_resources.listeners = JSON.parse(
      text.replaceAll(
        '"include_peer_certificate":true',
        '"include_peer_certificate":true,"with_request_body":{"max_request_bytes":65536,"allow_partial_message":true,"pack_as_bytes":true}',
      ),
    );
  },
});
t.teardown(() => guarded.stop());
const { envoy, sidecar, service, issuer } = guarded;
const web = await guarded.caller("web");

const entryOf = async (path: string): Promise<Entry> =>
  (await guarded.entries(1, (entry) => entry.path === path)).at(-1)!;

t.test("an allowed request reaches the service with the decision, and the access log tells all of it", async (t) => {
  const answer = await fetchOnce(web, { path: "/orders/1?secret=1" });
  t.equal(answer.status, 200);
  const received = service.received.at(-1)!;
  t.match(received.headers, {
    "x-sallyport-decision": "allow",
    "x-sallyport-score": /^\d+(\.\d)?$/,
    "x-sallyport-decision-id": /^[0-9a-f-]{36}$/,
    "x-sallyport-principal": "spiffe://shop.example/web",
  });
  for (const input of ["ja3", "ja4", "tls", "connection", "peer-fp"]) {
    t.equal(received.headers[`x-sallyport-${input}`], undefined, input);
  }
  t.match(await entryOf("/orders/1"), {
    code: 200,
    decision: "allow",
    mode: "enforce",
    principal: "spiffe://shop.example/web",
    decision_id: received.headers["x-sallyport-decision-id"],
    policy_revision: "one",
    ja4: /^t13/,
    score: Number,
    reasons: Array,
  });
});

t.test("what a caller says under our prefix reaches neither the check nor the service", async (t) => {
  await fetchOnce(web, {
    path: "/orders/2",
    headers: {
      "x-sallyport-ja4": "t13d0000h1_000000000000_000000000000",
      "X-Sallyport-Decision": "allow",
      x_sallyport_score: "0",
    },
  });
  const { headers } = service.received.at(-1)!;
  t.equal(headers.x_sallyport_score, undefined);
  t.not((await entryOf("/orders/2")).ja4, "t13d0000h1_000000000000_000000000000");
  const { out } = await runCommand([
    ...["explain", String(headers["x-sallyport-decision-id"]), "--output", "json", "--api", sidecar.api],
  ]);
  t.match(JSON.parse(out), { ja4: /^t13d59/ });
});

t.test("a denial is a problem without reasons, and the access log tells it", async (t) => {
  const answer = await fetchOnce(web, { path: "/closed/a" });
  t.equal(answer.status, 403);
  t.equal(answer.headers["content-type"], "application/problem+json");
  const problem = JSON.parse(answer.body) as Record<string, unknown>;
  t.match(problem, { status: 403, title: "Access denied", decision_id: /^[0-9a-f-]{36}$/ });
  t.notOk("reasons" in problem || "score" in problem);
  t.match(await entryOf("/closed/a"), {
    code: 403,
    details: "ext_authz_denied",
    flags: "UAEX",
    decision: "deny",
    decision_id: problem.decision_id,
    principal: "spiffe://shop.example/web",
    ja4: /^t13/,
  });
});

t.test("a rule in observe mode lets pass what it would deny, and says so", async (t) => {
  t.equal((await fetchOnce(web, { path: "/watched/a" })).status, 404, "the service's own answer");
  t.match(await entryOf("/watched/a"), { decision: "deny", mode: "observe" });
});

t.test("a challenge asks for a fresher token, which answers it; the old one and none do not", async (t) => {
  const partner = await guarded.caller("partner");
  const old = await issuer.token({ subject: "spiffe://shop.example/partner", issuedAt: new Date(Date.now() - 60_000) });
  SECRETS.token = old;
  const call = (token: string) =>
    fetchOnce(partner, { path: "/step-up/a", headers: { authorization: `Bearer ${token}` } });
  const challenged = await call(old);
  t.equal(challenged.status, 401);
  t.match(challenged.headers["www-authenticate"], /^Bearer error="insufficient_user_authentication", .*max_age="0"$/);
  t.match(JSON.parse(challenged.body), { status: 401, issued_after: /Z$/ });
  t.equal((await call(old)).status, 401, "the same token again");
  const fresh = await issuer.token({ subject: "spiffe://shop.example/partner" });
  t.equal((await call(fresh)).status, 404, "answered: the service's own answer");
  t.equal((await call(fresh)).status, 404, "and not asked again");
});

t.test("a token whose signature is false is denied with certainty, and an expired one names nobody", async (t) => {
  const token = await issuer.token({ subject: "spiffe://shop.example/web" });
  const [head, body, signature] = token.split(".") as [string, string, string];
  const forged = `${head}.${body}.${signature.startsWith("A") ? "B" : "A"}${signature.slice(1)}`;
  t.equal((await fetchOnce(web, { path: "/orders/4", headers: { authorization: `Bearer ${forged}` } })).status, 403);
  t.match(await entryOf("/orders/4"), { score: 100, reasons: ["credential.forged:100"] });
  const expired = await issuer.token({ subject: "nobody", issuedAt: new Date(Date.now() - 3_600_000), ttlSeconds: 60 });
  await fetchOnce(web, { path: "/orders/5", headers: { authorization: `Bearer ${expired}` } });
  t.match(await entryOf("/orders/5"), { principal: "spiffe://shop.example/web" });
});

t.test("a token bound to another certificate is denied (RFC 8705)", async (t) => {
  const bound = (x5t: string) =>
    issuer.token({ subject: "spiffe://shop.example/web", claims: { cnf: { "x5t#S256": x5t } } });
  const own = Buffer.from(web.certificate!.sha256, "hex").toString("base64url");
  const call = async (path: string, token: string) =>
    (await fetchOnce(web, { path, headers: { authorization: `Bearer ${token}` } })).status;
  t.equal(await call("/orders/1", await bound(own)), 200);
  t.equal(await call("/orders/6", await bound("AAAA")), 403);
  t.match(await entryOf("/orders/6"), { reasons: ["credential.binding:100"] });
});

t.test("terminate closes the connection, and what is locked stays out until unlocked", async (t) => {
  const caller = await guarded.caller("victim");
  const client = nodeClient(caller);
  t.teardown(() => client.close());
  await client.send({ path: "/orders/1" });
  await client.send({ path: "/orders/1" });
  t.equal(client.connections(), 1, "kept alive");
  const locked = await runCommand([
    ...["lock", "--principal", "spiffe://shop.example/victim", "--reason", "test", "--for", "5m"],
    ...["--output", "json", "--api", `unix:${sidecar.apiSocket}`],
  ]);
  const { id } = JSON.parse(locked.out) as { id: string };
  t.equal((await client.send({ path: "/orders/7" })).status, 403);
  t.match(await entryOf("/orders/7"), { decision: "terminate", reasons: ["lock:100"] });
  t.equal((await client.send({ path: "/orders/7" })).status, 403);
  t.equal(client.connections(), 2, "the first one was closed");
  t.match((await runCommand(["locks", "--api", sidecar.api])).out, /principal=spiffe:\/\/shop.example\/victim/);
  t.equal((await runCommand(["unlock", id, "--api", `unix:${sidecar.apiSocket}`])).code, 0);
  t.equal((await client.send({ path: "/orders/1" })).status, 200);
});

t.test("changes over the open address are refused without a token", async (t) => {
  const { code, err } = await runCommand(["lock", "--principal", "x", "--reason", "test", "--api", sidecar.api]);
  t.equal(code, 1);
  t.match(err, /ERR_API_UNAUTHORIZED/);
});

t.test("outcomes come back by the access log, long streams while they run", async (t) => {
  const before = await metric(sidecar, "sallyport_outcomes_total", 'stage="end"');
  for (let i = 0; i < 5; i++) await fetchOnce(web, { path: "/orders/1" });
  const after = await eventually(async () => {
    const now = await metric(sidecar, "sallyport_outcomes_total", 'stage="end"');
    return now >= before + 5 ? now : undefined;
  });
  t.ok(after >= before + 5);
});

t.test("a body of 500 KB that Envoy passes on in part is no matter", async (t) => {
  const answer = await fetchOnce(web, { path: "/orders", method: "POST", body: "x".repeat(500_000) });
  t.equal(answer.status, 400, "the service's own answer");
  t.match((await guarded.entries(1, ({ method }) => method === "POST")).at(-1), {
    decision: "allow",
    details: "via_upstream",
  });
});

const hostile = [
  { name: "100 KB in one header", headers: { "x-long": "x".repeat(100_000) } },
  { name: "two authorization headers", headers: { authorization: ["Bearer a.b.c", "Bearer d.e.f"] } },
  { name: "a token of 20 KB", headers: { authorization: `Bearer ${"a".repeat(20_000)}` } },
  { name: "a forged XFCC", headers: { "x-forwarded-client-cert": "Hash=zz;URI=spiffe://shop.example/admin" } },
  { name: "a forged address", headers: { "x-forwarded-for": "10.0.0.1", "x-sallyport-source": "10.0.0.1" } },
  { name: "bytes that are no UTF-8", headers: { "x-bin": "\xff\xfe\x80" } },
];
for (const { name, headers } of hostile) {
  t.test(`${name}: an answer, and the same principal`, async (t) => {
    const answer = await curl(web, { path: "/orders/1", headers }, ["--http1.1"]).catch((error: Error) => error);
    t.ok(answer instanceof Error || [200, 401, 403, 431].includes(answer.status), JSON.stringify(answer).slice(0, 200));
    t.equal((await fetchOnce(web, { path: "/orders/1" })).status, 200, "and the next caller is served");
    t.match(service.received.at(-1)?.headers["x-sallyport-principal"], "spiffe://shop.example/web");
  });
}

t.test("no secret is in any log, metric, page or file", async (t) => {
  await fetchOnce(web, { path: "/orders/1", headers: { "x-api-key": SECRETS.key, cookie: SECRETS.cookie } });
  const page = await (await fetch(`http://${sidecar.api}/`)).text();
  const metrics = await (await fetch(`http://${sidecar.health}/metrics`)).text();
  const { out } = await runCommand([
    "tap",
    "--recent",
    "1000",
    "--count",
    "5",
    "--output",
    "json",
    "--api",
    sidecar.api,
  ]);
  const files = await Promise.all(
    (await readdir(guarded.folder))
      .filter((name) => !name.endsWith(".sock"))
      .map((name) => readFile(join(guarded.folder, name), "utf8")),
  );
  const access = JSON.stringify(await envoy.accessLog());
  const all = [page, metrics, out, access, ...files].join("\n");
  const [, , signature] = SECRETS.token.split(".");
  for (const secret of [signature!, SECRETS.key, SECRETS.cookie]) t.notOk(all.includes(secret), secret.slice(0, 6));
});
