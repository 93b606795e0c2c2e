import t from "tap";
import { runCommand } from "../../scripts/demo/sidecar.ts";
import { fetchOnce } from "../support/clients.ts";
import { eventually, metric, readiness, type Spec, startGuarded, startOrders } from "../support/guarded.ts";

const LISTED = "127.0.0.77";

/** A list whose one address is worth 14 bits: about 42 points for whom nothing is known of. */
const LISTS: Spec = {
  lists: {
    addresses: [{ name: "proxies", action: "score", bits: 14, reason: "an open proxy", ranges: [`${LISTED}/32`] }],
  },
};

const guarded = await startGuarded({ config: "envoy/http-mtls.yaml", service: startOrders, spec: LISTS });
t.teardown(() => guarded.stop());
const { sidecar, service } = guarded;

let callers = 0;
/** A caller whom nobody knows yet, at the listed address. */
const stranger = (name = `stranger-${++callers}`) => guarded.caller(name, { localAddress: LISTED });

let requests = 0;
/** Sends one request and returns its status with what the access log says of it. */
async function call(caller: Awaited<ReturnType<typeof stranger>>, path = "/orders/1") {
  const answer = await fetchOnce(caller, { path });
  requests++;
  return { ...answer, log: (await guarded.entries(requests)).at(-1)! };
}

t.test("what is listed with a score is challenged from the threshold on", async (t) => {
  const { status, log } = await call(await stranger());
  t.equal(status, 401);
  t.match(log, { decision: "challenge", reasons: [/^reputation\.address:\d/] });
  t.ok(Number(log.score) >= 26 && Number(log.score) < 60, String(log.score));
});

t.test("routes and principals may have thresholds of their own", async (t) => {
  await guarded.setPolicy({
    ...LISTS,
    rules: [
      {
        name: "open-doors",
        match: { routes: ["/orders/**"], methods: ["GET"] },
        thresholds: { challenge: 90, deny: 95, terminate: 100 },
      },
      {
        name: "trusted",
        match: { principals: ["spiffe://shop.example/trusted-*"] },
        thresholds: { challenge: 90, deny: 95, terminate: 100 },
      },
    ],
  });
  const byRoute = await call(await stranger(), "/orders/1");
  t.match([byRoute.status, byRoute.log], [200, { decision: "allow", reasons: [/^reputation\.address/] }]);
  t.equal((await call(await stranger(), "/customers/1")).status, 401, "another route");
  t.equal((await call(await stranger("trusted-one"), "/customers/1")).status, 200);
  t.equal((await call(await stranger("not-trusted-one"), "/customers/1")).status, 401, "another principal");
});

t.test("a signal in observe mode is shown and does not count; switched off, it is not read", async (t) => {
  await guarded.setPolicy({ ...LISTS, signals: { "reputation.address": { mode: "observe" } } });
  const observed = await call(await stranger());
  t.match([observed.status, observed.log], [200, { decision: "allow", mode: "enforce" }]);
  const id = String(observed.log.decision_id);
  const explained = await runCommand(["explain", id, "--api", sidecar.api]);
  t.match(
    explained.out,
    / {2}0\.0 {3}14\.0 {2}reputation\.address: 127\.0\.0\.77 on proxies: an open proxy; expected not listed/,
  );
  await guarded.setPolicy({ ...LISTS, signals: { reputation: { mode: "off" } } });
  const off = await call(await stranger());
  t.equal(off.status, 200);
  t.notOk(
    (await runCommand(["explain", String(off.log.decision_id), "--api", sidecar.api])).out.includes("reputation"),
  );
});

t.test("a signal's cap bounds what it adds", async (t) => {
  await guarded.setPolicy({ ...LISTS, signals: { "reputation.address": { capBits: 2 } } });
  const { status, log } = await call(await stranger());
  t.equal(status, 200);
  t.ok(Number(log.score) < 10, String(log.score));
});

t.test("a policy in observe mode lets everything pass and says what it would have done", async (t) => {
  await guarded.setPolicy({ ...LISTS, mode: "observe", identity: { trustedSpiffe: ["spiffe://shop.example/none"] } });
  const { status, log } = await call(await stranger());
  t.equal(status, 200);
  t.match(log, { decision: "deny", mode: "observe", score: 100, reasons: ["identity.untrusted:100"] });
  t.match(service.received.at(-1)?.headers, { "x-sallyport-decision": "deny", "x-sallyport-score": "100" });
  t.equal(await metric(sidecar, "sallyport_checks_total", 'decision="deny",enforced="allow"'), 1);
});

t.test("one rule may enforce where the policy observes", async (t) => {
  await guarded.setPolicy({
    mode: "observe",
    rules: [
      { name: "admin", match: { routes: ["/admin/**"] }, decision: "deny", mode: "enforce" },
      { name: "rest", decision: "deny" },
    ],
  });
  t.equal((await call(await stranger(), "/admin/export")).status, 403);
  t.equal((await call(await stranger(), "/orders/1")).status, 200);
});

t.test("a denial tells its reasons where the policy reveals them", async (t) => {
  const spec = { identity: { trustedSpiffe: ["spiffe://shop.example/none"] } };
  await guarded.setPolicy(spec);
  const closed = await call(await stranger());
  t.notOk("reasons" in (JSON.parse(closed.body) as object));
  await guarded.setPolicy({ ...spec, response: { revealReasons: true } });
  const open = await call(await stranger());
  t.match(JSON.parse(open.body), {
    status: 403,
    decision_id: open.log.decision_id,
    score: 100,
    reasons: [{ signal: "identity.untrusted", points: 100 }],
  });
});

t.test("the service is told nothing where the policy says so", async (t) => {
  await guarded.setPolicy({ response: { upstreamHeaders: false } });
  t.equal((await call(await stranger())).status, 200);
  const names = Object.keys(service.received.at(-1)?.headers ?? {});
  t.same(
    names.filter((name) => /sallyport/.test(name)),
    [],
  );
});

t.test("certain facts win over a rule that lets through, locks over everything", async (t) => {
  const principal = "spiffe://shop.example/locked-by-policy";
  await guarded.setPolicy({
    lists: {
      addresses: [{ name: "blocked", action: "block", reason: "seen in an incident", ranges: [`${LISTED}/32`] }],
    },
    rules: [{ name: "everybody", decision: "allow" }],
    locks: [{ id: "held", scope: { principal }, reason: "incident 7" }],
  });
  const blocked = await call(await stranger());
  t.match([blocked.status, blocked.log], [403, { decision: "deny", score: 100, reasons: ["reputation.address:100"] }]);
  const locked = await call(await guarded.caller("locked-by-policy"));
  t.match([locked.status, locked.log], [403, { decision: "terminate", reasons: ["lock:100"] }]);
  t.equal((await call(await guarded.caller("anybody"))).status, 200);
});

t.test("conditions ask for the request, its caller's peer group and the score", async (t) => {
  await guarded.setPolicy({
    ...LISTS,
    peerGroups: [{ name: "workers", principals: ["spiffe://shop.example/worker-*"] }],
    rules: [
      { name: "no-deletes", when: 'request.method == "DELETE" || glob(request.path, "/admin/**")', decision: "deny" },
      {
        name: "workers",
        match: { peerGroups: ["workers"] },
        when: 'score > 20 && readings["reputation.address"] > 0',
        decision: "allow",
      },
      { name: "broken", when: "1 / request.bytes == 1", decision: "allow" },
      { name: "group", when: 'principal.peer_group == "" && inRange(source.address, "127.0.0.0/8")', decision: "deny" },
    ],
  });
  const errors = await metric(sidecar, "sallyport_condition_errors_total");
  t.equal((await call(await stranger(), "/admin/export")).status, 403);
  const worker = await call(await stranger("worker-7"));
  t.match([worker.status, worker.log], [200, { decision: "allow", reasons: [/^reputation\.address:\d/] }]);
  const other = await call(await stranger());
  t.equal(other.status, 403);
  t.ok(
    (await metric(sidecar, "sallyport_condition_errors_total")) > errors,
    "the rule that cannot be evaluated is counted",
  );
  t.match((await runCommand(["explain", String(other.log.decision_id), "--api", sidecar.api])).out, /rule group/);
});

t.test("a forwarded challenge reaches the service with what it needs, and no spoofed headers do", async (t) => {
  await guarded.setPolicy({
    ...LISTS,
    rules: [{ name: "own", match: { routes: ["/orders/**"] }, challenge: { kinds: ["forward"] } }],
  });
  const caller = await stranger();
  const spoofed = { "x-sallyport-challenge": "none", "x-sallyport-issued-after": "1" };
  const answer = await fetchOnce(caller, { path: "/orders/1", headers: spoofed });
  requests++;
  t.equal(answer.status, 200);
  const { headers } = service.received.at(-1)!;
  t.match(headers, {
    "x-sallyport-decision": "challenge",
    "x-sallyport-challenge": "step-up",
    "x-sallyport-issued-after": /^\d{10}$/,
  });
  t.match((await guarded.entries(requests)).at(-1), { decision: "challenge", mode: "enforce" });
  t.equal(await metric(sidecar, "sallyport_checks_total", 'decision="challenge",enforced="allow"'), 1);
  const calm = await fetchOnce(await guarded.caller("calm"), { path: "/orders/1", headers: spoofed });
  requests++;
  t.equal(calm.status, 200);
  const names = Object.keys(service.received.at(-1)?.headers ?? {});
  t.notOk(names.includes("x-sallyport-challenge") || names.includes("x-sallyport-issued-after"));
});

t.test("refusals carry the policy's headers and body, a rule's in place of them", async (t) => {
  await guarded.setPolicy({
    response: {
      headers: { "X-Support": "https://help.example/{decision_id}" },
      deny: { text: '{"id":"{decision_id}","who":"{principal}"}', contentType: "application/json" },
    },
    rules: [
      {
        name: "html",
        match: { routes: ["/html"] },
        decision: "deny",
        response: { deny: { text: "<p>{decision}</p>", contentType: "text/html" } },
      },
      { name: "all", decision: "deny" },
    ],
  });
  const json = await call(await stranger("told"));
  t.equal(json.status, 403);
  t.same(JSON.parse(json.body), { id: json.log.decision_id, who: "spiffe://shop.example/told" });
  t.match(json.headers, {
    "content-type": "application/json",
    "x-support": `https://help.example/${json.log.decision_id}`,
    "cache-control": "no-store",
  });
  const html = await call(await stranger(), "/html");
  t.match([html.body, html.headers["content-type"]], ["<p>deny</p>", "text/html"]);
  t.ok(html.headers["x-support"], "the policy's headers stay");
});

t.test("a policy that is wrong changes nothing, and the next good one counts at once", async (t) => {
  await guarded.setPolicy({ rules: [{ name: "none", decision: "deny" }] });
  t.equal((await call(await stranger())).status, 403);
  const refusals = await metric(sidecar, "sallyport_policy_loads_total", "refused");
  await guarded.writePolicy({ rules: [{ name: "none", decision: "perhaps" }] }, "bad");
  await eventually(async () =>
    (await metric(sidecar, "sallyport_policy_loads_total", "refused")) > refusals ? true : undefined,
  );
  t.match(await readiness(sidecar), { ready: true, policy: "latest refused, last good in force" });
  t.equal((await call(await stranger())).status, 403);
  await guarded.setPolicy({});
  t.match(await readiness(sidecar), { ready: true, policy: "current" });
  t.equal((await call(await guarded.caller("after"))).status, 200);
});
