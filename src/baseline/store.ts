/** The baselines of all principals: bounded, and forgetting in an order that an attacker cannot turn on a victim. */

import { type EpochMs, MINUTE_MS } from "../model/units.ts";
import { AgeList } from "./age-list.ts";
import { type Baseline, newBaseline, Population } from "./baseline.ts";
import { ForgottenNames } from "./forgotten.ts";

/** How stale an entry's place in the order of use may be. */
const KEPT_MS = MINUTE_MS;

/** A principal with this many requests is established. */
const ESTABLISHED_REQUESTS = 20;

/** Of the room for established principals, what newcomers have in any case. */
const NEWCOMERS_SHARE = 1 / 4;
/** Established principals that were forgotten are known by name this many times over. */
const FORGOTTEN_TIMES = 8;

/**
 * At most `principalsMax` established baselines. Newcomers have the room that these leave, and at least a quarter as much
 * beside them; they are forgotten first, least recently seen first. Established principals are only displaced by other
 * established ones, and stay known by name. Whoever mints ten thousand names therefore only pushes out other newcomers.
 */
export class BaselineStore {
  population = new Population();
  evicted = 0;
  /** Established principals that had to make room. */
  readonly forgotten: ForgottenNames;
  private readonly byName = new Map<string, Baseline>();
  private readonly newcomers = new AgeList<Baseline>();
  private readonly established = new AgeList<Baseline>();
  private readonly principalsMax: number;
  private readonly newcomersMax: number;

  constructor(principalsMax: number) {
    this.principalsMax = principalsMax;
    this.newcomersMax = Math.max(1, Math.floor(principalsMax * NEWCOMERS_SHARE));
    this.forgotten = new ForgottenNames(principalsMax * FORGOTTEN_TIMES);
  }

  get size(): number {
    return this.byName.size;
  }

  get(principal: string): Baseline | undefined {
    return this.byName.get(principal);
  }

  /** The principal's baseline for learning: made if missing, counted, and moved to the recently seen end. */
  touch(principal: string, now: EpochMs): Baseline {
    const known = this.get(principal);
    if (known !== undefined) {
      this.touchKnown(known, now);
      return known;
    }
    const baseline = newBaseline(principal, now);
    baseline.requests = 1;
    this.put(baseline);
    this.evicted += this.trim();
    return baseline;
  }

  /** The same for one that the store gave before and still keeps. */
  touchKnown(baseline: Baseline, now: EpochMs): void {
    const slot = Math.floor(baseline.lastSeenMs / KEPT_MS);
    const before = this.roomOf(baseline);
    baseline.requests++;
    baseline.lastSeenMs = Math.max(baseline.lastSeenMs, now);
    const room = this.roomOf(baseline);
    if (room !== before) {
      before.remove(baseline);
      room.add(baseline);
      this.evicted += this.trim();
    } else if (slot !== Math.floor(baseline.lastSeenMs / KEPT_MS)) {
      // Within a minute their place in the order is good enough.
      room.renew(baseline);
    }
  }

  /** Puts back a baseline read from a snapshot. */
  restore(baseline: Baseline): void {
    this.delete(baseline.principal);
    this.put(baseline);
    this.trim();
  }

  delete(principal: string): boolean {
    const baseline = this.get(principal);
    if (baseline === undefined) return false;
    this.drop(baseline);
    return true;
  }

  clear(): void {
    for (const baseline of this.byName.values()) baseline.kept = false;
    this.byName.clear();
    this.established.clear();
    this.newcomers.clear();
    this.forgotten.clear();
    this.population = new Population();
  }

  /** All of them, in no order: a copy, made quickly however many there are. */
  all(): readonly Baseline[] {
    return [...this.byName.values()];
  }

  *[Symbol.iterator](): IterableIterator<Baseline> {
    yield* this.newcomers;
    yield* this.established;
  }

  private roomOf({ requests }: Baseline): AgeList<Baseline> {
    return requests >= ESTABLISHED_REQUESTS ? this.established : this.newcomers;
  }

  private put(baseline: Baseline): void {
    baseline.kept = true;
    this.byName.set(baseline.principal, baseline);
    this.roomOf(baseline).add(baseline);
  }

  private drop(baseline: Baseline): void {
    baseline.kept = false;
    this.byName.delete(baseline.principal);
    this.roomOf(baseline).remove(baseline);
  }

  /** Forgets the oldest until both fit; returns how many went. */
  private trim(): number {
    let removed = 0;
    for (; this.established.size > this.principalsMax; removed++) {
      const oldest = this.established.oldest as Baseline;
      this.drop(oldest);
      this.forgotten.add(oldest.principal);
    }
    // Room that established principals leave is the newcomers' too: a fleet that starts at once gets to know all.
    const room = Math.max(this.newcomersMax, this.principalsMax - this.established.size);
    for (; this.newcomers.size > room; removed++) this.drop(this.newcomers.oldest as Baseline);
    return removed;
  }
}
