import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { ServiceAccounts } from "../../src/control/service-accounts.ts";
import { eventually, metric, readiness } from "../support/guarded.ts";
import { makeScene } from "./scene.ts";
import { fakeApi } from "./workloads/fake-api.ts";

const AUDIENCE = "sallyport-control";
const NOW = Date.parse("2026-03-02T12:00:00Z");

/** As the API signs them, but for the signature: who believes them asks the API. */
function tokenOf(payload: Readonly<Record<string, unknown>>): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "RS256", kid: "k" })}.${part(payload)}.c2lnbmF0dXJl`;
}

const GOOD = { aud: [AUDIENCE], exp: NOW / 1_000 + 3_600, sub: "system:serviceaccount:shop:orders" };
const STATUS = { authenticated: true, audiences: [AUDIENCE], user: { username: GOOD.sub } };

function accounts(answers: { status: unknown } | { error: Error }, clock = { nowMs: NOW }) {
  const asked: unknown[] = [];
  const failures: unknown[] = [];
  const state = { answers };
  const one = new ServiceAccounts({
    audience: AUDIENCE,
    now: () => clock.nowMs,
    review: async (review) => {
      asked.push(review);
      if ("error" in state.answers) throw state.answers.error;
      return { status: state.answers.status };
    },
    onFailure: (error) => failures.push(error),
  });
  return { one, asked, failures, state, clock };
}

t.test("a token that the cluster calls good is its service account's, until it ends", async (t) => {
  const { one, asked, clock } = accounts({ status: STATUS });
  const authorization = `Bearer ${tokenOf(GOOD)}`;
  t.match(one.find(authorization), { ok: false, why: /not reviewed/ });
  await Promise.all([one.prepare(authorization), one.prepare(authorization), one.prepare(authorization)]);
  t.match(one.find(authorization), {
    ok: true,
    account: { namespace: "shop", name: "orders", untilMs: NOW + 3_600_000 },
  });
  t.match(asked, [
    {
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenReview",
      spec: { audiences: [AUDIENCE], token: tokenOf(GOOD) },
    },
  ]);
  t.equal(asked.length, 1, "once for all calls that wait for it");
  clock.nowMs += 3_600_000;
  t.match(one.find(authorization), { ok: false, why: /expired/ });
});

for (const { name, status, why } of [
  { name: "not authenticated", status: { authenticated: false, error: "bad" }, why: /does not accept/ },
  {
    name: "for nobody in particular",
    status: { ...STATUS, audiences: undefined },
    why: /is not for sallyport-control/,
  },
  { name: "for others", status: { ...STATUS, audiences: ["other"] }, why: /is not for sallyport-control/ },
  { name: "a user's", status: { ...STATUS, user: { username: "admin" } }, why: /no service account/ },
  { name: "an odd name", status: { ...STATUS, user: { username: "system:serviceaccount:a/b:c" } }, why: /no service/ },
  { name: "no status", status: undefined, why: /does not accept/ },
]) {
  t.test(`a token is refused: ${name}`, async (t) => {
    const { one } = accounts({ status });
    const authorization = `Bearer ${tokenOf(GOOD)}`;
    await one.prepare(authorization);
    t.match(one.find(authorization), { ok: false, why });
  });
}

t.test("a token without an end is refused", async (t) => {
  const { one } = accounts({ status: STATUS });
  const authorization = `Bearer ${tokenOf({ ...GOOD, exp: undefined })}`;
  await one.prepare(authorization);
  t.match(one.find(authorization), { ok: false, why: /ends \(exp\)/ });
});

for (const { name, payload, why } of [
  {
    name: "is for others",
    payload: { ...GOOD, aud: ["api"] },
    why: /is not for sallyport-control \(kubernetes-token-audience/,
  },
  { name: "is for nobody", payload: { ...GOOD, aud: undefined }, why: /is not for sallyport-control/ },
  { name: "has ended", payload: { ...GOOD, exp: NOW / 1_000 }, why: /has expired/ },
  { name: "never ends", payload: { ...GOOD, exp: "never" }, why: /ends \(exp\)/ },
]) {
  t.test(`a token that says itself that it ${name} is refused without asking the cluster`, async (t) => {
    const { one, asked } = accounts({ status: STATUS });
    const authorization = `Bearer ${tokenOf(payload)}`;
    await one.prepare(authorization);
    t.match(one.find(authorization), { ok: false, why });
    t.same(asked, []);
  });
}

t.test("an API that does not answer is told of once, whoever calls meanwhile", async (t) => {
  const { one, state, failures } = accounts({ error: new Error("ECONNREFUSED") });
  const calls = (from: number) =>
    Promise.all([1, 2, 3].map((count) => one.prepare(`Bearer ${tokenOf({ ...GOOD, jti: String(from + count) })}`)));
  await calls(0);
  t.equal(failures.length, 1);
  state.answers = { status: STATUS };
  await calls(10);
  state.answers = { error: new Error("ECONNREFUSED") };
  await calls(20);
  t.equal(failures.length, 2, "and again after it has answered");
});

t.test("tokens that somebody makes up take no place from a good one", async (t) => {
  const { one, state, asked, clock } = accounts({ status: STATUS });
  const good = `Bearer ${tokenOf(GOOD)}`;
  await one.prepare(good);
  state.answers = { status: { authenticated: false } };
  for (let count = 0; count < 20_001; count++) await one.prepare(`Bearer ${tokenOf({ ...GOOD, jti: String(count) })}`);
  const soFar = asked.length;
  t.match(one.find(good), { ok: true });
  await one.prepare(good);
  t.equal(asked.length, soFar, "it is remembered");
  // Of the made-up ones the newest are remembered, and not asked about again at once.
  await one.prepare(`Bearer ${tokenOf({ ...GOOD, jti: "20000" })}`);
  t.equal(asked.length, soFar);
  // Once the cluster takes it back it is no good one any more.
  clock.nowMs += 5 * 60_000;
  await eventually(async () => (one.find(good)?.ok === false ? true : undefined));
});

t.test("an API that does not answer refuses who is new, and takes nothing from who is known", async (t) => {
  const { one, state, failures, asked, clock } = accounts({ error: new Error("ECONNREFUSED") });
  const authorization = `Bearer ${tokenOf(GOOD)}`;
  await one.prepare(authorization);
  t.match(one.find(authorization), { ok: false, why: /could not be asked/ });
  await one.prepare(authorization);
  t.equal(asked.length, 1, "not again at once");
  clock.nowMs += 10_000;
  state.answers = { status: STATUS };
  await one.prepare(authorization);
  t.match(one.find(authorization), { ok: true });
  state.answers = { error: new Error("ECONNREFUSED") };
  clock.nowMs += 5 * 60_000;
  t.match(one.find(authorization), { ok: true });
  await eventually(async () => (failures.length === 2 ? true : undefined));
  t.match(one.find(authorization), { ok: true });
  const soFar = asked.length;
  one.find(authorization);
  t.equal(asked.length, soFar, "not again at once");
  // And a cluster that says no counts, as soon as it is heard.
  state.answers = { status: { authenticated: false } };
  clock.nowMs += 30_000;
  await eventually(async () => (one.find(authorization)?.ok === false ? true : undefined));
  t.notOk(JSON.stringify(failures).includes(tokenOf(GOOD)));
});

t.test("what is no token for us is shown to nobody, whatever it is", async (t) => {
  const { one, asked } = accounts({ status: STATUS });
  const other = fc.oneof(
    fc.string(),
    fc.constantFrom(
      `Bearer ${tokenOf({ ...GOOD, aud: ["api"], sub: "ann" })}`,
      "Bearer a.b.c",
      `Basic ${tokenOf(GOOD)}`,
    ),
    fc.json().map((json) => `Bearer e30.${Buffer.from(json).toString("base64url")}.e30`),
  );
  await fc.assert(
    fc.asyncProperty(other, async (authorization) => {
      await one.prepare(authorization);
      t.equal(one.find(authorization), undefined);
    }),
  );
  await one.prepare(undefined);
  t.same(asked, []);
});

t.test("a sidecar that shows its service account's token is let in by its grant, another is not", async (t) => {
  const clients: Record<string, string> = { orders: "shop", strangers: "elsewhere" };
  const payload = (account: string) => ({
    aud: [AUDIENCE],
    exp: Math.floor(Date.now() / 1_000) + 3_600,
    sub: `system:serviceaccount:${clients[account]}:${account}`,
  });
  const api = await fakeApi(t, {
    review: (token, audiences) => {
      const { sub } = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()) as { sub: string };
      return { authenticated: true, audiences, user: { username: sub } };
    },
  });
  const scene = await makeScene(t);
  const config = await scene.file(
    "control.yaml",
    `grants: [{ spiffe: "spiffe://shop.example/ns/shop/sa/*", roles: [sidecar] }]\n`,
  );
  const control = await scene.control([
    ...["--config", config, "--state-dir", join(scene.folder, "control"), "--kubernetes", "--kubernetes-api", api.url],
    ...["--trust-domain", "shop.example", "--kubernetes-token-audience", AUDIENCE],
  ]);
  const { code, err } = await control.fleet("publish", await scene.bundle({ revision: 1, spec: "{}" }));
  t.equal(code, 0, err);
  const start = async (account: string) =>
    await startSidecarProcess({
      name: account,
      folder: scene.folder,
      flags: [
        ...["--control", control.url, "--bundle-keys", join(scene.folder, "keys.json"), "--policy-missing", "shipped"],
        ...[
          "--control-token-file",
          await scene.file(`${account}.jwt`, tokenOf(payload(account))),
          "--policy-wait",
          "1s",
        ],
      ],
    });
  const sidecar = await start("orders");
  t.teardown(() => sidecar.kill());
  await eventually(async () => ("policy_expires" in (await readiness(sidecar)) ? true : undefined));
  const stranger = await start("strangers");
  t.teardown(() => stranger.kill());
  t.notOk("policy_expires" in (await readiness(stranger)), "it has the shipped policy");
  await eventually(async () =>
    (await metric(stranger, "sallyport_policy_source_failures_total")) > 0 ? true : undefined,
  );
  t.notOk(control.log().includes(tokenOf(payload("orders")).slice(0, 60)), "no token in the log");
});
