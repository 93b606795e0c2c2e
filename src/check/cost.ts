/** What a threshold costs: which share of requests, and whose, scored at or above it. */

/** Callers counted one by one; further ones count together, without a name. */
const PRINCIPALS_MAX = 100_000;
const OTHERS = "(others)";

export interface ScoredRequest {
  readonly principal: string;
  readonly rule: string;
  /** Points, 0 to 100. */
  readonly score: number;
}

/** What one threshold costs. */
export interface Cost {
  readonly threshold: number;
  /** Requests that scored at or above it, certain facts left out. */
  readonly requests: number;
  /** Of all requests. */
  readonly share: number;
  /** Share of legitimate requests that the score promises to reach it at most: 10^(-threshold/10). */
  readonly promised: number;
  /** How many callers have such requests. */
  readonly principals: number;
  /** Those with the most, and which part of their own requests it is. */
  readonly top: readonly PrincipalCost[];
}

export interface PrincipalCost {
  readonly principal: string;
  readonly requests: number;
  readonly share: number;
  /** Rules under which these requests came. */
  readonly rules: readonly string[];
}

export interface CostReport {
  readonly requests: number;
  readonly principals: number;
  /** Score 100: locks, blocklists, forged tokens and the like, refused whatever the thresholds. */
  readonly certain: number;
  readonly costs: readonly Cost[];
}

interface Counted {
  requests: number;
  readonly over: number[];
  readonly rules: Set<string>[];
}

/** Counts requests against several thresholds at once. */
export class CostOfThresholds {
  private readonly thresholds: readonly number[];
  private readonly principals = new Map<string, Counted>();
  private requests = 0;
  private certain = 0;

  /** @param thresholds points, each in (0, 100) */
  constructor(thresholds: readonly number[]) {
    this.thresholds = thresholds;
  }

  count({ principal, rule, score }: ScoredRequest): void {
    this.requests++;
    const counted = this.of(principal);
    counted.requests++;
    if (score >= 100) {
      this.certain++;
      return;
    }
    for (const [i, threshold] of this.thresholds.entries()) {
      if (score < threshold) continue;
      counted.over[i] = (counted.over[i] as number) + 1;
      counted.rules[i]?.add(rule);
    }
  }

  report(principalsMax: number): CostReport {
    return {
      requests: this.requests,
      principals: this.principals.size,
      certain: this.certain,
      costs: this.thresholds.map((threshold, i) => {
        const affected = [...this.principals].filter(([, { over }]) => (over[i] as number) > 0);
        const requests = affected.reduce((sum, [, { over }]) => sum + (over[i] as number), 0);
        return {
          threshold,
          requests,
          share: this.requests === 0 ? 0 : requests / this.requests,
          promised: 10 ** (-threshold / 10),
          principals: affected.length,
          top: affected
            .map(([principal, { over, requests: all, rules }]) => ({
              principal,
              requests: over[i] as number,
              share: (over[i] as number) / all,
              rules: [...(rules[i] ?? [])].sort(),
            }))
            .sort((a, b) => b.requests - a.requests || (a.principal < b.principal ? -1 : 1))
            .slice(0, principalsMax),
        };
      }),
    };
  }

  private of(principal: string): Counted {
    const known = this.principals.get(principal);
    if (known !== undefined) return known;
    const name = this.principals.size < PRINCIPALS_MAX ? principal : OTHERS;
    const counted = this.principals.get(name) ?? {
      requests: 0,
      over: this.thresholds.map(() => 0),
      rules: this.thresholds.map(() => new Set<string>()),
    };
    this.principals.set(name, counted);
    return counted;
  }
}
