/** Turns a sum of evidence into a score that keeps its promise: ten points for every factor of ten in rarity. */

import { POINTS_PER_BIT } from "../model/units.ts";

/** Histogram of the totals of ordinary requests, in bins of one bit. */
const BINS = 64;
/** A level counts as measured when at least this many ordinary requests reached it. */
const MEASURED_MIN = 8;
/** Weight of the theory before measurement: as if this many requests had behaved as it says. */
const PRIOR_REQUESTS = 200;
/** Counts are halved whenever they reach this many requests, so that the past fades. */
const REQUESTS_MAX = 200_000;

/**
 * A sum of log-likelihood ratios exceeds x bits for at most one ordinary request in 2^x (Ville's inequality), so one
 * bit is worth 3.01 points before anything is known. Where ordinary traffic is seen to reach a level more often than
 * that, the level is worth only what was measured; beyond the highest measured level each bit counts in full again
 * (an exponential tail: peaks over threshold with shape 0, Siffer et al., KDD 2017).
 */
export class Calibration {
  readonly counts = new Float64Array(BINS);
  requests = 0;
  private readonly points = new Float64Array(BINS + 1);
  private stale = true;

  /** Points for `bits`, 0..99. */
  score(bits: number): number {
    if (bits <= 0) return 0;
    if (this.stale) this.rebuild();
    const bin = Math.min(BINS - 1, Math.floor(bits));
    const low = this.points[bin] as number;
    const high = this.points[bin + 1] as number;
    return Math.min(99, low + (high - low) * Math.min(1, bits - bin));
  }

  /** Counts one request that was let through and judged ordinary. */
  learn(bits: number): void {
    const bin = Math.max(0, Math.min(BINS - 1, Math.floor(bits)));
    this.counts[bin] = (this.counts[bin] as number) + 1;
    this.requests++;
    // Rebuilding costs little, but not nothing: at most once per hundred requests.
    if (this.requests % 100 === 0) this.stale = true;
    if (this.requests >= REQUESTS_MAX) {
      for (let i = 0; i < BINS; i++) this.counts[i] = (this.counts[i] as number) / 2;
      this.requests /= 2;
    }
  }

  private rebuild(): void {
    this.stale = false;
    let above = 0;
    const reached = new Float64Array(BINS + 1);
    for (let i = BINS - 1; i >= 0; i--) {
      above += this.counts[i] as number;
      reached[i] = above;
    }
    let previous = 0;
    for (let bin = 1; bin <= BINS; bin++) {
      const theory = previous + POINTS_PER_BIT;
      const count = reached[bin] as number;
      if (count < MEASURED_MIN) {
        this.points[bin] = theory;
      } else {
        const share = (count + PRIOR_REQUESTS * 2 ** -bin) / (this.requests + PRIOR_REQUESTS);
        this.points[bin] = Math.max(previous, Math.min(theory, -10 * Math.log10(share)));
      }
      previous = this.points[bin] as number;
    }
  }
}
