/** Drives locks of the fleet with real processes: a control plane, two sidecars, and what becomes of them in faults. */

import { createHash, generateKeyPairSync } from "node:crypto";
import { join } from "node:path";
import t from "tap";
import { type SidecarProcess, startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { jwks, sign } from "../shared-signals/world.ts";
import { type CheckClient, checkBytes, checkClient } from "../support/check-client.ts";
import { command } from "../support/command.ts";
import { type Control, makeScene, type Scene, startClient, TOKENS } from "./scene.ts";

/** A client that was cut off waits up to a minute before it calls again. */
const WAIT_MS = 70_000;
const VICTIM = { principal: "spiffe://shop.example/victim" };
const THIRD = { principal: "spiffe://shop.example/third" };
const OTHER = { principal: "spiffe://shop.example/other" };

async function eventually(what: string, look: () => Promise<boolean>): Promise<void> {
  const until = performance.now() + WAIT_MS;
  while (!(await look())) {
    if (performance.now() > until) throw new Error(`did not come: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

interface Told {
  readonly sub_id: { readonly uri: string };
  readonly events: object;
}

interface Asked {
  readonly process: SidecarProcess;
  readonly client: CheckClient;
}

async function sidecarOf(scene: Scene, control: Control, name: string, ...flags: string[]): Promise<Asked> {
  const process = await startSidecarProcess({
    name,
    folder: scene.folder,
    flags: [
      ...["--control", control.url, "--control-token-file", join(scene.folder, "sidecar.token")],
      ...["--bundle-keys", join(scene.folder, "keys.json"), "--state-dir", join(scene.folder, `state-${name}`)],
      ...["--sidecar-id", name, ...flags],
    ],
  });
  return { process, client: checkClient(process.extAuthz) };
}

const decides = async ({ client }: Asked, parts: typeof VICTIM): Promise<string> => client.decision(checkBytes(parts));

async function published(t: Parameters<typeof makeScene>[0], ...flags: string[]) {
  const scene = await makeScene(t);
  const control = await scene.control(["--state-dir", join(scene.folder, "control"), ...flags]);
  const { code, err } = await control.fleet("publish", await scene.bundle({ revision: 1 }));
  if (code !== 0) throw new Error(err);
  return { scene, control };
}

t.test("one lock of the fleet refuses at every sidecar, outlives faults, and goes when it is taken away", async (t) => {
  const { scene, control } = await published(t);
  const strictFlags = ["--locks-on-stale", "strict", "--locks-stale-after", "2s"];
  const one = await sidecarOf(scene, control, "one");
  const two = await sidecarOf(scene, control, "two", ...strictFlags);
  const closing: Asked[] = [one, two];
  t.teardown(async () => {
    for (const { client, process } of closing) {
      client.close();
      await process.kill();
    }
  });
  t.equal(await decides(one, VICTIM), "allow");
  const locked = await control.fleet(
    "lock",
    "--principal",
    VICTIM.principal,
    "--reason",
    "incident 9",
    "--output",
    "json",
  );
  t.equal(locked.code, 0, locked.err);
  const { id, set_by } = JSON.parse(locked.out) as { id: string; set_by: string };
  t.match(id, /^fleet-[0-9a-f]{12}$/);
  t.equal(set_by, "fleet:operator");
  for (const sidecar of [one, two]) {
    await eventually("the lock", async () => (await decides(sidecar, VICTIM)) === "terminate");
    t.equal(await decides(sidecar, OTHER), "allow");
  }
  const listed = await command(["locks", "--api", one.process.api]);
  t.match(
    listed.out,
    new RegExp(`${id}  principal=${VICTIM.principal}  until unlocked  by fleet:operator: incident 9`),
  );
  const refused = await command(["unlock", id, "--api", `unix:${one.process.apiSocket}`]);
  t.match(refused, { code: 1, err: /at the control plane/ });
  t.match(control.log(), /"action":"lock".*"reason":"incident 9".*"by":"token operator"/);

  await control.kill();
  await one.process.kill();
  one.client.close();
  const again = await sidecarOf(scene, control, "one");
  closing.push(again);
  t.equal(await decides(again, VICTIM), "terminate", "kept by the journal");
  t.equal(await decides(again, OTHER), "allow", "best effort keeps what it has");
  await eventually("strict to refuse", async () => (await decides(two, OTHER)) === "deny");
  const ready = await fetch(`http://${two.process.health}/readyz`);
  t.equal(ready.status, 503);
  t.match(await ready.text(), /stale/);
  t.match(await (await fetch(`http://${two.process.health}/metrics`)).text(), /sallyport_fleet_locks_stale 1/);

  const port = Number(new URL(control.url).port);
  const back = await scene.control(["--state-dir", join(scene.folder, "control")], { port });
  await eventually("strict to be well again", async () => (await decides(two, THIRD)) === "allow");
  t.equal(await decides(two, VICTIM), "terminate", "the control plane has kept it");
  t.match(await back.fleet("unlock", id), { code: 0 });
  await eventually("the unlocking", async () => (await decides(two, VICTIM)) !== "terminate");
  await eventually("the unlocking", async () => (await decides(again, VICTIM)) !== "terminate");
  t.match(await back.fleet("unlock", id), { code: 1, err: /ERR_NOT_FOUND/ });
});

t.test("who may not change every channel locks nothing", async (t) => {
  const { scene, control } = await published(t);
  for (const role of ["viewer", "sidecar"] as const) {
    const token = ["--token-file", join(scene.folder, `${role}.token`), "--control", control.url];
    const { code, err } = await command(["fleet", "lock", "--principal", "x", "--reason", "y", ...token]);
    t.equal(code, 1);
    t.match(err, /ERR_API_UNAUTHORIZED/);
  }
  t.match(await control.fleet("lock", "--reason", "y"), { code: 2, err: /at least one of --principal/ });
  t.match(await control.fleet("lock", "--address", "10.0.0.0/33", "--reason", "y"), {
    code: 1,
    err: /ERR_LOCK_INVALID/,
  });
  t.match(await control.fleet("locks"), { code: 0, out: "no locks\n" });
});

t.test("a file that holds no token is refused, and not shown", async (t) => {
  const { scene, control } = await published(t);
  const two = await scene.file("two.token", "secret-one\nsecret-two\n");
  const { code, err } = await command(["fleet", "locks", "--token-file", two, "--control", control.url]);
  t.equal(code, 2);
  t.match(err, `--token-file ${two}: expected one token of visible ASCII`);
  t.notMatch(err, "secret-one");
});

t.test("a revoked session refuses at the sidecars; forged, foreign and repeated tokens change nothing", async (t) => {
  const scene = await makeScene(t);
  const idp = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const thief = generateKeyPairSync("ec", { namedCurve: "P-256" });
  await scene.file("idp.json", jwks(["one", idp]));
  const { privateKey } = generateKeyPairSync("ed25519");
  await scene.file("signing.pem", privateKey.export({ type: "pkcs8", format: "pem" }));
  const hash = (text: string): string => createHash("sha256").update(text).digest("hex");
  const signals = await scene.file(
    "signals.yaml",
    `receive:
  - name: idp
    issuer: https://idp.example.com/
    audiences: [https://sallyport.example.com]
    keys: { file: idp.json }
    push: { tokenSha256: [${hash("push-token")}] }
    scope: { principals: ["spiffe://shop.example/victim"] }
transmit:
  issuer: https://sallyport.example.com
  keys: [signing.pem]
  receivers:
    - { name: siem, tokenSha256: [${hash("siem-token")}], audience: [https://siem.example.com] }
`,
  );
  const flags = ["--state-dir", join(scene.folder, "control"), "--shared-signals", signals];
  const control = await scene.control(flags);
  await control.fleet("publish", await scene.bundle({ revision: 1 }));
  const one = await sidecarOf(scene, control, "one");
  t.teardown(async () => {
    one.client.close();
    await one.process.kill();
  });
  const token = (principal: string, jti: string, key = idp.privateKey): Promise<string> =>
    sign(
      {
        iss: "https://idp.example.com/",
        jti,
        iat: Math.floor(Date.now() / 1_000),
        aud: "https://sallyport.example.com",
        sub_id: { format: "uri", uri: principal },
        events: { "https://schemas.openid.net/secevent/caep/event-type/session-revoked": {} },
      },
      key,
    );
  const push = async (set: string): Promise<number> => {
    const headers = { authorization: "Bearer push-token", "content-type": "application/secevent+jwt" };
    return (await fetch(`${control.url}/ssf/receive/idp`, { method: "POST", headers, body: set })).status;
  };
  t.equal(await push(await token(VICTIM.principal, "forged", thief.privateKey)), 400);
  t.equal(await push(await token(OTHER.principal, "foreign")), 202, "out of its scope: acknowledged, and nothing done");
  t.match(await control.fleet("locks"), { out: "no locks\n" });
  const good = await token(VICTIM.principal, "good");
  t.equal(await push(good), 202);
  await eventually("the lock", async () => (await decides(one, VICTIM)) === "terminate");
  t.equal(await decides(one, OTHER), "allow");
  const [lock] = JSON.parse((await control.fleet("locks", "--output", "json")).out) as { id: string; set_by: string }[];
  t.equal(lock?.set_by, "shared-signals:idp");
  t.match(await control.fleet("unlock", lock?.id ?? ""), { code: 0 });
  t.equal(await push(good), 202, "replayed: acknowledged");
  t.match(await control.fleet("locks"), { out: "no locks\n" });

  const siem = { authorization: "Bearer siem-token", "content-type": "application/json" };
  const made = await fetch(`${control.url}/ssf/stream`, {
    method: "POST",
    headers: siem,
    body: JSON.stringify({ delivery: { method: "urn:ietf:rfc:8936" } }),
  });
  t.equal(made.status, 201);
  const { stream_id } = (await made.json()) as { stream_id: string };
  t.equal((await control.fleet("lock", "--principal", OTHER.principal, "--reason", "incident 10")).code, 0);
  await control.kill();
  const back = await scene.control(flags);
  const told: string[] = [];
  startClient(t, scene, back.url, {
    onOrders: { orders: () => {}, heard: () => {}, told: (events) => void told.push(...events.map(({ id }) => id)) },
    report: () => ({
      policyName: "p",
      policyRevision: "shop:1",
      bundle: undefined,
      freshness: "fresh",
      mode: "enforce",
      problem: undefined,
      checks: 1,
      decisions: { allow: 0, challenge: 0, deny: 0, terminate: 0 },
      scoreBands: [],
      riskEvents: [
        {
          id: "decision-1",
          kind: "terminated",
          principal: THIRD.principal,
          principalKind: "spiffe",
          score: 80,
          atMs: Date.now(),
        },
      ],
    }),
  });
  await eventually("the risk to be told", async () => told.includes("decision-1"));
  const polled = await fetch(`${back.url}/ssf/poll/${stream_id}`, {
    method: "POST",
    headers: siem,
    body: JSON.stringify({ returnImmediately: true }),
  });
  const sets = Object.values(((await polled.json()) as { sets: Record<string, string> }).sets);
  const events = sets.map((set) => JSON.parse(Buffer.from(set.split(".")[1] ?? "", "base64url").toString()) as Told);
  const said = events.map(
    ({ sub_id, events: kinds }) => `${Object.keys(kinds).join().replace(/.*\//, "")} ${sub_id.uri}`,
  );
  t.same(
    said,
    [
      `session-revoked ${OTHER.principal}`, // kept over the kill
      `risk-level-change ${THIRD.principal}`,
      `session-revoked ${THIRD.principal}`,
    ],
    "each once",
  );
  t.notOk(back.log().includes(TOKENS.operator));
});
