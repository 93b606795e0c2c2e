/** Turns a sum of evidence into a score that keeps its promise: ten points for every factor of ten in rarity. */

import { type Figures, zeros } from "../model/numbers.ts";
import { POINTS_PER_BIT } from "../model/units.ts";

/** Histogram of the totals of ordinary requests, in bins of one bit; the last bin holds all beyond. */
const BINS = 64;
/** A principal's own histogram is shorter: beyond it, the pool and the theory speak. */
export const OWN_BINS = 32;
/** A level counts as measured when the pool, or the principal itself, reached it this often. */
const MEASURED_MIN = 8;
const OWN_MEASURED_MIN = 3;
/** Weight of the theory before measurement: as if this many requests had behaved as it says. */
const PRIOR_REQUESTS = 200;
/** Weight of the pool beside a principal's own requests. */
const POOL_REQUESTS = 200;
/** Requests of one principal that count in full in the pool; further ones count less and less: no principal is the norm. */
const POOLED_IN_FULL = 20;
/** Counts are halved whenever they reach this many requests, so that the past fades. */
const REQUESTS_MAX = 200_000;
const OWN_REQUESTS_MAX = 20_000;

/**
 * Requests after which a principal is judged beside established ones. Newcomers are a world of their own: nearly all that
 * they do is new, and what they reach says nothing about those who have settled.
 */
const ESTABLISHED_REQUESTS = 32;

/**
 * How often one principal's ordinary requests reached which total: first how many requests there were, then by whole bits
 * how many of them reached just that, in single precision. It ends with the highest level that was reached, of
 * {@link OWN_BINS} at most: few principals reach many.
 */
export type OwnTotals = Figures;

const REQUESTS = 0;
const COUNTS = 1;

export function newOwnTotals(): OwnTotals {
  return zeros(COUNTS + 1);
}

/** Makes room for a level, where there is none; what was given is not used any more then. */
export function withLevel(totals: OwnTotals, bin: number): OwnTotals {
  const missing = COUNTS + bin + 1 - totals.length;
  // Of just the length needed: what grows by itself takes room for many more.
  return missing <= 0 ? totals : totals.concat(zeros(missing));
}

/**
 * A sum of log-likelihood ratios exceeds x bits for at most one ordinary request in 2^x (Ville's inequality), so one
 * bit is worth 3.01 points before anything is known. Where ordinary traffic, of all principals or of this one, is seen
 * to reach a level more often than that, the level is worth only what was measured; beyond the highest measured level
 * each bit counts in full again (an exponential tail: peaks over threshold with shape 0, Siffer et al., KDD 2017).
 */
export class Calibration {
  readonly counts = new Float64Array(BINS);
  requests = 0;
  private readonly derived = newDerived();
  private learnedSince = Number.POSITIVE_INFINITY;

  /**
   * Points for `bits`, 0..99.
   * @param own totals of the principal's ordinary requests; without them the pool alone speaks
   */
  score(bits: number, own: OwnTotals | undefined): number {
    if (bits <= 0) return 0;
    if (this.learnedSince >= 100) this.rebuild();
    return this.points(bits, own, this.derived);
  }

  /** What {@link score} would say, without bringing anything up to date. */
  peek(bits: number, own: OwnTotals | undefined): number {
    if (bits <= 0) return 0;
    return this.points(bits, own, this.learnedSince >= 100 ? this.derive(newDerived()) : this.derived);
  }

  private points(bits: number, own: OwnTotals | undefined, pool: Derived): number {
    const requests = own === undefined ? 0 : (own[REQUESTS] as number);
    let reached = requests;
    let points = 0;
    const last = Math.min(BINS, Math.floor(bits) + 1);
    for (let level = 1; level <= last; level++) {
      const theory = points + POINTS_PER_BIT;
      let share = pool.shares[level] as number;
      let isMeasured = (pool.reached[level] as number) >= MEASURED_MIN;
      if (own !== undefined) {
        reached = level <= OWN_BINS ? Math.max(0, reached - countAt(own, level - 1)) : 0;
        share = (reached + POOL_REQUESTS * share) / (requests + POOL_REQUESTS);
        isMeasured ||= reached >= OWN_MEASURED_MIN;
      }
      const next = isMeasured ? Math.max(points, Math.min(theory, -10 * Math.log10(share))) : theory;
      if (level > bits) return Math.min(99, points + (next - points) * (bits - (level - 1)));
      points = next;
    }
    return Math.min(99, points);
  }

  /**
   * Counts one request that was let through and judged ordinary.
   * @param principal whose totals count it as well
   * @param share in (0, 1]: less than 1 for later requests of a session, which repeat what the first one showed
   */
  learn(bits: number, principal: { totals: OwnTotals } | undefined, share: number): void {
    if (principal !== undefined) countOwn(principal, bits, share);
    const weight = share * Math.min(1, POOLED_IN_FULL / Math.max(POOLED_IN_FULL, principal?.totals[REQUESTS] ?? 0));
    const bin = Math.max(0, Math.min(BINS - 1, Math.floor(bits)));
    this.counts[bin] = (this.counts[bin] as number) + weight;
    this.requests += weight;
    // Rebuilding costs little, but not nothing: at most once per hundred requests.
    this.learnedSince++;
    if (this.requests >= REQUESTS_MAX) {
      for (let i = 0; i < BINS; i++) this.counts[i] = (this.counts[i] as number) / 2;
      this.requests /= 2;
    }
  }

  /** Takes over counts from a snapshot. */
  restore(counts: readonly number[], requests: number): void {
    this.counts.set(counts);
    this.requests = requests;
    this.rebuild();
  }

  /** Brings what is derived from the counts up to date: what is restored from them then judges alike. */
  rebuild(): void {
    this.learnedSince = 0;
    this.derive(this.derived);
  }

  private derive(into: Derived): Derived {
    let above = 0;
    for (let level = BINS; level >= 0; level--) {
      if (level < BINS) above += this.counts[level] as number;
      into.reached[level] = above;
      into.shares[level] = (above + PRIOR_REQUESTS * 2 ** -level) / (this.requests + PRIOR_REQUESTS);
    }
    return into;
  }
}

/** By level: how many requests reached it, and their share. */
interface Derived {
  readonly shares: Float64Array;
  readonly reached: Float64Array;
}

function newDerived(): Derived {
  return { shares: new Float64Array(BINS + 1), reached: new Float64Array(BINS + 1) };
}

function countAt(own: OwnTotals, bin: number): number {
  return COUNTS + bin < own.length ? (own[COUNTS + bin] as number) : 0;
}

function countOwn(principal: { totals: OwnTotals }, bits: number, share: number): void {
  const bin = Math.max(0, Math.min(OWN_BINS - 1, Math.floor(bits)));
  const own = withLevel(principal.totals, bin);
  principal.totals = own;
  const requests = (own[REQUESTS] as number) + share;
  own[REQUESTS] = requests;
  own[COUNTS + bin] = Math.fround((own[COUNTS + bin] as number) + share);
  if (requests < OWN_REQUESTS_MAX) return;
  for (let i = COUNTS; i < own.length; i++) own[i] = Math.fround((own[i] as number) / 2);
  own[REQUESTS] = requests / 2;
}

/** What a principal is judged beside: its totals and how many requests it has behind it. */
export interface Judged {
  readonly requests: number;
  totals: OwnTotals;
}

/** One calibration for newcomers and one for established principals. */
export class Calibrations {
  readonly newcomers = new Calibration();
  readonly established = new Calibration();

  /** Points for `bits`, 0..99. */
  score(bits: number, principal: Judged | undefined): number {
    return principal !== undefined && principal.requests >= ESTABLISHED_REQUESTS
      ? this.established.score(bits, principal.totals)
      : this.newcomers.score(bits, undefined);
  }

  /** The same points, without bringing anything up to date. */
  peek(bits: number, principal: Judged | undefined): number {
    return principal !== undefined && principal.requests >= ESTABLISHED_REQUESTS
      ? this.established.peek(bits, principal.totals)
      : this.newcomers.peek(bits, undefined);
  }

  /** Counts one request that was let through and judged ordinary; see {@link Calibration.learn}. */
  learn(bits: number, principal: Judged, share: number): void {
    if (principal.requests >= ESTABLISHED_REQUESTS) this.established.learn(bits, principal, share);
    else this.newcomers.learn(bits, undefined, share);
  }
}
