/** What is aimed at, and whether this run reached it. */

import type { DisturbanceFigures } from "./disturbance.ts";
import type { EnvoyFigures } from "./envoy.ts";
import { NAMES } from "./field.ts";
import type { LatencyFigures } from "./latency.ts";
import { type MemoryFigures, megabytes } from "./memory.ts";
import type { Report } from "./report.ts";
import type { ScalingFigures } from "./scaling.ts";
import type { ThroughputFigures } from "./throughput.ts";

/** What of a run is judged; sections that were not asked for are absent. */
export interface Measurements {
  throughput?: readonly ThroughputFigures[];
  latency?: readonly LatencyFigures[];
  envoy?: readonly EnvoyFigures[] | undefined;
  memory?: MemoryFigures;
  disturbance?: DisturbanceFigures;
  scaling?: ScalingFigures;
  startUpMs?: number;
}

interface Mark {
  readonly aim: string;
  readonly measured: number;
  readonly unit: "" | " MB" | " ms" | " µs";
  readonly limit: { readonly most: number } | { readonly least: number };
}

/** Beyond the tenth, ten times the rate costs "more than ten times": noise of a run is below. */
const LINEAR_MOST = 1.1;
/** Below it, ten times the callers are a cliff: every check then is a newcomer's, which is other work, too. */
const CLIFF_LEAST = 0.5;
/** Differences of a tail below a tenth are noise. */
const NO_WORSE_MOST = 1.1;
const ADDED_MS_MOST = 1;

export function printMarks(run: Measurements, report: Report): void {
  const marks = [
    ...directMarks(run.throughput ?? []),
    ...latencyMarks(run.latency ?? []),
    ...envoyMarks(run.envoy ?? []),
    ...ownMarks(run),
  ].filter(({ measured }) => !Number.isNaN(measured));
  if (marks.length === 0) return;
  report.title("What is aimed at");
  const rows = marks.map(({ aim, measured, unit, limit }) => {
    const met = "most" in limit ? measured <= limit.most : measured >= limit.least;
    const wanted = "most" in limit ? `at most ${limit.most}${unit}` : `at least ${limit.least}${unit}`;
    return { aim, wanted, measured: `${Number(measured.toFixed(2))}${unit}`, met };
  });
  report.table(
    ["", "aimed at", "measured", ""],
    rows.map(({ aim, wanted, measured, met }) => [aim, wanted, measured, met ? "met" : "**missed**"]),
  );
  report.figures.marks = rows;
}

/** The largest number of principals is judged: the last sidecar on the default transport. */
function oursOf<Figures extends { readonly name: string }>(all: readonly Figures[]): Figures | undefined {
  return all.findLast(({ name }) => name.startsWith("sallyport serve") && name.endsWith("principals"));
}

function over<Figures extends { readonly name: string }>(
  all: readonly Figures[],
  other: string,
  value: (figures: Figures) => number,
): number {
  const [ours, theirs] = [oursOf(all), all.find(({ name }) => name === other)];
  return ours === undefined || theirs === undefined ? Number.NaN : value(ours) / value(theirs);
}

function directMarks(all: readonly ThroughputFigures[]): Mark[] {
  const ours = oursOf(all);
  const logged = all.find(({ name }) => name === `${ours?.name}, access log`);
  const go = all.find(({ name }) => name === NAMES.go);
  return [
    mark(
      "CPU of a decision, over Go's allow-all",
      over(all, NAMES.go, ({ cpuUs }) => cpuUs),
      { most: 0.75 },
    ),
    mark(
      "the same with the access log of every check, too",
      logged === undefined || go === undefined ? Number.NaN : logged.cpuUs / go.cpuUs,
      { most: 0.75 },
    ),
    mark(
      "CPU of a decision, over OPA-Envoy's",
      over(all, NAMES.opa, ({ cpuUs }) => cpuUs),
      { most: 1 / 7 },
    ),
    mark(
      "checks/s on one core, over Go's allow-all",
      over(all, NAMES.go, (one) => one.checksPerSecond),
      { least: 1.3 },
    ),
    mark(
      "checks/s on one core, over OPA-Envoy's",
      over(all, NAMES.opa, (one) => one.checksPerSecond),
      { least: 7 },
    ),
  ];
}

function latencyMarks(all: readonly LatencyFigures[]): Mark[] {
  const rates = [...new Set(all.map(({ perSecond }) => perSecond))];
  return rates.flatMap((rate) => {
    const at = all.filter(({ perSecond }) => perSecond === rate);
    const name = `direct at ${rate.toLocaleString("en-US")} checks/s, over Go's allow-all:`;
    return [
      mark(
        `${name} p50`,
        over(at, NAMES.go, ({ latency }) => latency.p50),
        { most: NO_WORSE_MOST },
      ),
      mark(
        `${name} p99`,
        over(at, NAMES.go, ({ latency }) => latency.p99),
        { most: NO_WORSE_MOST },
      ),
    ];
  });
}

function envoyMarks(all: readonly EnvoyFigures[]): Mark[] {
  const perSecond = (one: EnvoyFigures): number => one.requestsPerSecond;
  return [
    mark("through Envoy: requests/s, over Go's allow-all", over(all, NAMES.go, perSecond), { least: 1.2 }),
    mark("through Envoy: requests/s, over OPA-Envoy's", over(all, NAMES.opa, perSecond), { least: 2.4 }),
    mark(
      "through Envoy: p99, over Go's allow-all",
      over(all, NAMES.go, ({ p99Us }) => p99Us),
      { most: 1 },
    ),
    mark(
      "through Envoy, steady rate: p50, over Go's",
      over(all, NAMES.go, (one) => one.moderateP50Us),
      {
        most: NO_WORSE_MOST,
      },
    ),
    mark(
      "through Envoy, steady rate: p99, over Go's",
      over(all, NAMES.go, (one) => one.moderateP99Us),
      {
        most: NO_WORSE_MOST,
      },
    ),
  ];
}

function ownMarks({ memory, disturbance, scaling, startUpMs }: Measurements): Mark[] {
  const marks: Mark[] = [];
  if (disturbance !== undefined) {
    const addedMs = (disturbance.disturbed.p99 - disturbance.floor.p99) / 1_000;
    marks.push(mark("p99 over the floor's, while all else is written", addedMs, { most: ADDED_MS_MOST }, " ms"));
  }
  if (memory !== undefined) {
    const { started, afterLoad } = memory.loaded;
    marks.push(mark("resident memory, idle", megabytes(memory.idle), { most: 80 }, " MB"));
    marks.push(mark("with all principals and ranges, before load", megabytes(started), { most: 128 }, " MB"));
    marks.push(mark("with all principals and ranges, after load", megabytes(afterLoad), { most: 128 }, " MB"));
  }
  if (startUpMs !== undefined) marks.push(mark("start to ready", startUpMs, { most: 500 }, " ms"));
  if (scaling !== undefined) {
    const { cpuUs, callers, throughputRatio, residentBytes } = scaling;
    const many = callers.toLocaleString("en-US");
    // What the high rate left unanswered would look cheap.
    const linear = scaling.failed > 0 ? Number.POSITIVE_INFINITY : cpuUs[1] / cpuUs[0];
    marks.push(mark("CPU of a check at ten times the rate, over that before", linear, { most: LINEAR_MOST }));
    marks.push(mark(`checks/s at ${many} callers, over the learned number`, throughputRatio, { least: CLIFF_LEAST }));
    marks.push(mark(`resident memory after ${many} callers`, megabytes(residentBytes), { most: 128 }, " MB"));
  }
  return marks;
}

function mark(aim: string, measured: number, limit: Mark["limit"], unit: Mark["unit"] = ""): Mark {
  return { aim, measured, unit, limit };
}
