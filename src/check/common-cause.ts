/**
 * Notices when the world changes rather than one caller: the share of other principals that show the same kind of
 * novelty within the last minutes. A deploy, a failover or a retry storm moves many at once; a thief moves one.
 */

import { MINUTE_MS, SECOND_MS } from "../model/units.ts";

const WINDOW_MS = 10 * MINUTE_MS;
const KEPT_MS = 30 * SECOND_MS;
/** Fewer other principals than this are no common cause. */
const OTHERS_MIN = 3;
/** Added to the number of active principals, so that three of four are not yet everybody. */
const PRIOR_ACTIVE = 4;
const PRINCIPALS_MAX = 4096;
/** Novelties watched at a time; the one noticed longest ago is forgotten first. */
const CAUSES_MAX = 4096;

export class CommonCause {
  private readonly active = new Map<string, number>();
  private readonly bySignal = new Map<string, Map<string, number>>();

  /** Notes that a principal is at work, and which signals accused it of something new. */
  note(principal: string, signals: readonly string[], now: number): void {
    remember(this.active, principal, now);
    for (const signal of signals) {
      const moved = this.bySignal.get(signal) ?? new Map<string, number>();
      this.bySignal.delete(signal);
      this.bySignal.set(signal, moved);
      remember(moved, principal, now);
      if (this.bySignal.size > CAUSES_MAX) {
        const oldest = this.bySignal.keys().next().value;
        if (oldest !== undefined) this.bySignal.delete(oldest);
      }
    }
  }

  /** Share, 0..1, of the other active principals that `signal` accused lately. */
  share(signal: string, principal: string, now: number): number {
    const moved = this.bySignal.get(signal);
    if (moved === undefined || moved.size <= OTHERS_MIN) return 0;
    forgetOld(moved, now);
    forgetOld(this.active, now);
    return shareOf(moved, this.active, principal, now);
  }

  /** The same share, without forgetting what is old. */
  peek(signal: string, principal: string, now: number): number {
    const moved = this.bySignal.get(signal);
    if (moved === undefined || moved.size <= OTHERS_MIN) return 0;
    return shareOf(moved, this.active, principal, now);
  }
}

function shareOf(moved: Map<string, number>, active: Map<string, number>, principal: string, now: number): number {
  const others = othersIn(moved, principal, now);
  if (others < OTHERS_MIN) return 0;
  return Math.min(1, others / (othersIn(active, principal, now) + PRIOR_ACTIVE));
}

/** How many others than `principal` are in a map, old entries not counted. */
function othersIn(map: Map<string, number>, principal: string, now: number): number {
  let left = map.size;
  let present = map.has(principal);
  for (const [name, at] of map) {
    if (now - at <= WINDOW_MS) break;
    left--;
    if (name === principal) present = false;
  }
  return left - (present ? 1 : 0);
}

/** Maps stay in order of time, so that forgetting stops at the first recent entry. */
function remember(map: Map<string, number>, principal: string, now: number): void {
  const before = map.get(principal);
  // Moving an entry costs more than looking: within half a minute its place in the order is good enough.
  if (before !== undefined && now - before < KEPT_MS) return;
  map.delete(principal);
  map.set(principal, now);
  if (map.size > PRINCIPALS_MAX) {
    const oldest = map.keys().next().value;
    if (oldest !== undefined) map.delete(oldest);
  }
}

function forgetOld(map: Map<string, number>, now: number): void {
  for (const [principal, at] of map) {
    if (now - at <= WINDOW_MS) return;
    map.delete(principal);
  }
}
