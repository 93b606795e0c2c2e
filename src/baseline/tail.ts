/** How large is large: a pooled histogram of log-ratios to each principal's own scale, read as a tail probability. */

import type { Figures } from "../model/numbers.ts";
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

/**
 * The slowly moving centre of one principal's values, in log2, is five of its figures in a row: the mean; how many values
 * it was made of; the ceiling beyond which the mean may not rise (itself it rises by {@link RISE_PER_DAY} a day); and when
 * the first and the latest value came. All are zero before the first.
 */
export const CENTRE_FIGURES = 5;
const MEAN = 0;
const COUNT = 1;
const CEILING = 2;
const FIRST_MS = 3;
const LATEST_MS = 4;

/** @param at where the centre begins among the figures */
export function centreMean(figures: Figures, at: number): number {
  return figures[at + MEAN] as number;
}

export function centreCount(figures: Figures, at: number): number {
  return figures[at + COUNT] as number;
}

/** The mean of at most this many recent values: recent enough to follow growth, slow enough to resist a burst. */
const CENTRE_MEMORY = 200;

/**
 * Doublings that a principal's usual size or rate may rise a day once it is a day old: whoever drives it up slowly gets
 * no further, and shows as far above it from then on.
 */
const RISE_PER_DAY = 1;

export function learnCentre(figures: Figures, at: number, log2Value: number, now: EpochMs): void {
  const before = figures[at + COUNT] as number;
  if (before === 0) figures[at + FIRST_MS] = now;
  const latestMs = figures[at + LATEST_MS] as number;
  const elapsedMs = before === 0 ? 0 : Math.max(0, now - latestMs);
  figures[at + LATEST_MS] = Math.max(latestMs, now);
  const count = before + 1;
  figures[at + COUNT] = count;
  const mean =
    (figures[at + MEAN] as number) + (log2Value - (figures[at + MEAN] as number)) / Math.min(count, CENTRE_MEMORY);
  const highest = mean + RISE_PER_DAY;
  if (now - (figures[at + FIRST_MS] as number) < DAY_MS) {
    figures[at + MEAN] = mean;
    figures[at + CEILING] = highest;
    return;
  }
  const ceiling = Math.min((figures[at + CEILING] as number) + (RISE_PER_DAY * elapsedMs) / DAY_MS, highest);
  figures[at + CEILING] = ceiling;
  figures[at + MEAN] = Math.min(mean, ceiling);
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
