/**
 * How often something new is ordinary: hazards pooled over all principals by experience, with one multiplier
 * ("frailty") learned per principal, so that a claim of rarity is never sharper than what was observed.
 *
 * The chance that a principal's request brings a new value falls with the number of requests already seen. All
 * principals together teach the curve; each principal's own count of novelties against what the curve expected teaches
 * its multiplier by the Gamma-Poisson rule, the usual empirical-Bayes shrinkage of rates.
 */

/** Experience is bucketed by doubling: 0, 1, 2-3, 4-7, ... */
const BUCKETS = 24;

/** Shape of the Gamma prior on a principal's multiplier: 1 lets it range widely after few events. */
const FRAILTY_SHAPE = 1;

/** How many requests the safe prior of each bucket counts for. */
const PRIOR_REQUESTS = 20;

/** One principal's own experience with one feature. */
export interface NoveltyOwn {
  /** Requests seen. */
  requests: number;
  /** Novelties seen. */
  novelties: number;
  /** Novelties that the pooled curve expected. */
  expected: number;
}

export function newNoveltyOwn(): NoveltyOwn {
  return { requests: 0, novelties: 0, expected: 0 };
}

/** The pooled curve for one feature. */
export class NoveltyCurve {
  readonly requests = new Float64Array(BUCKETS);
  readonly novelties = new Float64Array(BUCKETS);

  /** Pooled chance, in (0, 1), that a request of a principal with `requests` behind it brings a novelty. */
  hazard(requests: number): number {
    const bucket = bucketOf(requests);
    // Before data: the rule of succession, one novelty in n + 2 requests, n at the bucket's middle.
    const prior = 1 / (1.5 * 2 ** bucket + 1);
    return (
      ((this.novelties[bucket] as number) + prior * PRIOR_REQUESTS) /
      ((this.requests[bucket] as number) + PRIOR_REQUESTS)
    );
  }

  /** Chance that this principal's next request brings a novelty; in (0, 0.98]. */
  chance(own: NoveltyOwn): number {
    const frailty = (FRAILTY_SHAPE + own.novelties) / (FRAILTY_SHAPE + own.expected);
    return Math.min(0.98, this.hazard(own.requests) * frailty);
  }

  /** Counts one request of somebody with `requests` behind it, teaching the curve alone. */
  count(requests: number, novel: boolean): void {
    const bucket = bucketOf(requests);
    this.requests[bucket] = (this.requests[bucket] as number) + 1;
    if (novel) this.novelties[bucket] = (this.novelties[bucket] as number) + 1;
  }

  /** Counts one learned request, teaching the curve and the principal. */
  learn(own: NoveltyOwn, novel: boolean): void {
    own.expected += this.hazard(own.requests);
    this.count(own.requests, novel);
    if (novel) own.novelties++;
    own.requests++;
  }
}

function bucketOf(requests: number): number {
  return Math.min(BUCKETS - 1, requests < 1 ? 0 : Math.floor(Math.log2(requests)) + 1);
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
