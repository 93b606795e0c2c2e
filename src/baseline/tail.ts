/** How large is large: a pooled histogram of log-ratios to each principal's own scale, read as a tail probability. */

import { DAY_MS, type EpochMs } from "../model/units.ts";

const BINS = 64;
const BIN_WIDTH = 0.5;
/** How many observations the safe prior counts for: a tail that halves with every doubling. */
const PRIOR_COUNT = 20;

/** Distribution of `log2(value / own typical value)`, shared by all principals of a destination. */
export class Tail {
  readonly counts = new Float64Array(BINS);
  total = 0;
  /** How many lie in a bin or above it. */
  private readonly above = new Float64Array(BINS);

  learn(logRatio: number): void {
    const bin = binOf(logRatio);
    this.counts[bin] = (this.counts[bin] as number) + 1;
    for (let i = 0; i <= bin; i++) this.above[i] = (this.above[i] as number) + 1;
    this.total++;
  }

  /** Takes over counts from a snapshot. */
  restore(counts: readonly number[], total: number): void {
    this.counts.set(counts);
    let above = 0;
    for (let i = BINS - 1; i >= 0; i--) this.above[i] = above += this.counts[i] as number;
    this.total = total;
  }

  /** Chance, in (0, 1], that an ordinary value lies at or above `logRatio` doublings over its owner's scale. */
  atLeast(logRatio: number): number {
    const above = this.above[binOf(logRatio)] as number;
    const prior = 2 ** -Math.max(0, logRatio);
    return Math.min(1, (above + prior * PRIOR_COUNT) / (this.total + PRIOR_COUNT));
  }
}

function binOf(logRatio: number): number {
  return Math.max(0, Math.min(BINS - 1, Math.floor(logRatio / BIN_WIDTH) + BINS / 4));
}

/** Slowly moving centre of one principal's values, in log2. */
export interface Centre {
  mean: number;
  count: number;
  /** The mean may not rise beyond this; itself it rises by {@link RISE_PER_DAY} a day. */
  ceiling: number;
  firstMs: number;
  latestMs: number;
}

export function newCentre(): Centre {
  return { mean: 0, count: 0, ceiling: 0, firstMs: 0, latestMs: 0 };
}

/** The mean of at most this many recent values: recent enough to follow growth, slow enough to resist a burst. */
const CENTRE_MEMORY = 200;

/**
 * Doublings that a principal's usual size or rate may rise a day once it is a day old: whoever drives it up slowly gets
 * no further, and shows as far above it from then on.
 */
const RISE_PER_DAY = 1;

export function learnCentre(centre: Centre, log2Value: number, now: EpochMs): void {
  if (centre.count === 0) centre.firstMs = now;
  const elapsedMs = centre.count === 0 ? 0 : Math.max(0, now - centre.latestMs);
  centre.latestMs = Math.max(centre.latestMs, now);
  centre.count++;
  centre.mean += (log2Value - centre.mean) / Math.min(centre.count, CENTRE_MEMORY);
  if (now - centre.firstMs < DAY_MS) {
    centre.ceiling = centre.mean + RISE_PER_DAY;
    return;
  }
  centre.ceiling = Math.min(centre.ceiling + (RISE_PER_DAY * elapsedMs) / DAY_MS, centre.mean + RISE_PER_DAY);
  centre.mean = Math.min(centre.mean, centre.ceiling);
}

/**
 * Turns a tail probability into evidence that may be added up: the logarithm of an e-value, which a legitimate caller
 * exceeds by x bits at most once in 2^x times (Vovk and Wang, "E-values: calibration, combination and applications",
 * Annals of Statistics 2021: the integral of k p^(k-1) over k in 0..1).
 * @param p tail probability, in (0, 1]
 * @returns bits; negative (at least -1) for ordinary values
 */
export function tailBits(p: number): number {
  if (p >= 1) return -1;
  const log = Math.log(p);
  // Near p = 1 the formula is 0/0; its limit there is 1/2.
  if (log > -1e-3) return -1;
  return Math.log2((1 - p + p * log) / (p * log * log));
}
