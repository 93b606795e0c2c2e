/**
 * How often something new is ordinary: hazards pooled over all principals by experience, with one multiplier
 * ("frailty") learned per principal, so that a claim of rarity is never sharper than what was observed.
 *
 * The chance that a principal's request brings a new value falls with the number of requests already seen. All
 * principals together teach the curve; each principal's own count of novelties against what the curve expected teaches
 * its multiplier by the Gamma-Poisson rule, the usual empirical-Bayes shrinkage of rates.
 */

import type { Figures } from "../model/numbers.ts";

/** Experience is bucketed by doubling: 0, 1, 2-3, 4-7, ... */
const BUCKETS = 24;

/** Shape of the Gamma prior on a principal's multiplier: 1 lets it range widely after few events. */
const FRAILTY_SHAPE = 1;

/** How many requests the safe prior of each bucket counts for. */
const PRIOR_REQUESTS = 20;

/** However many requests brought none, half a novelty is assumed among them (Jeffreys): no claim is sharper than what was seen. */
const NOVELTIES_MIN = 0.5;

/** Chance of a novelty at the very first request before anything was seen. */
const FIRST_CHANCE = 0.9;

/**
 * Before a bucket has data of its own it follows the one before, with novelty falling as the root of experience: the
 * vocabulary of a source grows as a power of its length (Heaps' law), with an exponent near one half.
 */
const PER_DOUBLING = Math.SQRT1_2;

/** Requests without a novelty after which the chances are brought up to date; a novelty does so at once. */
const REFRESH_REQUESTS = 16;

/**
 * One principal's own experience with one feature is three of its figures in a row: requests seen, novelties seen, and
 * novelties that the pooled curve expected. All are zero before anything was seen.
 */
export const NOVELTY_FIGURES = 3;
const REQUESTS = 0;
const NOVELTIES = 1;
const EXPECTED = 2;

/** The principal's own multiplier: how much more often than others it brings something new. */
export function frailtyOf(figures: Figures, at: number): number {
  return (FRAILTY_SHAPE + (figures[at + NOVELTIES] as number)) / (FRAILTY_SHAPE + (figures[at + EXPECTED] as number));
}

/** The pooled curve for one feature. */
export class NoveltyCurve {
  readonly requests = new Float64Array(BUCKETS);
  readonly novelties = new Float64Array(BUCKETS);

  private readonly hazards = new Float64Array(BUCKETS);

  private staleRequests = 0;

  constructor() {
    this.refresh();
  }

  /** Pooled chance, in (0, 1), that a request of a principal with `requests` behind it brings a novelty. */
  hazard(requests: number): number {
    return this.hazards[bucketOf(requests)] as number;
  }

  /**
   * Chance that a principal's next request brings a novelty; in (0, 0.98].
   * @param at where the principal's experience with the feature begins among its figures
   */
  chance(figures: Figures, at: number): number {
    return Math.min(0.98, this.hazard(figures[at + REQUESTS] as number) * frailtyOf(figures, at));
  }

  /** Counts one request of somebody with `requests` behind it, teaching the curve alone. */
  count(requests: number, novel: boolean): void {
    const bucket = bucketOf(requests);
    this.requests[bucket] = (this.requests[bucket] as number) + 1;
    if (novel) this.novelties[bucket] = (this.novelties[bucket] as number) + 1;
    this.staleRequests++;
    if (novel || this.staleRequests >= REFRESH_REQUESTS) this.refresh();
  }

  /** Takes over counts from a snapshot. */
  restore(requests: readonly number[], novelties: readonly number[]): void {
    this.requests.set(requests);
    this.novelties.set(novelties);
    this.refresh();
  }

  /** Counts one learned request, teaching the curve and the principal. */
  learn(figures: Figures, at: number, novel: boolean): void {
    const requests = figures[at + REQUESTS] as number;
    figures[at + EXPECTED] = (figures[at + EXPECTED] as number) + this.hazard(requests);
    this.count(requests, novel);
    if (novel) figures[at + NOVELTIES] = (figures[at + NOVELTIES] as number) + 1;
    figures[at + REQUESTS] = requests + 1;
  }

  /** Brings the chances up to date with the counts: what is restored from the counts then judges alike. */
  refresh(): void {
    this.staleRequests = 0;
    let prior = FIRST_CHANCE;
    let requests = PRIOR_REQUESTS;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const seen = this.requests[bucket] as number;
      requests += seen;
      const hazard = ((this.novelties[bucket] as number) + prior * PRIOR_REQUESTS) / (seen + PRIOR_REQUESTS);
      this.hazards[bucket] = Math.max(NOVELTIES_MIN / requests, hazard);
      prior = (this.hazards[bucket] as number) * PER_DOUBLING;
    }
  }
}

function bucketOf(requests: number): number {
  return Math.min(BUCKETS - 1, requests < 1 ? 0 : 32 - Math.clz32(requests));
}

/** A pooled share with a stated prior: for conditional steps such as "a new address is also a new network". */
export class Share {
  hits = 0;
  trials = 0;
  private readonly prior: number;
  private readonly strength: number;

  /** @param prior share assumed before data, in (0, 1); counts for `strength` trials */
  constructor(prior: number, strength: number) {
    this.prior = prior;
    this.strength = strength;
  }

  /** In (0, 1). */
  value(): number {
    return (this.hits + this.prior * this.strength) / (this.trials + this.strength);
  }

  learn(hit: boolean): void {
    this.trials++;
    if (hit) this.hits++;
  }
}

/** Runs longer than 2^8 are alike. */
const RUN_DOUBLINGS = 8;
/** Share of first doublings assumed before data, and the runs that this counts for. */
const RUN_PRIOR = 0.3;
const RUN_PRIOR_STRENGTH = 4;
/** Survival of the next doubling before data: runs have no memory until longer ones are seen. */
const RUN_THINNING = 2;

/**
 * How long events of one kind go on once they have begun, pooled: the share of runs that double in length, by doubling.
 * Runs are of very different lengths (one new call, a whole installation), so a long one is likelier to go on than a
 * short one. Each run teaches each doubling once: no single run sets the rule.
 */
export class Runs {
  readonly hits = new Float64Array(RUN_DOUBLINGS);
  readonly trials = new Float64Array(RUN_DOUBLINGS);
  private readonly chances = new Float64Array(RUN_DOUBLINGS);

  constructor() {
    this.refresh();
  }

  /** Chance, in (0, 1), that a run of `length` >= 1 goes on. */
  again(length: number): number {
    return this.chances[doublingOf(length)] as number;
  }

  /** Tells that a run has grown to `length`. */
  learnGrown(length: number): void {
    const doublings = 31 - Math.clz32(length);
    if (length === 2 ** doublings && doublings >= 1 && doublings <= RUN_DOUBLINGS) this.count(doublings - 1, true);
  }

  /** Tells that a run ended at `length`. */
  learnEnded(length: number): void {
    this.count(doublingOf(length), false);
  }

  /** Takes over counts from a snapshot. */
  restore(hits: readonly number[], trials: readonly number[]): void {
    this.hits.set(hits);
    this.trials.set(trials);
    this.refresh();
  }

  private count(doubling: number, grown: boolean): void {
    this.trials[doubling] = (this.trials[doubling] as number) + 1;
    if (grown) this.hits[doubling] = (this.hits[doubling] as number) + 1;
    this.refresh();
  }

  private refresh(): void {
    let prior = RUN_PRIOR;
    for (let i = 0; i < RUN_DOUBLINGS; i++) {
      const survival =
        ((this.hits[i] as number) + prior * RUN_PRIOR_STRENGTH) / ((this.trials[i] as number) + RUN_PRIOR_STRENGTH);
      // A doubling from 2^i takes 2^i further events.
      this.chances[i] = survival ** (1 / 2 ** i);
      prior = survival ** RUN_THINNING;
    }
  }
}

function doublingOf(length: number): number {
  return Math.min(RUN_DOUBLINGS - 1, 31 - Math.clz32(Math.max(1, length)));
}
