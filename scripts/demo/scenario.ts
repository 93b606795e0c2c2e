/** The demo's story: ordinary days, honest oddities, a stolen token, and what the operator can do. */

import { setTimeout as pause } from "node:timers/promises";
import { answeringCaller } from "../../test/support/answering.ts";
import { grpcClient, tlsConnection } from "../../test/support/clients.ts";
import { type TestKey, testKey } from "../../test/support/proofs.ts";
import type { Issued } from "../pki.ts";
import { strangersCall, strangersStack, Workload } from "./clients.ts";
import { runCommand } from "./sidecar.ts";
import { ADDRESSES, DOMAIN, type Guarded, type World } from "./world.ts";

/** One step as it went, from Envoy's own access log. */
export interface Step {
  readonly title: string;
  readonly expected: string;
  readonly real: string;
  readonly score: number;
  readonly reasons: string;
}

type Entry = Readonly<Record<string, unknown>>;

/** Learning needs a few dozen requests of each caller. */
const LEARNING_ROUNDS = 60;
const BURST = 80;
/** Requests that were under way when a challenge was put are not blamed for it: 2 s. */
const AFTER_GRACE_MS = 2_200;
/** Another TLS library than Node's own choice. */
const OTHER_CIPHERS = "TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256";
const POLICY_MS_MAX = 15_000;

const id = (name: string): string => `spiffe://${DOMAIN}/ns/shop/sa/${name}`;

export async function playScenario(world: World, onStep: (step: Step) => void): Promise<readonly Step[]> {
  const { pki, issuer, orders, inventory, ledger } = world;
  const steps: Step[] = [];
  const record = (title: string, expected: string, entries: readonly Entry[], wanted?: string): void => {
    const step = stepOf(title, expected, entries, wanted);
    steps.push(step);
    onStep(step);
  };
  const certificate = async (name: string): Promise<Issued> => pki.issue({ spiffeId: id(name) });
  const at = (guarded: Guarded, localAddress: string, own?: Issued) => ({
    port: guarded.envoy.port,
    caPem: pki.caPem,
    localAddress,
    certificate: own,
  });

  const web = new Workload({
    caller: at(orders, ADDRESSES.web, await certificate("web")),
    agent: "web/1.4.0 node",
    issuer,
  });
  const billing = new Workload({
    caller: at(orders, ADDRESSES.billing),
    agent: "billing/2.1.0 node",
    issuer,
    subject: "billing",
  });
  const reports = new Workload({
    caller: at(orders, ADDRESSES.reports, await certificate("reports")),
    agent: "reports/0.9.2 node",
    issuer,
  });
  const stock = grpcClient(at(inventory, ADDRESSES.web, await certificate("web")));
  try {
    // 1. Ordinary traffic: the sidecars learn who does what from where.
    let since = await mark(orders);
    for (let round = 0; round < LEARNING_ROUNDS; round++) {
      await web.call({ path: ["/orders", `/orders/${(round % 3) + 1}`][round % 2] as string });
      await billing.call({ path: `/orders/${(round % 3) + 1}` });
      await reports.call({ path: "/orders" });
    }
    record("three honest callers over HTTP", "allow", await entriesSince(orders, since, LEARNING_ROUNDS * 3));

    since = await mark(inventory);
    for (let call = 0; call < 20; call++) await stock.get("apple");
    record("an honest caller over gRPC", "allow", await entriesSince(inventory, since, 20));

    since = await mark(ledger);
    const ledgerCertificate = await certificate("ledger-writer");
    for (let connection = 0; connection < 5; connection++) await talk(at(ledger, ADDRESSES.ledger, ledgerCertificate));
    record("an honest caller over raw TCP", "allow", await entriesSince(ledger, since, 5));

    // 2. Honest oddities.
    since = await mark(orders);
    web.move({
      caller: { localAddress: ADDRESSES.webDeployed, certificate: await certificate("web") },
      agent: "web/1.5.0 node",
    });
    for (let call = 0; call < 5; call++) await web.call({ path: "/orders" });
    record("a deploy: new pod address, new version", "allow", await entriesSince(orders, since, 5));

    since = await mark(orders);
    await Promise.all(Array.from({ length: BURST }, () => reports.call({ path: "/orders" })));
    record("a retry burst", "allow", await entriesSince(orders, since, BURST));

    // 3. The theft: billing's token, in the hands of somebody else.
    const stolen = { authorization: `Bearer ${billing.bearer}` };
    const thief = at(orders, ADDRESSES.thief);
    for (const [title, expected, path] of [
      [`billing's token replayed (${strangersStack()}, other address)`, "challenge", "/orders"],
      ["the thief goes on", "deny", "/customers/1"],
      ["and on", "terminate", "/admin/export"],
    ] as const) {
      since = await mark(orders);
      await strangersCall(thief, { path, headers: stolen });
      record(title, expected, await entriesFrom(orders, since, ADDRESSES.thief, 1));
      await pause(expected === "challenge" ? AFTER_GRACE_MS : 0);
    }
    since = await mark(orders);
    for (let call = 0; call < 5; call++) await billing.call({ path: `/orders/${(call % 3) + 1}` });
    record("meanwhile the owner goes on working", "allow", await entriesFrom(orders, since, ADDRESSES.billing, 5));

    // 4. The owner looks strange itself: moved to another node, with another TLS library, in the middle of a token's life.
    since = await mark(orders);
    const before = billing.challenges;
    billing.move({
      caller: { localAddress: ADDRESSES.billingMoved, ciphers: OTHER_CIPHERS },
      agent: "billing-ng/1.0.0",
    });
    for (let call = 0; call < 5; call++) await billing.call({ path: `/orders/${(call % 3) + 1}` });
    const moved = await entriesFrom(orders, since, ADDRESSES.billingMoved, 5 + billing.challenges - before);
    record(
      "the owner moves to another node and TLS stack",
      "challenge",
      moved.filter(({ decision }) => decision !== "allow"),
    );
    record(
      "it answers once with a fresher token and goes on",
      "allow",
      moved.slice(-5),
      billing.challenges - before === 1 ? undefined : `${billing.challenges - before} challenges`,
    );

    // 5. Lists, posture, trust.
    since = await mark(orders);
    await strangersCall(at(orders, ADDRESSES.blocked, await certificate("partner")), { path: "/orders" });
    record("a caller on the operator's blocklist", "deny", await entriesFrom(orders, since, ADDRESSES.blocked, 1));

    since = await mark(orders);
    await strangersCall(at(orders, ADDRESSES.listed, await certificate("partner")), { path: "/orders" });
    record("a caller on a reputation list only", "challenge", await entriesFrom(orders, since, ADDRESSES.listed, 1));

    await statePosture(orders, id("reports"), { compliant: "false" });
    since = await mark(orders);
    await reports.call({ path: "/orders" });
    record("a workload whose posture is forbidden", "deny", await entriesFrom(orders, since, ADDRESSES.reports, 1));

    since = await mark(orders);
    const untrusted = await pki.issue({ spiffeId: `spiffe://${DOMAIN}/sandbox/scratch` });
    await strangersCall(at(orders, ADDRESSES.web, untrusted), { path: "/orders" });
    record("a certificate of an untrusted SPIFFE path", "deny", await entriesFrom(orders, since, ADDRESSES.web, 1));

    // 6. A token that is bound to a key (DPoP): wherever its holder goes, the key goes along, and a thief has the token only.
    const bound = testKey();
    const boundToken = await issuer.token({ subject: "payouts", claims: { cnf: { jkt: bound.jkt } } });
    const payouts = (localAddress: string, key: TestKey, more: { agent: string; ciphers?: string }) =>
      answeringCaller(
        "HTTP/1.1",
        { ...at(orders, localAddress), ciphers: more.ciphers },
        { key: key.privateKey, getToken: () => boundToken, agent: more.agent },
      );
    const home = payouts(ADDRESSES.payouts, bound, { agent: "payouts/3.0.0 node" });
    for (let call = 0; call < LEARNING_ROUNDS; call++) await home.call();
    await home.close();
    since = await mark(orders);
    const away = payouts(ADDRESSES.payoutsMoved, bound, { agent: "payouts-ng/1.0.0", ciphers: OTHER_CIPHERS });
    const tries: number[] = [];
    for (let call = 0; call < 5; call++) tries.push((await away.call()).tries.length);
    await away.close();
    const answered = await entriesFrom(orders, since, ADDRESSES.payoutsMoved, 6);
    record("a caller with a bound token moves to another node and TLS stack", "challenge", answered.slice(0, 1));
    record(
      "its client answers with its key, and goes on",
      "allow",
      answered.slice(1),
      tries.join(" ") === "2 1 1 1 1" ? undefined : `tries ${tries.join(" ")}`,
    );

    since = await mark(orders);
    const copier = payouts(ADDRESSES.thief, testKey(), { agent: "payouts/3.0.0 node" });
    await copier.call();
    await copier.close();
    record(
      "a thief with the bound token and a key of its own",
      "deny",
      await entriesFrom(orders, since, ADDRESSES.thief, 1),
    );

    // 7. The operator's own order.
    await command([
      "lock",
      "--principal",
      id("ledger-writer"),
      "--reason",
      "incident 7",
      "--for",
      "10m",
      "--api",
      `unix:${ledger.sidecar.apiSocket}`,
    ]);
    since = await mark(ledger);
    await talk(at(ledger, ADDRESSES.ledger, ledgerCertificate)).catch(() => {}); // the connection is closed in its face
    record("a raw TCP connection of a locked principal", "terminate", await entriesSince(ledger, since, 1));

    // 8. Observe mode: the same thief passes, and the log says what would have happened.
    const revision = await world.setPolicy({ mode: "observe" });
    await untilPolicy(orders, revision);
    since = await mark(orders);
    const answer = await strangersCall(thief, { path: "/orders", headers: stolen });
    record(
      "observe mode: the same thief passes, and is logged",
      "terminate (observed)",
      await entriesFrom(orders, since, ADDRESSES.thief, 1),
      answer.status === 200 ? undefined : `status ${answer.status}`,
    );
    return steps;
  } finally {
    for (const workload of [web, billing, reports]) workload.close();
    stock.close();
  }
}

/** A step from the access-log entries that belong to it; `otherwise` is what went wrong beside the decision. */
export function stepOf(title: string, expected: string, entries: readonly Entry[], otherwise?: string): Step {
  const worst = [...entries].sort((a, b) => Number(b.score) - Number(a.score))[0];
  const kinds = new Set(entries.map(nameOf));
  return {
    title,
    expected,
    real: otherwise ?? (kinds.size === 0 ? "nothing logged" : [...kinds].join(", ")),
    score: Number(worst?.score ?? 0),
    reasons: Array.isArray(worst?.reasons) ? worst.reasons.slice(0, 3).join(" ") : "",
  };
}

/** The decision, and whether it was carried out: an observed refusal ended with the service's own answer. */
function nameOf(entry: Entry): string {
  const decision = String(entry.decision);
  return entry.mode === "observe" && decision !== "allow" ? `${decision} (observed)` : decision;
}

async function mark({ envoy }: Guarded): Promise<number> {
  return (await finished(envoy)).length;
}

/** Access-log entries of requests that have ended; long connections report in between. */
async function finished(envoy: Guarded["envoy"]): Promise<readonly Entry[]> {
  return (await envoy.accessLog()).filter(
    ({ type }) => type !== "TcpConnectionStart" && !String(type).endsWith("Periodic"),
  );
}

async function entriesSince(guarded: Guarded, since: number, count: number): Promise<readonly Entry[]> {
  return await settled(guarded, count, async () => (await finished(guarded.envoy)).slice(since));
}

async function entriesFrom(guarded: Guarded, since: number, address: string, count: number): Promise<readonly Entry[]> {
  return await settled(guarded, count, async () =>
    (await finished(guarded.envoy)).slice(since).filter(({ source }) => String(source).startsWith(`${address}:`)),
  );
}

/** Envoy writes its log a little after the answer. */
async function settled(
  guarded: Guarded,
  count: number,
  read: () => Promise<readonly Entry[]>,
): Promise<readonly Entry[]> {
  for (let tries = 0; tries < 200; tries++) {
    const entries = await read();
    if (entries.length >= count) return entries;
    await pause(25);
  }
  throw new Error(`${guarded.name}: expected ${count} access-log entries\n${guarded.envoy.log()}`);
}

async function talk(caller: Parameters<typeof tlsConnection>[0]): Promise<void> {
  const connection = await tlsConnection(caller);
  connection.socket.write("credit 10\n");
  await connection.until("credit 10");
  connection.socket.end();
  await connection.closed;
}

async function statePosture(guarded: Guarded, subject: string, facts: Readonly<Record<string, string>>): Promise<void> {
  await command([
    ...["posture", subject, ...Object.entries(facts).map(([name, value]) => `${name}=${value}`)],
    ...["--source", "demo", "--api", `unix:${guarded.sidecar.apiSocket}`],
  ]);
}

async function command(args: readonly string[]): Promise<void> {
  const { code, err } = await runCommand(args);
  if (code !== 0) throw new Error(`sallyport ${args.join(" ")} ended with ${code}: ${err}`);
}

async function untilPolicy({ sidecar, name }: Guarded, revision: string): Promise<void> {
  const deadline = performance.now() + POLICY_MS_MAX;
  while (performance.now() < deadline) {
    const answer = (await (await fetch(`http://${sidecar.health}/readyz`)).json()) as { policy_revision?: string };
    if (answer.policy_revision === revision) return;
    await pause(50);
  }
  throw new Error(`${name}: policy ${revision} did not come into force`);
}
