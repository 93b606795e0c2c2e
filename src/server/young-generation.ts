/**
 * Keeps V8's young generation at one small size. By default its semi-spaces grow to 16 MiB each under load; collecting one
 * then takes some ten milliseconds when thousands of callers' verdicts are alive in it, and every check that comes meanwhile
 * waits. In smaller pieces the same work costs a few per cent more processor time, a fraction of the delay, and less memory.
 * V8 also takes room away from a process that allocates little for a while: left so, the next busy hour would be spent
 * collecting several times as often.
 *
 * Collecting so little is not worth handing out to V8's helper threads: waking them costs more processor time than they
 * save, and a sidecar is seldom given more than one core (`--parallel-scavenge`).
 *
 * V8 takes `--max-semi-space-size` only before it starts, which would be the operator's to remember; how fast a semi-space
 * grows it asks whenever it grows one (`--semi-space-growth-factor`).
 */

import { getHeapSpaceStatistics, setFlagsFromString } from "node:v8";

/** Both semi-spaces together. */
const NEW_SPACE_BYTES = 4 * 1024 * 1024;
/** While they have their size, this many looks pass without one. */
const LOOKS_SPARED = 100;
const BATCHES_MAX = 64;
const BATCH_OBJECTS = 4_096;

export class YoungGeneration {
  private mayGrow = false;
  private spared = 0;

  /** Once, at the start: before much else has made it grow. */
  constructor() {
    setFlagsFromString("--no-parallel-scavenge");
    setFlagsFromString("--semi-space-growth-factor=2");
    // It grows when much of it survives: what is kept here for a moment makes it do so.
    const kept: object[] = [];
    for (let batch = 0; batch < BATCHES_MAX && newSpaceBytes() < NEW_SPACE_BYTES; batch++) {
      for (let i = 0; i < BATCH_OBJECTS; i++) kept.push({ batch, i, next: kept[0] });
    }
    setFlagsFromString("--semi-space-growth-factor=1");
  }

  /** To be called some hundred times a second while there is work: it grows by itself then, and is stopped in time. */
  look(): void {
    if (!this.mayGrow && this.spared++ < LOOKS_SPARED) return;
    this.spared = 0;
    const mayGrow = newSpaceBytes() < NEW_SPACE_BYTES;
    if (mayGrow === this.mayGrow) return;
    this.mayGrow = mayGrow;
    setFlagsFromString(`--semi-space-growth-factor=${mayGrow ? 2 : 1}`);
  }
}

function newSpaceBytes(): number {
  return getHeapSpaceStatistics().find(({ space_name: name }) => name === "new_space")?.space_size ?? 0;
}
