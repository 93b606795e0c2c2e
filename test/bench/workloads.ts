/**
 * Usage: node --expose-gc --import tsx test/bench/workloads.ts [PODS]   What ten thousand pods cost: bytes on the wire,
 * time and memory at both ends, and what a request pays for the look-up.
 */

import { gunzipSync, gzipSync } from "node:zlib";
import { PodsTold } from "../../src/bundle/sync/pods-told.ts";
import { createLine } from "../../src/check/line.ts";
import { WorkloadFeed } from "../../src/control/workloads/feed.ts";
import { type KnownPod, readPod } from "../../src/control/workloads/pod.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { pod } from "../control/workloads/fake-api.ts";
import { countingBytes, NOON, POLICY, request } from "../support/requests.ts";

const PODS = Number(process.argv[2] ?? "10000");
const ACCOUNTS = 300;
const NODES = 200;
const CHECKS = 100_000;

const NAMING = {
  principal: "spiffe://{trustDomain}/ns/{namespace}/sa/{serviceAccount}",
  trustDomain: "cluster.local",
  issuer: undefined,
  labels: ["app.kubernetes.io/name"],
};

const gc = globalThis.gc ?? ((): void => {});
const heapMiB = (): number => {
  gc();
  gc();
  return process.memoryUsage().heapUsed / 2 ** 20;
};
/** Of the processor, since other work on the machine is nobody's cost here. */
const cpuMs = (begun: NodeJS.CpuUsage): number => {
  const { user, system } = process.cpuUsage(begun);
  return (user + system) / 1_000;
};
const timed = <Value>(what: string, job: () => Value): Value => {
  const begun = process.cpuUsage();
  const value = job();
  console.log(`${what}: ${cpuMs(begun).toFixed(1)} ms`);
  return value;
};
const addressOf = (i: number): string => `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`;

function known(i: number): KnownPod {
  const account = `team-${i % ACCOUNTS}`;
  const uid = `${i.toString(16).padStart(8, "0")}-7e1c-4b6a-9c55-${(i * 2_654_435_761).toString(16).padStart(12, "0").slice(-12)}`;
  const digest = `sha256:${(i % ACCOUNTS).toString(16).padStart(4, "0").repeat(16)}`;
  const one = pod({
    name: `${account}-6c5d7f8b9-${i.toString(36).padStart(5, "x")}`,
    namespace: account,
    serviceAccount: account,
    uid,
    ip: addressOf(i),
    node: `ip-10-0-${i % NODES}-17.eu-central-1.compute.internal`,
    digest,
    labels: { "app.kubernetes.io/name": account },
  });
  const owner = { kind: "ReplicaSet", name: `${account}-6c5d7f8b9`, controller: true };
  const found = readPod({ ...one, metadata: { ...one.metadata, ownerReferences: [owner] } }, NAMING);
  // As parsed from JSON: no text is shared with another pod's.
  return JSON.parse(JSON.stringify(found)) as KnownPod;
}

/** What a control plane pays once a quarter of the pods have changed. */
function writeAgain(): void {
  const fresh = new WorkloadFeed({ epoch: "0123456789abcdef", podsMax: PODS, onChange: () => {}, onLeftOut: () => {} });
  for (const one of pods) fresh.put(one);
  fresh.flush();
  fresh.since(undefined);
  fresh.close();
}

const pods = Array.from({ length: PODS }, (_, i) => known(i));
const before = heapMiB();
const feed = new WorkloadFeed({ epoch: "0123456789abcdef", podsMax: PODS, onChange: () => {}, onLeftOut: () => {} });
for (let i = 0; i < PODS; i++) feed.put(pods[i]!);
feed.flush();
console.log(`control plane, ${PODS} pods: ${(heapMiB() - before).toFixed(1)} MiB`);
const whole = timed("control plane, everything written once", () => feed.since(undefined));
for (let i = 0; i < 3; i++) timed("control plane, everything written again", () => writeAgain());
const plain = whole.map((bytes) => gunzipSync(bytes));
const sum = (parts: readonly Uint8Array[]): number => parts.reduce((total, { length }) => total + length, 0);
console.log(
  `everything: ${(sum(whole) / 2 ** 20).toFixed(2)} MiB in ${whole.length} messages (${(sum(plain) / 2 ** 20).toFixed(2)} MiB plain)`,
);
for (const level of [1, 3, 6]) {
  const packed = timed(`gzip ${level}`, () => plain.map((bytes) => gzipSync(bytes, { level })));
  console.log(`gzip ${level}: ${(sum(packed) / 2 ** 20).toFixed(2)} MiB`);
}
const version = feed.current;
feed.put({ ...known(7), facts: { ...known(7).facts, phase: "Pending" } });
feed.flush();
console.log(`one pod's change: ${sum(feed.since(version))} bytes`);

const line = createLine({ principalsMax: 1_000, sessionsMax: 1_000, random: countingBytes() });
const empty = heapMiB();
const parts: number[] = [];
const read = (): void => {
  const told = new PodsTold({
    state: "",
    changed: (change) => line.workloads.change(change, toEpochMs(NOON - 3_600_000)),
    heard: () => {},
    lost: () => {},
  });
  for (const bytes of whole) {
    const begun = process.cpuUsage();
    told.take(bytes);
    parts.push(cpuMs(begun));
  }
};
timed("sidecar, everything read and put into its table", read);
console.log(`the longest of its parts: ${Math.max(...parts).toFixed(1)} ms`);
for (let i = 0; i < 3; i++) timed("sidecar, the same again", read);
line.workloads.confirm(toEpochMs(NOON));
console.log(`sidecar, ${line.workloads.size} pods: ${(heapMiB() - empty).toFixed(1)} MiB`);

const bare = createLine({ principalsMax: 1_000, sessionsMax: 1_000, random: countingBytes() });
const facts = Array.from({ length: 64 }, (_, i) =>
  request({ at: NOON, principal: `spiffe://cluster.local/ns/team-${i}/sa/team-${i}`, address: addressOf(i) }),
);
const perCheck = (one: typeof line): number => {
  const begun = process.cpuUsage();
  for (let i = 0; i < CHECKS; i++) one.check(facts[i & 63]!, POLICY);
  return (cpuMs(begun) * 1_000) / CHECKS;
};
const rounds = Array.from({ length: 8 }, () => [perCheck(bare), perCheck(line)] as const).slice(2);
const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;
console.log(
  `a check without pods: ${median(rounds.map(([none]) => none)).toFixed(2)} µs; with them: ${median(rounds.map(([, some]) => some)).toFixed(2)} µs`,
);
feed.close();
