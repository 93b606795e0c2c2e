import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { makeSigner } from "../bundle/sync/bundles.ts";
import { eventually } from "../support/guarded.ts";
import { makeScene, startClient, TOKENS } from "./scene.ts";

t.test("a published bundle reaches a watching sidecar, and the fleet shows it", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control();
  const client = startClient(t, scene, control.url);
  await eventually(async () => client.errors.find(({ code }) => code === "ERR_BUNDLE_UNREACHABLE"));
  t.match(client.errors[0]?.message, /channel default has no bundle/);
  t.match(await control.fleet("publish", await scene.bundle({ revision: 1 })), {
    code: 0,
    out: "published shop:1 to channel default\n",
  });
  await eventually(async () => (client.facts?.revision === 1 ? true : undefined));
  await eventually(async () => (client.confirmed > 0 ? true : undefined));
  await control.fleet("publish", await scene.bundle({ revision: 2, spec: "{ mode: observe }" }));
  await eventually(async () => (client.facts?.revision === 2 ? true : undefined));
  const status = await eventually(async () => {
    const ran = await control.fleet("status", "--output", "json");
    return ran.code === 0 && ran.out.includes('"revision":"2"') && !ran.out.includes('"sidecars":[]')
      ? ran.out
      : undefined;
  });
  t.match(JSON.parse(status), {
    total: 1,
    sidecars: [
      {
        status: {
          sidecar_id: "one",
          in_force: { name: "shop", revision: "2" },
          mode: "enforce",
          checks: "7",
          decisions: { allow: "5", deny: "1" },
        },
        channel: "default",
        lagging: false,
        failing: false,
      },
    ],
  });
  const metrics = await (await fetch(`http://${control.health}/metrics`)).text();
  t.match(metrics, /^sallyport_control_watching_sidecars 1$/m);
  t.match(metrics, /^sallyport_control_changes_total\{action="publish",result="done"\} 2$/m);
  t.match(
    control.log(),
    /"event":"audit","action":"publish","channel":"default","by":"token operator","from":"127\.0\.0\.1"/,
  );
  for (const secret of Object.values(TOKENS)) t.notMatch(control.log() + metrics, secret);
  t.equal(await control.stop(), 0);
});

t.test("tampered, older, forked, foreign, expired and nameless bundles are refused with their codes", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control();
  const good = await scene.bundle({ revision: 5 });
  t.equal((await control.fleet("publish", good)).code, 0);
  t.equal((await control.fleet("publish", good)).code, 0, "the same again is fine");
  const bytes = await readFile(await scene.bundle({ revision: 6 }));
  bytes[bytes.length - 20]! ^= 1;
  const cases = [
    { name: "tampered", path: await scene.file("tampered.bundle", bytes), code: "ERR_BUNDLE_INVALID" },
    { name: "older", path: await scene.bundle({ revision: 4 }), code: "ERR_BUNDLE_ROLLBACK" },
    {
      name: "forked",
      path: await scene.file(
        "forked.bundle",
        await readFile(await scene.bundle({ revision: 5, spec: "{ mode: observe }" })),
      ),
      code: "ERR_BUNDLE_ROLLBACK",
    },
    { name: "foreign", path: await scene.bundle({ revision: 9 }, makeSigner()), code: "ERR_BUNDLE_SIGNATURE" },
    {
      name: "expired",
      path: await scene.bundle({ revision: 10, issuedAtMs: 1_000, expiresAtMs: 2_000 }),
      code: "ERR_BUNDLE_EXPIRED",
    },
    { name: "another name", path: await scene.bundle({ revision: 11, name: "other" }), code: "ERR_" },
    { name: "no bundle", path: await scene.file("no.bundle", "hello"), code: "ERR_BUNDLE_INVALID" },
  ];
  for (const { name, path, code } of cases) {
    const ran = await control.fleet("publish", path);
    t.equal(ran.code, 1, name);
    t.match(ran.err, new RegExp(`\\(${code}`), name);
  }
  t.match(JSON.parse((await control.fleet("channels", "--output", "json")).out), {
    stable: { name: "shop", revision: "5" },
    highest: { revision: "5" },
  });
});

t.test("a canary goes to some, is widened and promoted; aborted, its holders stay ahead", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control();
  await control.fleet("publish", await scene.bundle({ revision: 1 }));
  const none = { code: 1, out: /0 sidecars/, err: /no sidecar has reported yet/ };
  t.match(await control.fleet("status"), none);
  t.match(await control.fleet("status", "--lagging", "--wait", "1ms"), none, "nor does a filter make it good");
  const clients = ["a", "b", "c"].map((zone) =>
    startClient(t, scene, control.url, { sidecarId: zone, labels: { zone } }),
  );
  const revisions = (): (number | undefined)[] => clients.map(({ facts }) => facts?.revision);
  const reach = (...wanted: number[]) =>
    eventually(async () => (JSON.stringify(revisions()) === JSON.stringify(wanted) ? true : undefined));
  await reach(1, 1, 1);
  const started = await control.fleet("canary", await scene.bundle({ revision: 2 }), "--selector", "zone=a");
  t.equal(started.out, "channel default (everyone else): shop:1, canary shop:2 for zone=a\n");
  await reach(2, 1, 1);
  t.match(await control.fleet("publish", await scene.bundle({ revision: 3 })), {
    code: 1,
    err: /a canary of shop:2 is under way/,
  });
  t.match(await control.fleet("canary", "--selector", "zone=b"), { code: 0, out: /zone=a or zone=b/ });
  await reach(2, 2, 1);
  t.equal((await control.fleet("promote")).code, 0);
  await reach(2, 2, 2);

  await control.fleet("canary", await scene.bundle({ revision: 4 }), "--selector", "zone=c");
  await reach(2, 2, 4);
  await eventually(async () =>
    (await control.fleet("status", "--revision", "4", "--output", "json")).out.includes('"sidecar_id":"c"')
      ? true
      : undefined,
  );
  const aborted = await control.fleet("abort");
  t.match(aborted.out, /1 reported sidecars hold shop:4 and keep it/);
  t.match(aborted.out, /sallyport bundle build --from OLD --revision 5/);
  t.match(JSON.parse((await control.fleet("status", "--output", "json")).out), {
    sidecars: [
      { ahead: false },
      { ahead: false },
      { ahead: true, lagging: false, status: { in_force: { revision: "4" } } },
    ],
  });
  t.match(await control.fleet("publish", await scene.bundle({ revision: 4, spec: "{ mode: observe }" })), { code: 1 });
  t.equal((await control.fleet("publish", await scene.bundle({ revision: 5 }))).code, 0);
  await reach(5, 5, 5);
});

t.test("a channel has the sidecars that its labels name", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control();
  t.equal((await control.fleet("channels", "prod", "--selector", "env=prod")).code, 0);
  t.match(await control.fleet("publish", await scene.bundle({ revision: 1 }), "--channel", "prd"), {
    code: 1,
    err: /no channel "prd"; did you mean prod\?.*\(ERR_NOT_FOUND\)/,
  });
  t.match(await control.fleet("status", "--channel", "prd"), {
    code: 1,
    err: /--channel: no channel "prd"; did you mean prod\? \(ERR_NOT_FOUND\)/,
  });
  await control.fleet("publish", await scene.bundle({ revision: 1 }));
  await control.fleet("publish", await scene.bundle({ revision: 7 }), "--channel", "prod");
  const prod = startClient(t, scene, control.url, { sidecarId: "p", labels: { env: "prod", zone: "a" } });
  const other = startClient(t, scene, control.url, { sidecarId: "o", labels: { env: "test" } });
  await eventually(async () => (prod.facts?.revision === 7 && other.facts?.revision === 1 ? true : undefined));
});

t.test("a bundle too large for the control plane is refused as that", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control(["--bundle-bytes-max", "2000"]);
  const text = Array.from({ length: 90_000 }, (_, n) => `10.${n >> 16}.${(n >> 8) & 255}.${n & 255}/32\n`).join("");
  const large = await scene.bundle({ revision: 1, text });
  t.match(await control.fleet("publish", large), { code: 1, err: /ERR_BUNDLE_TOO_LARGE/ });
});

t.test("wrong tokens, foreign roles and missing ones are told apart, and none is let in", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control();
  const wrong = startClient(t, scene, control.url, { tokenFile: await scene.file("wrong.token", "wrong") });
  const viewer = startClient(t, scene, control.url, { tokenFile: join(scene.folder, "viewer.token") });
  t.match(await eventually(async () => wrong.errors[0]), {
    code: "ERR_BUNDLE_UNREACHABLE",
    message: /Unauthenticated: the bearer token is not known/,
  });
  t.match(await eventually(async () => viewer.errors[0]), { message: /PermissionDenied/ });
  const call = (method: string, headers: Record<string, string>, body = "{}") =>
    fetch(`${control.url}/sallyport.control.v1.FleetService/${method}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body,
    });
  t.equal((await call("ListChannels", {})).status, 200, "loopback may look without a token");
  t.equal(
    (await call("ListChannels", { origin: "http://evil.example" })).status,
    401,
    "but not for a page of another site",
  );
  t.equal((await call("PromoteCanary", {}, '{"channel":"default"}')).status, 403, "and change nothing");
  t.equal(
    (await call("PromoteCanary", { authorization: `Bearer ${TOKENS.viewer}` }, '{"channel":"default"}')).status,
    403,
  );
  t.equal((await call("ListChannels", { authorization: `Bearer ${TOKENS.sidecar}` })).status, 403);
  const page = await fetch(control.url);
  t.match(page.headers.get("content-security-policy"), /default-src 'none'/);
  t.match(await page.text(), /Sallyport fleet/);
});

t.test("a report of garbage is refused and counted, and the fleet stays as it was", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control();
  const report = (status: unknown) =>
    fetch(`${control.url}/sallyport.control.v1.ControlService/Report`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${TOKENS.sidecar}` },
      body: JSON.stringify({ status }),
    });
  const garbage = [
    undefined,
    {},
    { sidecarId: "with space" },
    { sidecarId: "x".repeat(300) },
    { sidecarId: "a", mode: "maybe" },
    { sidecarId: "a", freshness: "<script>" },
    { sidecarId: "a", inForce: { digest: "zz" } },
    { sidecarId: "a", refusals: Array.from({ length: 6 }, () => ({})) },
    { sidecarId: "a", labels: { "": "x" } },
    { sidecarId: "a", scoreRates: [{ score: 900 }] },
  ];
  for (const status of garbage)
    t.equal((await report(status)).status, 400, JSON.stringify(status)?.slice(0, 60) ?? "none");
  t.equal((await report({ sidecarId: "a" })).status, 200);
  t.match(JSON.parse((await control.fleet("status", "--output", "json")).out), { total: 1 });
});

t.test("what was published outlives kill -9; a torn state file is set aside and said", async (t) => {
  const scene = await makeScene(t);
  const state = join(scene.folder, "state");
  const first = await scene.control(["--state-dir", state]);
  await first.fleet("publish", await scene.bundle({ revision: 3 }));
  await first.kill();
  const second = await scene.control(["--state-dir", state]);
  t.match((await second.fleet("channels")).out, /shop:3/);
  const client = startClient(t, scene, second.url);
  await eventually(async () => (client.facts?.revision === 3 ? true : undefined));
  t.match(await second.fleet("publish", await scene.bundle({ revision: 2 })), { code: 1, err: /ERR_BUNDLE_ROLLBACK/ });
  await second.kill();
  const text = await readFile(join(state, "fleet.state"));
  await writeFile(join(state, "fleet.state"), text.subarray(0, text.length - 30));
  const third = await scene.control(["--state-dir", state]);
  t.match(third.log(), /"event":"state\.unusable"/);
  t.equal((await readFile(join(state, "fleet.state.unusable"))).length, text.length - 30);
  t.match((await third.fleet("channels")).out, /channel default \(everyone else\): nothing/);
});

t.test("a changed line of a large list travels as a difference", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control();
  const lines = Array.from(
    { length: 40_000 },
    (_, index) => `# ${createHash("sha256").update(String(index)).digest("hex")}`,
  );
  const text = (extra: string) =>
    `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: p }\n${lines.join("\n")}\n${extra}`;
  await control.fleet("publish", await scene.bundle({ revision: 1, text: text("") }));
  const client = startClient(t, scene, control.url);
  await eventually(async () => (client.facts?.revision === 1 ? true : undefined));
  const sent = async (): Promise<number> => {
    const metrics = await (await fetch(`http://${control.health}/metrics`)).text();
    return Number(/^sallyport_control_chunk_sent_bytes (\d+)$/m.exec(metrics)?.[1]);
  };
  const whole = await sent();
  t.ok(whole > 1_000_000, `${whole} bytes at first`);
  await control.fleet("publish", await scene.bundle({ revision: 2, text: text("# one more\n") }));
  await eventually(async () => (client.facts?.revision === 2 ? true : undefined));
  t.ok((await sent()) - whole < 300_000, `${(await sent()) - whole} bytes for the difference`);
});
