/** Whether ten times the rate costs ten times the CPU, and what ten times the callers do to speed and memory. */

import { type Competitor, sidecarFiles, startLoad, turn } from "./field.ts";
import { median, rounded } from "./figures.ts";
import { residentBytesOf } from "./measured.ts";
import { counted, megabytes, type Shared } from "./memory.ts";
import type { Report } from "./report.ts";
import { startSidecar } from "./servers.ts";

const RATES = [1_000, 10_000];
/** Much beyond `--principals-max`, which stays at its default: newcomers push others out. */
const CALLERS = 100_000;
const CALLERS_QUICK = 10_000;
/** Slow servers are not waited for until all callers have asked. */
const FIRST_ROUND_SECONDS_MAX = 40;
const FIRST_ROUND_SECONDS_MAX_QUICK = 5;

export interface ScalingFigures {
  /** CPU of a check at the low and the high rate. */
  readonly cpuUs: readonly [number, number];
  /** Share of checks that the high rate left without an answer. */
  readonly failed: number;
  readonly callers: number;
  /** How many of them had asked before throughput was measured. */
  readonly seen: number;
  /** Checks per second at so many callers, over those at the learned number. */
  readonly throughputRatio: number;
  readonly residentBytes: number;
}

export async function measureScaling(
  { folder, state, quick, rounds, seconds }: Shared,
  report: Report,
): Promise<ScalingFigures> {
  report.title("Ten times as much");
  const few = await startSidecar(await sidecarFiles(folder, state.directory));
  const crowd = await startSidecar(await sidecarFiles(folder, state.directory));
  // Two generators, on one core in turn: each keeps the messages of its own callers.
  const [load, crowdLoad] = [await startLoad(), await startLoad()];
  try {
    const callers = quick ? CALLERS_QUICK : CALLERS;
    const fewTarget: Omit<Competitor, "name"> = { server: few, streams: few.streams, callers: state.principals };
    const crowdTarget = { server: crowd, streams: crowd.streams, callers };
    await turn(load, fewTarget, 1, { perSecond: RATES[0] as number });
    const cpus: number[][] = RATES.map(() => []);
    let sent = 0;
    let failed = 0;
    for (let round = 0; round < rounds; round++) {
      for (const [i, perSecond] of RATES.entries()) {
        const result = await turn(load, fewTarget, seconds, { perSecond });
        cpus[i]?.push(result.serverCpuUs / (result.sent - result.failed));
        sent += result.sent;
        failed += result.failed;
      }
    }
    const ratios: number[] = [];
    // Once around all callers before it counts, and both with compiled code.
    const secondsMax = quick ? FIRST_ROUND_SECONDS_MAX_QUICK : FIRST_ROUND_SECONDS_MAX;
    let seen = 0;
    for (let passed = 0; passed < secondsMax && seen < callers; passed += seconds) {
      seen += (await turn(crowdLoad, crowdTarget, seconds, { underWay: 64 })).sent;
    }
    await turn(load, fewTarget, seconds, { underWay: 64 });
    for (let round = 0; round < rounds; round++) {
      const base = await turn(load, fewTarget, seconds, { underWay: 64 });
      const other = await turn(crowdLoad, crowdTarget, seconds, { underWay: 64 });
      ratios.push(other.sent / other.seconds / (base.sent / base.seconds));
    }
    const figures = {
      ...{ callers, seen: Math.min(seen, callers) },
      cpuUs: cpus.map((all) => rounded(median(all), 1)) as [number, number],
      ...{ failed: failed / sent, throughputRatio: rounded(median(ratios), 2) },
      residentBytes: residentBytesOf(crowd.program.pid),
    };
    report.table(
      ["", ""],
      [
        [`CPU µs/check at ${counted(RATES[0] as number)} checks/s`, figures.cpuUs[0]],
        [`CPU µs/check at ${counted(RATES[1] as number)} checks/s`, figures.cpuUs[1]],
        ["checks without an answer in time", `${rounded(figures.failed * 100, 2)} %`],
        [`throughput at ${counted(callers)} callers over ${counted(state.principals)}`, figures.throughputRatio],
        [`resident memory after ${counted(callers)} callers, MB`, megabytes(figures.residentBytes)],
      ],
    );
    report.figures.scaling = figures;
    return figures;
  } finally {
    await load.stop();
    await crowdLoad.stop();
    await few.program.stop();
    await crowd.program.stop();
  }
}
