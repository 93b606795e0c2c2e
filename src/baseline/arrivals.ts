/**
 * How often each principal's requests come by the address of another workload: rare where pods call by themselves, the rule
 * behind gateways, proxies and address translation. Pooled over all principals, with one multiplier learned per principal.
 */

import { Share } from "./novelty.ts";

/** One session in twenty, before anything was seen; counts for as many. */
const OTHER_PRIOR = 0.05;
const OTHER_PRIOR_STRENGTH = 20;

/** Shape of the Gamma prior on a principal's multiplier: 1 lets it range widely after few events. */
const FRAILTY_SHAPE = 1;

interface Own {
  /** Arrivals by another workload's address, and how many the pooled share expected. */
  others: number;
  expected: number;
}

export class Arrivals {
  private readonly pooled = new Share(OTHER_PRIOR, OTHER_PRIOR_STRENGTH);
  private readonly principals = new Map<string, Own>();
  private readonly principalsMax: number;

  /** @param principalsMax the one that taught longest ago is forgotten */
  constructor(principalsMax: number) {
    this.principalsMax = principalsMax;
  }

  /** Chance, in (0, 0.98], that an honest arrival of the principal is by another workload's address. */
  chance(principal: string): number {
    const own = this.principals.get(principal);
    const frailty = own === undefined ? 1 : (FRAILTY_SHAPE + own.others) / (FRAILTY_SHAPE + own.expected);
    return Math.min(0.98, this.pooled.value() * frailty);
  }

  /** Teaches one arrival that was admitted. */
  learn(principal: string, other: boolean): void {
    const own = this.principals.get(principal) ?? { others: 0, expected: 0 };
    own.expected += this.pooled.value();
    if (other) own.others++;
    this.pooled.learn(other);
    this.principals.delete(principal);
    this.principals.set(principal, own);
    if (this.principals.size > this.principalsMax)
      this.principals.delete(this.principals.keys().next().value as string);
  }

  forget(principal: string): void {
    this.principals.delete(principal);
  }
}
