/** Latency of checks at steady, moderate rates, counted from when a check was due; and how late event loops ran meanwhile. */

import { type Competitor, type Field, NAMES, turn } from "./field.ts";
import { median, rounded } from "./figures.ts";
import type { Latency, LoadResult } from "./load.ts";
import type { LoopDelay, Measured } from "./measured.ts";
import type { Report } from "./report.ts";
import type { Sidecar } from "./servers.ts";
import type { Rounds } from "./throughput.ts";

const RATES = [2_000, 5_000];
const WARM_SECONDS = 1;

export interface LatencyFigures {
  readonly name: string;
  readonly perSecond: number;
  /** Microseconds, medians of the rounds. */
  readonly latency: Latency;
  /** 99 % of the generator's own lateness. */
  readonly lateUs: number;
  readonly cpuUs: number;
  /** Share of checks without an answer, or with an error. */
  readonly failed: number;
}

export async function measureLatency(
  field: Field,
  load: Measured,
  { rounds, seconds }: Rounds,
  report: Report,
): Promise<readonly LatencyFigures[]> {
  report.title("Direct, at steady rates");
  const callers = Math.max(...field.competitors.map((one) => one.callers));
  // One number of callers: those with fewer tell nothing new here.
  const targets = field.competitors.filter(
    (one) => one.callers === callers && one.name !== NAMES.grpcJsDecoding && one.streams === undefined,
  );
  for (const one of targets) await turn(load, one, WARM_SECONDS, { perSecond: RATES[0] as number });
  const results = new Map<Competitor, LoadResult[][]>(targets.map((one) => [one, RATES.map(() => [])]));
  const cpus = new Map<LoadResult, number>();
  for (let round = 0; round < rounds; round++) {
    for (const one of targets) {
      for (const [i, perSecond] of RATES.entries()) {
        const result = await turn(load, one, seconds, { perSecond });
        cpus.set(result, result.serverCpuUs / result.sent);
        results.get(one)?.[i]?.push(result);
      }
    }
  }
  const figures = targets.flatMap((one) =>
    RATES.map((perSecond, i) => {
      const all = results.get(one)?.[i] ?? [];
      return {
        ...{ name: one.name, perSecond, latency: medians(all), lateUs: rounded(median(all.map((r) => r.lateUs ?? 0))) },
        cpuUs: rounded(median(all.map((result) => cpus.get(result) ?? Number.NaN)), 1),
        failed: all.reduce((sum, { failed }) => sum + failed, 0) / all.reduce((sum, { sent }) => sum + sent, 0),
      };
    }),
  );
  report.table(
    ["server", "checks/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/check", "failed", "sent late, p99 µs"],
    figures.map(({ name, perSecond, latency, lateUs, cpuUs, failed }) => [
      ...[name, perSecond, latency.p50, latency.p99, latency.p999, cpuUs],
      ...[failed === 0 ? "0" : `${rounded(failed * 100, 2)} %`, lateUs],
    ]),
  );
  report.figures.latency = figures;
  report.figures.loop = await measureLoop(field, load, seconds, callers, report);
  return figures;
}

/** In a turn of its own, since watching costs CPU. */
async function measureLoop(
  field: Field,
  load: Measured,
  seconds: number,
  callers: number,
  report: Report,
): Promise<{ readonly what: string; readonly delay: LoopDelay }[]> {
  const sidecar = field.sidecars.get(callers) as Sidecar;
  const target = { server: sidecar, streams: sidecar.streams, callers };
  const found: { what: string; delay: LoopDelay }[] = [];
  await sidecar.program.loopDelay();
  const paces = [...RATES.map((perSecond) => ({ perSecond })), { underWay: 64 }];
  for (const pace of paces) {
    await sidecar.program.loopDelay();
    await turn(load, target, seconds, pace);
    const what = "perSecond" in pace ? `${pace.perSecond.toLocaleString("en-US")} checks/s` : "as fast as it goes";
    found.push({ what, delay: await sidecar.program.loopDelay() });
  }
  await sidecar.program.stopLoopDelay();
  report.table(
    ["event-loop delay of serve, access log on", "p50 ms", "p99 ms", "max ms"],
    found.map(({ what, delay }) => [
      ...[what, rounded(delay.p50Ms, 2), rounded(delay.p99Ms, 2), rounded(delay.maxMs, 1)],
    ]),
  );
  return found;
}

/** Medians of the rounds' quantiles, whole microseconds. */
export function medians(results: readonly LoadResult[]): Latency {
  const of = (key: keyof Latency): number =>
    rounded(median(results.flatMap(({ latencyUs }) => (latencyUs === undefined ? [] : [latencyUs[key]]))));
  return { p50: of("p50"), p99: of("p99"), p999: of("p999"), max: of("max") };
}
