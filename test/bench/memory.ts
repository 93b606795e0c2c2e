/** Resident memory of `serve`: with nothing learned, with all it holds before the first check, and after load. */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { sidecarFiles, startLoad, turn } from "./field.ts";
import { residentBytesOf } from "./measured.ts";
import type { Report } from "./report.ts";
import { startSidecar } from "./servers.ts";
import type { Rounds } from "./throughput.ts";

/** What the sections that start servers of their own need. */
export interface Shared extends Rounds {
  readonly folder: string;
  /** The largest learned state. */
  readonly state: { readonly principals: number; readonly directory: string };
  readonly quick: boolean;
}

export interface MemoryFigures {
  /** Bytes; the shipped policy, no state. */
  readonly idle: number;
  /** Bytes; the learned state and a policy with many ranges: before the first check, after load, and collected. */
  readonly loaded: { readonly started: number; readonly afterLoad: number; readonly afterGc: number };
  readonly heapUsed: number;
}

const RANGES = 100_000;
const SETTLE_MS = 2_000;

export async function measureMemory(
  { folder, state, seconds, rounds }: Shared,
  report: Report,
): Promise<MemoryFigures> {
  report.title("Resident memory");
  const bare = await startSidecar(await sidecarFiles(folder, undefined));
  await settle();
  const idle = residentBytesOf(bare.program.pid);
  await bare.program.stop();
  const policy = policyWithRanges(folder, RANGES);
  const sidecar = await startSidecar({ ...(await sidecarFiles(folder, state.directory)), policy });
  const load = await startLoad();
  try {
    await settle();
    const started = residentBytesOf(sidecar.program.pid);
    const target = { server: sidecar, streams: sidecar.streams, callers: state.principals };
    await turn(load, target, seconds * rounds, { underWay: 64 });
    await settle();
    const afterLoad = residentBytesOf(sidecar.program.pid);
    const { rssAfterGc, heapUsed } = await sidecar.program.memory();
    const figures = { idle, loaded: { started, afterLoad, afterGc: rssAfterGc }, heapUsed };
    report.table(
      ["resident memory of serve", "MB"],
      [
        ["idle, shipped policy, nothing learned", megabytes(idle)],
        [
          `${counted(state.principals)} principals, ${counted(RANGES)} ranges, before the first check`,
          megabytes(started),
        ],
        [`the same, after ${seconds * rounds} s at full speed, access log on`, megabytes(afterLoad)],
        ["the same, after a forced collection", megabytes(rssAfterGc)],
        ["of it live JavaScript heap", megabytes(heapUsed)],
      ],
    );
    report.figures.memory = figures;
    return figures;
  } finally {
    await load.stop();
    await sidecar.program.stop();
  }
}

/** A policy whose list scores none of the benchmark's callers. */
function policyWithRanges(folder: string, ranges: number): string {
  const lines = Array.from({ length: ranges }, (_, i) => `${20 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}.0/25`);
  writeFileSync(join(folder, "reputation.txt"), `${lines.join("\n")}\n`);
  const policy = join(folder, "reputation.yaml");
  writeFileSync(
    policy,
    `apiVersion: sallyport.dev/v1
kind: Policy
metadata: { name: bench, revision: ranges }
spec:
  lists: { addresses: [{ name: reputation, action: block, file: reputation.txt }] }
`,
  );
  return policy;
}

/** What starting left over is collected, or it is not: as an operator finds it. */
function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
}

export function megabytes(bytes: number): number {
  return Math.round(bytes / 1e6);
}

export function counted(count: number): string {
  return count.toLocaleString("en-US");
}
