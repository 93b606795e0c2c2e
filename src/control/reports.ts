/** Sidecars' last words, in memory: bounded, and forgotten when they grow old. */

import { REPORT_TTL_MS, type Reported } from "./store.ts";

export class Reports {
  private readonly byId = new Map<string, Reported>();
  private readonly max: number;
  private readonly now: () => number;

  /** @param max beyond it, the one that was silent the longest is forgotten */
  constructor(max: number, now: () => number) {
    this.max = max;
    this.now = now;
  }

  put(reported: Reported): void {
    const id = reported.status.sidecarId;
    const earlier = this.byId.get(id);
    if (earlier !== undefined && earlier.atMs > reported.atMs) return;
    this.byId.delete(id);
    this.byId.set(id, reported);
    const oldest = this.byId.keys().next();
    if (this.byId.size > this.max && oldest.done !== true) this.byId.delete(oldest.value);
  }

  *list(): Iterable<Reported> {
    const since = this.now() - REPORT_TTL_MS;
    for (const [id, reported] of this.byId) {
      if (reported.atMs < since) this.byId.delete(id);
      else yield reported;
    }
  }
}
