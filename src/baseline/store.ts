/** The baselines of all principals: bounded, and forgetting in an order that an attacker cannot turn on a victim. */

import { type EpochMs, MINUTE_MS } from "../model/units.ts";
import { type Baseline, newBaseline, Population } from "./baseline.ts";

/** How stale an entry's place in the order of use may be. */
const KEPT_MS = MINUTE_MS;

/** A principal with this many requests is established. */
const ESTABLISHED_REQUESTS = 20;

/**
 * At most `principalsMax` baselines. Newcomers have the room that established principals leave, at least a quarter of it
 * all, and are forgotten first, least recently seen first; established principals are only displaced by other
 * established ones. Whoever mints ten thousand names therefore only pushes out other newcomers.
 */
export class BaselineStore {
  population = new Population();
  evicted = 0;
  private readonly newcomers = new Map<string, Baseline>();
  private readonly established = new Map<string, Baseline>();
  private readonly principalsMax: number;
  private readonly newcomersMax: number;
  private readonly establishedMax: number;

  constructor(principalsMax: number) {
    this.principalsMax = principalsMax;
    this.newcomersMax = Math.max(1, Math.floor(principalsMax / 4));
    this.establishedMax = Math.max(1, principalsMax - this.newcomersMax);
  }

  get size(): number {
    return this.newcomers.size + this.established.size;
  }

  get(principal: string): Baseline | undefined {
    return this.established.get(principal) ?? this.newcomers.get(principal);
  }

  /** The principal's baseline for learning: made if missing, counted, and moved to the recently seen end. */
  touch(principal: string, now: EpochMs): Baseline {
    const known = this.get(principal);
    const baseline = known ?? newBaseline(principal, now);
    const slot = Math.floor(baseline.lastSeenMs / KEPT_MS);
    baseline.requests++;
    baseline.lastSeenMs = Math.max(baseline.lastSeenMs, now);
    // Moving entries costs more than looking: within a minute their place in the order is good enough.
    const moves = baseline.requests === ESTABLISHED_REQUESTS || slot !== Math.floor(baseline.lastSeenMs / KEPT_MS);
    if (known !== undefined && !moves) return baseline;
    if (baseline.requests >= ESTABLISHED_REQUESTS) {
      if (!this.established.delete(principal)) this.newcomers.delete(principal);
      this.established.set(principal, baseline);
      this.evicted += trim(this.established, this.establishedMax) + trim(this.newcomers, this.newcomersRoom());
    } else {
      this.newcomers.delete(principal);
      this.newcomers.set(principal, baseline);
      this.evicted += trim(this.newcomers, this.newcomersRoom());
    }
    return baseline;
  }

  /** Puts back a baseline read from a snapshot. */
  restore(baseline: Baseline): void {
    const room = baseline.requests >= ESTABLISHED_REQUESTS ? this.established : this.newcomers;
    room.set(baseline.principal, baseline);
    trim(this.established, this.establishedMax);
    trim(this.newcomers, this.newcomersRoom());
  }

  /** Room that established principals leave is the newcomers' too: a fleet that starts at once gets to know all. */
  private newcomersRoom(): number {
    return Math.max(this.newcomersMax, this.principalsMax - this.established.size);
  }

  delete(principal: string): boolean {
    return this.established.delete(principal) || this.newcomers.delete(principal);
  }

  clear(): void {
    this.established.clear();
    this.newcomers.clear();
    this.population = new Population();
  }

  *[Symbol.iterator](): IterableIterator<Baseline> {
    yield* this.newcomers.values();
    yield* this.established.values();
  }
}

/** Removes the oldest entries of an insertion-ordered map until it fits; returns how many went. */
function trim(map: Map<string, unknown>, max: number): number {
  let removed = 0;
  for (const key of map.keys()) {
    if (map.size <= max) break;
    map.delete(key);
    removed++;
  }
  return removed;
}
