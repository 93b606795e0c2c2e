/** Checks per second and CPU per check of all servers, as fast as they answer: one core each for server and generator. */

import { cpus } from "node:os";
import { type Competitor, type Field, NAMES, turn } from "./field.ts";
import { median, rounded } from "./figures.ts";
import type { Measured } from "./measured.ts";
import type { Report } from "./report.ts";

const UNDER_WAY = 64;
/** Before it counts, a server answers so many checks, unless it is slow: compilers need them, and callers get known. */
const WARM_CHECKS = 20_000;
const WARM_CHECKS_PER_CALLER = 25;
const WARM_TURNS_MAX = 25;
const WARM_SECONDS = 1;
/** Less is no measure of shipped behaviour: refusing is other work than allowing. */
const ALLOWED_SHARE_MIN = 0.97;

export interface ThroughputFigures {
  readonly name: string;
  readonly checksPerSecond: number;
  /** What the server's core could do, were it never waiting for the generator: a second over `cpuUs`. */
  readonly perCore: number;
  readonly cpuUs: number;
  readonly cpuUsRange: readonly [number, number];
  /** CPU over time passed, of the server and of the generator: who nears 1 was the limit. */
  readonly serverBusy: number;
  readonly loadBusy: number;
  /** Against the Go server: CPU per check, and checks per second; medians of the rounds' ratios. */
  readonly cpuToGo: number;
  readonly perSecondToGo: number;
}

interface Round {
  readonly cpuUs: number;
  readonly perSecond: number;
  readonly serverBusy: number;
  readonly loadBusy: number;
  readonly usedUs: number;
}

export interface Rounds {
  readonly rounds: number;
  readonly seconds: number;
}

/** Servers take turns, round by round, so that whatever else the machine does hits all alike. */
export async function measureThroughput(
  field: Field,
  load: Measured,
  { rounds, seconds }: Rounds,
  report: Report,
): Promise<readonly ThroughputFigures[]> {
  report.title("Direct, as fast as it goes");
  // By number of callers: the generator keeps the messages of one number at a time.
  const order = [...field.competitors].sort((a, b) => a.callers - b.callers);
  const results = new Map<Competitor, Round[]>(order.map((one) => [one, []]));
  for (const one of order) await warm(one, load);
  const busyBefore = machineBusyUs();
  const begin = performance.now();
  for (let round = 0; round < rounds; round++) {
    for (const one of order) results.get(one)?.push(await measure(one, load, seconds));
  }
  const passedUs = (performance.now() - begin) * 1_000;
  const ownUs = [...results.values()].flat().reduce((sum, { usedUs }) => sum + usedUs, 0);
  const otherWork = Math.max(0, machineBusyUs() - busyBefore - ownUs) / (passedUs * cpus().length);
  const go = [...results].find(([{ name }]) => name === NAMES.go)?.[1];
  const figures = field.competitors.map((one) => figuresOf(one.name, results.get(one) ?? [], go));
  report.table(
    [
      "server",
      "checks/s",
      "CPU µs/check",
      "least..most",
      "server busy",
      "generator busy",
      "CPU to Go",
      "checks/s to Go",
    ],
    figures.map((one) => [
      ...[one.name, one.checksPerSecond, one.cpuUs, one.cpuUsRange.join("..")],
      ...[percent(one.serverBusy), percent(one.loadBusy), ratio(one.cpuToGo), ratio(one.perSecondToGo)],
    ]),
  );
  report.say(`${UNDER_WAY} checks under way on 4 connections. Of all cores, other work took ${percent(otherWork)}.`);
  report.figures.throughput = { servers: figures, otherWork: rounded(otherWork, 3) };
  return figures;
}

async function warm(one: Competitor, load: Measured): Promise<void> {
  const wanted = Math.max(WARM_CHECKS, WARM_CHECKS_PER_CALLER * one.callers);
  let checks = 0;
  for (let i = 0; i < WARM_TURNS_MAX && checks < wanted; i++) {
    checks += (await turn(load, one, WARM_SECONDS, { underWay: UNDER_WAY })).sent;
  }
}

async function measure(one: Competitor, load: Measured, seconds: number): Promise<Round> {
  const result = await turn(load, one, seconds, { underWay: UNDER_WAY });
  const { sent, failed, refused } = result;
  if (failed > 0) throw new Error(`${one.name}: ${failed} of ${sent} checks failed`);
  if (refused > sent * (1 - ALLOWED_SHARE_MIN)) {
    throw new Error(`${one.name}: ${refused} of ${sent} ordinary checks were refused`);
  }
  return {
    cpuUs: result.serverCpuUs / sent,
    perSecond: sent / result.seconds,
    serverBusy: result.serverCpuUs / (result.seconds * 1e6),
    loadBusy: result.loadCpuUs / (result.seconds * 1e6),
    usedUs: result.serverCpuUs + result.loadCpuUs,
  };
}

function figuresOf(name: string, rounds: readonly Round[], go: readonly Round[] | undefined): ThroughputFigures {
  const cpu = rounds.map(({ cpuUs }) => cpuUs);
  const toGo = (of: (round: Round) => number): number =>
    rounded(median(rounds.map((round, i) => of(round) / (go?.[i] === undefined ? Number.NaN : of(go[i])))), 2);
  return {
    name,
    checksPerSecond: rounded(median(rounds.map(({ perSecond }) => perSecond))),
    perCore: rounded(1e6 / median(cpu)),
    cpuUs: rounded(median(cpu), 1),
    cpuUsRange: [rounded(Math.min(...cpu), 1), rounded(Math.max(...cpu), 1)],
    serverBusy: rounded(median(rounds.map(({ serverBusy }) => serverBusy)), 2),
    loadBusy: rounded(median(rounds.map(({ loadBusy }) => loadBusy)), 2),
    cpuToGo: toGo(({ cpuUs }) => cpuUs),
    perSecondToGo: toGo(({ perSecond }) => perSecond),
  };
}

export function percent(share: number): string {
  return `${rounded(share * 100)} %`;
}

export function ratio(value: number): string {
  return Number.isNaN(value) ? "–" : value.toFixed(2);
}

/** Time that the machine's cores were not idle, whoever used them. */
function machineBusyUs(): number {
  return cpus().reduce((sum, { times }) => sum + (times.user + times.nice + times.sys + times.irq) * 1_000, 0);
}
