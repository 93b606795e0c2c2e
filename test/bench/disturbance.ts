/** Latency while snapshots are written, policies swapped and the decision log flushed, beside servers that do nothing else. */

import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { NAMES, OWN_TRANSPORT, sidecarFiles, startLoad, turn } from "./field.ts";
import { rounded } from "./figures.ts";
import { medians } from "./latency.ts";
import type { Latency, LoadResult } from "./load.ts";
import type { LoopDelay } from "./measured.ts";
import type { Shared } from "./memory.ts";
import type { Report } from "./report.ts";
import { type BareServer, startBare, startSidecar } from "./servers.ts";
import { REVISIONS, writePolicies } from "./swap-policies.ts";

const RANGES = 200_000;
const SWAP_MS = 2_000;
const SNAPSHOT_INTERVAL = "2s";
const PER_SECOND = 1_000;
/** A round holds at least two swaps and two snapshots. */
const SECONDS_MIN = 5;

export interface DisturbanceFigures {
  readonly perSecond: number;
  /** Microseconds, medians of the rounds. */
  readonly floor: Latency;
  readonly quiet: Latency;
  readonly disturbed: Latency;
  readonly loop: LoopDelay;
  readonly failed: number;
}

export async function measureDisturbance(shared: Shared, report: Report): Promise<DisturbanceFigures> {
  report.title("Latency while policies, snapshots and logs are written");
  const { folder, state, rounds, quick } = shared;
  const seconds = Math.max(shared.seconds, SECONDS_MIN);
  const policies = writePolicies(folder, RANGES);
  const policy = join(folder, "swapped.yaml");
  const put = (revision: string): void => {
    writeFileSync(join(folder, "next.yaml"), policies[revision] as string);
    renameSync(join(folder, "next.yaml"), policy);
  };
  put("none");
  const floorName = OWN_TRANSPORT ? NAMES.own : NAMES.http2;
  const load = await startLoad();
  const servers: BareServer[] = [];
  try {
    const floor = await startBare(OWN_TRANSPORT ? "own" : "http2");
    servers.push(floor);
    const quiet = await startSidecar(await sidecarFiles(folder, state.directory));
    servers.push(quiet);
    const disturbed = await startSidecar({
      ...(await sidecarFiles(folder, state.directory)),
      ...{ policy, snapshotInterval: SNAPSHOT_INTERVAL },
    });
    servers.push(disturbed);
    const kinds = [
      { name: floorName, server: floor, swaps: false, results: [] as LoadResult[] },
      { name: "sallyport serve, undisturbed", server: quiet, swaps: false, results: [] as LoadResult[] },
      {
        name: `sallyport serve, swaps of ${RANGES.toLocaleString("en-US")} ranges and snapshots every 2 s, logs`,
        ...{ server: disturbed, swaps: true, results: [] as LoadResult[] },
      },
    ];
    const pace = { perSecond: PER_SECOND };
    const target = (server: BareServer) => ({ server, streams: undefined, callers: state.principals });
    for (const { server } of kinds) await turn(load, target(server), 1, pace);
    let turns = 0;
    for (let round = 0; round < (quick ? 1 : rounds); round++) {
      for (const { server, swaps, results } of kinds) {
        const timer = swaps
          ? setInterval(() => put(REVISIONS[turns++ % REVISIONS.length] as string), SWAP_MS)
          : undefined;
        results.push(await turn(load, target(server), seconds, pace));
        clearInterval(timer);
      }
    }
    await disturbed.program.loopDelay();
    const timer = setInterval(() => put(REVISIONS[turns++ % REVISIONS.length] as string), SWAP_MS);
    await turn(load, target(disturbed), seconds, pace);
    clearInterval(timer);
    const loop = await disturbed.program.loopDelay();
    const rows = kinds.map(({ name, results }) => ({ name, latency: medians(results), results }));
    report.table(
      ["", "p50 µs", "p99 µs", "p99.9 µs", "max µs", "failed"],
      rows.map(({ name, latency, results }) => [
        ...[name, latency.p50, latency.p99, latency.p999, latency.max],
        results.reduce((sum, { failed }) => sum + failed, 0),
      ]),
    );
    report.say(
      `${PER_SECOND.toLocaleString("en-US")} checks/s, rounds of ${seconds} s. Event-loop delay meanwhile, in a turn of its ` +
        `own: p50 ${rounded(loop.p50Ms, 2)} ms, p99 ${rounded(loop.p99Ms, 2)} ms, max ${rounded(loop.maxMs, 1)} ms.`,
    );
    const [floorLatency, quietLatency, disturbedLatency] = rows.map(({ latency }) => latency) as [
      Latency,
      Latency,
      Latency,
    ];
    const failed = kinds.flatMap(({ results }) => results).reduce((sum, one) => sum + one.failed, 0);
    const figures = {
      ...{ perSecond: PER_SECOND, floor: floorLatency, quiet: quietLatency, disturbed: disturbedLatency, loop, failed },
    };
    report.figures.disturbance = figures;
    return figures;
  } finally {
    for (const { program } of servers) await program.stop();
    await load.stop();
  }
}
