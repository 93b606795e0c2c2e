/** Checks per second and CPU per check of the sidecar beside bare servers', and what memory the sidecar then holds. */

import { cpus } from "node:os";
import { median, printTable, rounded } from "./figures.ts";
import type { LoadOrder, LoadResult } from "./load.ts";
import { beside, LOAD_CORE, type Measured, SERVER_CORE, startMeasured } from "./measured.ts";

const MAIN = beside("../../dist/main.js");
const UNDER_WAY = 32;
const WARM_SECONDS = 1;
/** Less is no measure of shipped behaviour: refusing is other work than allowing. */
const ALLOWED_SHARE_MIN = 0.99;

export interface ServersOptions {
  readonly rounds: number;
  readonly seconds: number;
  /** Learned states to start the sidecar with, by number of principals. */
  readonly states: readonly { readonly principals: number; readonly directory: string }[];
}

export interface ServerFigures {
  readonly name: string;
  readonly checksPerSecond: number;
  readonly cpuUsPerCheck: number;
  /** Least and most of the rounds. */
  readonly cpuUsRange: readonly [number, number];
  /** CPU per check of this server over the bare one's, median of the rounds. */
  readonly ratio: number;
  /** CPU of the server over time passed: below 1 the load generator was the limit of checks per second. */
  readonly busy: number;
}

export interface MemoryFigures {
  readonly principals: number;
  readonly sessions: number;
  readonly checks: number;
  readonly startedBytes: number;
  readonly rssAsIs: number;
  readonly rssAfterGc: number;
  readonly heapUsed: number;
}

/** A server of checks: bare, or a sidecar with its other addresses. */
export interface ExtAuthzServer extends Measured {
  readonly extAuthz: string;
  readonly streams?: string;
}

interface Sidecar extends ExtAuthzServer {
  readonly streams: string;
  readonly health: string;
}

interface Target {
  readonly name: string;
  readonly server: Measured;
  readonly order: Omit<LoadOrder, "seconds">;
  readonly results: Round[];
}

interface Round {
  /** CPU of the server for each check. */
  readonly cpuUs: number;
  readonly perSecond: number;
  readonly busy: number;
  /** CPU of both ends in all. */
  readonly serverUs: number;
  readonly loadUs: number;
}

/** Servers take turns, round by round, so that whatever else the machine does hits all alike. */
export async function measureServers(
  options: ServersOptions,
): Promise<{ servers: readonly ServerFigures[]; otherWork: number; memory: readonly MemoryFigures[] }> {
  const started: Measured[] = [];
  try {
    const load = await startMeasured(["--import=tsx", beside("load.ts")], LOAD_CORE, (line) => line === "ready");
    started.push(load);
    const targets: Target[] = [];
    const loaded: { sidecar: Sidecar; startedBytes: number }[] = [];
    for (const [name, ...flags] of [
      ["allow-all on grpc-js, bytes unread"],
      ["allow-all on grpc-js, decoding", "decode"],
    ]) {
      const server = await startBare(flags);
      started.push(server);
      targets.push(targetOf(name ?? "", server, server.extAuthz, undefined, 10));
    }
    for (const { principals, directory } of options.states) {
      const sidecar = await startSidecar(directory);
      started.push(sidecar);
      loaded.push({ sidecar, startedBytes: (await sidecar.memory()).rssAfterGc });
      const name = `sallyport serve, ${principals.toLocaleString("en-US")} principals`;
      targets.push(targetOf(name, sidecar, sidecar.extAuthz, undefined, principals));
      targets.push(targetOf(`${name}, access log`, sidecar, sidecar.extAuthz, sidecar.streams, principals));
    }
    for (const target of targets) await measure(target, load, WARM_SECONDS);
    for (const target of targets) target.results.length = 0;
    const busyBefore = machineBusyUs();
    const roundsBegin = performance.now();
    for (let round = 0; round < options.rounds; round++) {
      for (const target of targets) await measure(target, load, options.seconds);
    }
    const roundsUs = (performance.now() - roundsBegin) * 1_000;
    const ownUs = targets.flatMap(({ results }) => results).reduce((sum, one) => sum + one.serverUs + one.loadUs, 0);
    const otherWork = rounded(Math.max(0, machineBusyUs() - busyBefore - ownUs) / (roundsUs * cpus().length), 2);
    const servers = targets.map((target) => figuresOf(target, targets[0] as Target));
    printTable(
      ["server", "checks/s", "core busy", "CPU us/check", "least..most", "against bare"],
      servers.map(({ name, checksPerSecond, busy, cpuUsPerCheck, cpuUsRange, ratio }) => [
        name,
        checksPerSecond,
        `${rounded(busy * 100)} %`,
        cpuUsPerCheck,
        cpuUsRange.join(".."),
        ratio.toFixed(2),
      ]),
    );
    console.log(`of all cores, other work took ${rounded(otherWork * 100)} % meanwhile\n`);
    const memory = [];
    for (const { sidecar, startedBytes } of loaded) memory.push(await memoryOf(sidecar, startedBytes));
    printMemory(memory);
    return { servers, otherWork, memory };
  } finally {
    for (const one of started.reverse()) await one.stop();
  }
}

function targetOf(
  name: string,
  server: Measured,
  address: string,
  streams: string | undefined,
  callers: number,
): Target {
  return { name, server, order: { address, streams, callers, underWay: UNDER_WAY }, results: [] };
}

async function measure({ name, server, order, results }: Target, load: Measured, seconds: number): Promise<void> {
  const before = await server.cpuUs();
  const result = await load.ask<LoadResult>({ ...order, seconds } satisfies LoadOrder);
  const cpuUs = (await server.cpuUs()) - before;
  if (result.failed > 0) throw new Error(`${name}: ${result.failed} of ${result.sent} checks failed`);
  if (result.refused > result.sent * (1 - ALLOWED_SHARE_MIN)) {
    throw new Error(`${name}: ${result.refused} of ${result.sent} ordinary checks were refused`);
  }
  results.push({
    cpuUs: cpuUs / result.sent,
    perSecond: result.sent / result.seconds,
    busy: cpuUs / (result.seconds * 1e6),
    serverUs: cpuUs,
    loadUs: result.loadCpuUs,
  });
}

/** Time that the machine's cores were not idle, whoever used them. */
function machineBusyUs(): number {
  return cpus().reduce((sum, { times }) => sum + (times.user + times.nice + times.sys + times.irq) * 1_000, 0);
}

function figuresOf({ name, results }: Target, bare: Target): ServerFigures {
  const cpu = results.map(({ cpuUs }) => cpuUs);
  return {
    name,
    checksPerSecond: rounded(median(results.map(({ perSecond }) => perSecond))),
    cpuUsPerCheck: rounded(median(cpu)),
    cpuUsRange: [rounded(Math.min(...cpu)), rounded(Math.max(...cpu))],
    ratio: rounded(median(cpu.map((one, round) => one / (bare.results[round]?.cpuUs ?? Number.NaN))), 2),
    busy: rounded(median(results.map(({ busy }) => busy)), 2),
  };
}

export async function startBare(flags: readonly string[]): Promise<ExtAuthzServer> {
  const args = ["--import=tsx", beside("allow-all.ts"), ...flags];
  const server = await startMeasured(args, SERVER_CORE, (line) => line.includes('"extAuthz"'));
  return { ...server, ...(JSON.parse(server.line) as { extAuthz: string }) };
}

export async function startSidecar(stateDirectory: string): Promise<Sidecar> {
  const any = "127.0.0.1:0";
  const args = [
    ...[MAIN, "serve", "--ext-authz-address", any, "--streams-address", any, "--health-address", any],
    // A snapshot in the middle of one server's turn would be charged to it alone; `line.ts` measures snapshots.
    ...["--api-address", "off", "--state-dir", stateDirectory, "--snapshot-interval", "24h"],
  ];
  const server = await startMeasured(args, SERVER_CORE, (line) => line.includes('"event":"started"'));
  const addresses = JSON.parse(server.line) as { extAuthz: string; streams: string; health: string };
  return { ...server, extAuthz: addresses.extAuthz, streams: addresses.streams, health: addresses.health };
}

async function memoryOf(sidecar: Sidecar, startedBytes: number): Promise<MemoryFigures> {
  const memory = await sidecar.memory();
  const metrics = await (await fetch(`http://${sidecar.health}/metrics`)).text();
  const metric = (name: string): number =>
    metrics
      .split("\n")
      .filter((line) => line.startsWith(name) && " {".includes(line[name.length] ?? "?"))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
  return {
    principals: metric("sallyport_principals"),
    sessions: metric("sallyport_sessions"),
    checks: metric("sallyport_checks_total"),
    startedBytes,
    ...memory,
  };
}

/** Resident bytes that each further principal costs, between the smallest and the largest state. */
export function bytesPerPrincipal(memory: readonly MemoryFigures[]): number {
  const [few, many] = [memory[0], memory.at(-1)];
  if (few === undefined || many === undefined || few === many) return Number.NaN;
  return Math.round((many.rssAfterGc - few.rssAfterGc) / (many.principals - few.principals));
}

function printMemory(memory: readonly MemoryFigures[]): void {
  const mebibytes = (bytes: number): number => Math.round(bytes / 2 ** 20);
  printTable(
    ["memory of serve, MiB", "sessions", "checks", "RSS at start", "RSS after load", "RSS after gc", "live heap"],
    memory.map(({ principals, sessions, checks, startedBytes, rssAsIs, rssAfterGc, heapUsed }) => [
      `${principals.toLocaleString("en-US")} principals`,
      ...[sessions, checks, mebibytes(startedBytes), mebibytes(rssAsIs), mebibytes(rssAfterGc), mebibytes(heapUsed)],
    ]),
  );
  console.log(
    `resident bytes for each further principal, after gc: ${bytesPerPrincipal(memory).toLocaleString("en-US")}\n`,
  );
}
