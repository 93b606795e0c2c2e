/**
 * Notices when the world changes rather than one caller: the share of other principals that show the same kind of
 * novelty within the last minutes. A deploy, a failover or a retry storm moves many at once; a thief moves one.
 */

import { type Aged, AgeList } from "../baseline/age-list.ts";
import { CALLERS_MAX } from "../model/limits.ts";
import { MINUTE_MS, SECOND_MS } from "../model/units.ts";

const WINDOW_MS = 10 * MINUTE_MS;
const KEPT_MS = 30 * SECOND_MS;
/** Fewer other principals than this are no common cause. */
const OTHERS_MIN = 3;
/** Added to the number of active principals, so that three of four are not yet everybody. */
const PRIOR_ACTIVE = 4;
/** Principals told apart; while so many are active, further ones count as if they were not there. */
const PRINCIPALS_MAX = CALLERS_MAX;
/** Novelties watched at a time, and principals noted with all of them; the one noticed longest ago is forgotten first. */
const CAUSES_MAX = 4096;
const MOVED_MAX = 262_144;

export class CommonCause {
  private readonly active = new Recent();
  private readonly causes = new Map<string, Cause>();
  private readonly causesByAge = new AgeList<Cause>();
  /** Principals noted with all causes together. */
  private moved = 0;

  /** Notes that a principal is at work, and which signals accused it of something new. */
  note(session: AtWork, signals: readonly string[], now: number): void {
    const { principal } = session;
    const slot = Math.floor(now / KEPT_MS);
    if (session.activeSlot !== slot) {
      session.activeSlot = slot;
      this.active.note(principal, now);
    }
    for (const signal of signals) {
      const { moved } = this.noteCause(signal);
      const before = moved.size;
      moved.note(principal, now);
      this.moved += moved.size - before;
    }
    while (this.moved > MOVED_MAX && this.causesByAge.size > 1) this.dropCause(this.causesByAge.oldest as Cause);
  }

  /** Share, 0..1, of the other active principals that `signal` accused lately. */
  share(signal: string, principal: string, now: number): number {
    const moved = this.causes.get(signal)?.moved;
    if (moved === undefined || moved.size <= OTHERS_MIN) return 0;
    const before = moved.size;
    moved.forgetOld(now);
    this.moved += moved.size - before;
    this.active.forgetOld(now);
    const others = moved.size - (moved.has(principal) ? 1 : 0);
    if (others < OTHERS_MIN) return 0;
    const active = this.active.size - (this.active.has(principal) ? 1 : 0);
    return Math.min(1, others / (active + PRIOR_ACTIVE));
  }

  /** The same share, without forgetting what is old. */
  peek(signal: string, principal: string, now: number): number {
    const moved = this.causes.get(signal)?.moved;
    if (moved === undefined || moved.size <= OTHERS_MIN) return 0;
    const others = moved.othersThan(principal, now);
    if (others < OTHERS_MIN) return 0;
    return Math.min(1, others / (this.active.othersThan(principal, now) + PRIOR_ACTIVE));
  }

  private noteCause(signal: string): Cause {
    const known = this.causes.get(signal);
    if (known !== undefined) {
      this.causesByAge.renew(known);
      return known;
    }
    const cause: Cause = { signal, moved: new Recent(), older: undefined, newer: undefined };
    this.causes.set(signal, cause);
    this.causesByAge.add(cause);
    if (this.causes.size > CAUSES_MAX) this.dropCause(this.causesByAge.oldest as Cause);
    return cause;
  }

  private dropCause(cause: Cause): void {
    this.causes.delete(cause.signal);
    this.causesByAge.remove(cause);
    this.moved -= cause.moved.size;
  }
}

/** Whose work it is: a session, which remembers when that was noted. */
export interface AtWork {
  readonly principal: string;
  /** Half a minute, since the epoch, in which it was last noted as at work. */
  activeSlot: number;
}

/** A novelty and who showed it lately. */
interface Cause extends Aged<Cause> {
  readonly signal: string;
  readonly moved: Recent;
}

interface Seen extends Aged<Seen> {
  readonly principal: string;
  at: number;
}

/** Principals seen lately, in order of time, so that forgetting stops at the first recent one; bounded. */
class Recent {
  private readonly byName = new Map<string, Seen>();
  private readonly byAge = new AgeList<Seen>();

  get size(): number {
    return this.byName.size;
  }

  has(principal: string): boolean {
    return this.byName.has(principal);
  }

  note(principal: string, now: number): void {
    const seen = this.byName.get(principal);
    if (seen === undefined) {
      if (this.size >= PRINCIPALS_MAX) this.forgetOld(now);
      // With one in and one out for every request, more principals than there is room for would cost the most.
      if (this.size >= PRINCIPALS_MAX) return;
      const fresh: Seen = { principal, at: now, older: undefined, newer: undefined };
      this.byName.set(principal, fresh);
      this.byAge.add(fresh);
      return;
    }
    // Within half a minute its place in the order is good enough.
    if (now - seen.at < KEPT_MS) return;
    seen.at = now;
    this.byAge.renew(seen);
  }

  forgetOld(now: number): void {
    for (let { oldest } = this.byAge; oldest !== undefined && now - oldest.at > WINDOW_MS; { oldest } = this.byAge) {
      this.drop(oldest);
    }
  }

  /** How many others than `principal` are here, old entries not counted. */
  othersThan(principal: string, now: number): number {
    let left = this.size;
    let present = this.has(principal);
    for (const seen of this.byAge) {
      if (now - seen.at <= WINDOW_MS) break;
      left--;
      if (seen.principal === principal) present = false;
    }
    return left - (present ? 1 : 0);
  }

  private drop(seen: Seen): void {
    this.byName.delete(seen.principal);
    this.byAge.remove(seen);
  }
}
