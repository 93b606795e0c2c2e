/** Two policies over the same requests: who would be decided otherwise, and why. */

import type { RequestFacts } from "../model/facts.ts";
import type { Thresholds } from "../model/policy.ts";
import type { DecisionKind, Reason, Verdict } from "../model/verdict.ts";

/** Principals counted of each pair of decisions; further ones count together. */
const PRINCIPALS_MAX = 10_000;
/** Requests kept in full of each pair. */
const SAMPLES_MAX = 10;

/** One signal that speaks differently under the two policies. */
export interface ReasonChange {
  readonly signal: string;
  /** Points under the first policy and under the other. */
  readonly before: number;
  readonly after: number;
  readonly seen: string;
  readonly expected: string;
}

/** One side of a difference. */
export interface Side {
  readonly decision: DecisionKind;
  readonly score: number;
  readonly rule: string;
  readonly thresholds: Thresholds;
}

/** One request that the policies decide differently. */
export interface Difference {
  /** Of the request among all, from 0. */
  readonly index: number;
  readonly time: string;
  readonly principal: string;
  readonly destination: string;
  readonly route: string;
  readonly source_address: string | undefined;
  readonly before: Side;
  readonly after: Side;
  /** Why, in words: what differs besides the reasons. */
  readonly because: readonly string[];
  readonly reasons: readonly ReasonChange[];
}

/** All differences of one kind. */
export interface PairReport {
  readonly before: DecisionKind;
  readonly after: DecisionKind;
  readonly requests: number;
  readonly principals: number;
  /** The most affected, with how many of their requests are. */
  readonly top: readonly { readonly principal: string; readonly requests: number }[];
  readonly samples: readonly Difference[];
}

/** `undefined` when both decide the same. */
export function differenceOf(index: number, facts: RequestFacts, one: Verdict, two: Verdict): Difference | undefined {
  if (one.decision.kind === two.decision.kind) return undefined;
  const [before, after] = [sideOf(one), sideOf(two)];
  return {
    index,
    time: new Date(facts.time).toISOString(),
    principal: one.identity.principal.name,
    destination: facts.destination,
    route: one.route,
    source_address: facts.sourceAddress,
    before,
    after,
    because: becauseOf(before, after, one, two),
    reasons: changesOf(one.reasons, two.reasons),
  };
}

function sideOf(verdict: Verdict): Side {
  const { score, rule, thresholds } = verdict;
  return { decision: verdict.decision.kind, score, rule, thresholds };
}

function becauseOf(before: Side, after: Side, one: Verdict, two: Verdict): readonly string[] {
  const because: string[] = [];
  if (before.score !== after.score) because.push(`score ${before.score} -> ${after.score}`);
  for (const name of ["challenge", "deny", "terminate"] as const) {
    const [was, is] = [before.thresholds[name], after.thresholds[name]];
    if (was !== is) because.push(`${name} threshold ${was} -> ${is}`);
  }
  if (before.rule !== after.rule) because.push(`rule ${before.rule} -> ${after.rule}`);
  const [was, is] = [groundOf(one), groundOf(two)];
  if (was !== is) because.push(`ground ${was} -> ${is}`);
  // Each policy has lived through the whole file on its own: what it challenged or denied before is its own past.
  return because.length === 0 ? ["earlier decisions on this caller differ"] : because;
}

function groundOf({ decision }: Verdict): string {
  return decision.kind === "deny" || decision.kind === "terminate" ? decision.because : "score";
}

function changesOf(before: readonly Reason[], after: readonly Reason[]): readonly ReasonChange[] {
  const changes: ReasonChange[] = [];
  const names = new Set([...before, ...after].map(({ signal }) => signal));
  for (const signal of names) {
    const was = before.find((reason) => reason.signal === signal);
    const is = after.find((reason) => reason.signal === signal);
    if (was?.points === is?.points) continue;
    const { seen = "", expected = "" } = is ?? was ?? {};
    changes.push({ signal, before: was?.points ?? 0, after: is?.points ?? 0, seen, expected });
  }
  return changes.sort((a, b) => Math.abs(b.after - b.before) - Math.abs(a.after - a.before));
}

interface Pair {
  requests: number;
  readonly principals: Map<string, number>;
  samples: Difference[];
  /** Every so many differences one is kept. */
  every: number;
}

/** Gathers differences; bounded however long the file is. */
export class Comparison {
  private readonly pairs = new Map<string, Pair>();

  note(difference: Difference): void {
    const name = `${difference.before.decision} ${difference.after.decision}`;
    const pair: Pair = this.pairs.get(name) ?? { requests: 0, principals: new Map(), samples: [], every: 1 };
    this.pairs.set(name, pair);
    const known = pair.principals.get(difference.principal);
    if (known !== undefined || pair.principals.size < PRINCIPALS_MAX) {
      pair.principals.set(difference.principal, (known ?? 0) + 1);
    }
    // Evenly spread and the same every time: when the room is full, every other one goes and the stride doubles.
    if (pair.requests % pair.every === 0) {
      if (pair.samples.length === SAMPLES_MAX) {
        pair.samples = pair.samples.filter((_, i) => i % 2 === 0);
        pair.every *= 2;
      }
      if (pair.requests % pair.every === 0) pair.samples.push(difference);
    }
    pair.requests++;
  }

  /** In the order in which each kind of difference first came up. */
  report(principalsMax: number): readonly PairReport[] {
    return [...this.pairs].map(([name, { requests, principals, samples }]) => {
      const [before, after] = name.split(" ") as [DecisionKind, DecisionKind];
      const top = [...principals]
        .sort((a, b) => b[1] - a[1])
        .slice(0, principalsMax)
        .map(([principal, count]) => ({ principal, requests: count }));
      return { before, after, requests, principals: principals.size, top, samples };
    });
  }
}
