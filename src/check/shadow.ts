/** A candidate policy beside the one in force: asked about the same requests, counted where it differs, never obeyed. */

import type { RequestFacts } from "../model/facts.ts";
import type { Line } from "../model/line.ts";
import type { Policy } from "../model/policy.ts";
import type { DecisionKind, ShadowVerdict, Verdict } from "../model/verdict.ts";

/** Differences kept in full of each pair of decisions: an even sample of all that there were. */
const SAMPLES_MAX = 20;

/** A request that the candidate would decide otherwise; `verdict.shadow` says how. */
export interface ShadowSample {
  readonly facts: RequestFacts;
  readonly verdict: Verdict & { readonly shadow: ShadowVerdict };
}

/** Requests of one kind of difference. */
export interface ShadowDifference {
  readonly active: DecisionKind;
  readonly candidate: DecisionKind;
  readonly requests: number;
  /** Oldest first; at most {@link SAMPLES_MAX}. */
  readonly samples: readonly ShadowSample[];
}

/** What has come of a candidate since it was loaded. */
export interface ShadowReport {
  /** `undefined` when no candidate is loaded; the counts are then zero. */
  readonly candidate: Policy | undefined;
  readonly checks: number;
  /** Requests that the candidate failed to judge. */
  readonly errors: number;
  readonly differences: readonly ShadowDifference[];
}

export interface ShadowOptions {
  /** The candidate; asked once per request. The same object until it is replaced: another one starts the counts anew. */
  readonly candidate: () => Policy | undefined;
  /** Share of requests, 0..1, that the candidate is asked about. */
  readonly share: number;
  /** Numbers evenly spread over [0, 1): which requests are asked about, and which differences are kept. */
  readonly random: () => number;
  readonly onCheck: () => void;
  readonly onDifference: (active: DecisionKind, candidate: DecisionKind) => void;
  /** Told when the candidate throws; the decision in force is untouched. */
  readonly onError: (error: unknown) => void;
}

interface Kept {
  requests: number;
  readonly samples: ShadowSample[];
}

/** Counts and samples; bounded by the number of pairs of decisions. */
export class Shadow {
  private readonly options: ShadowOptions;
  private current: Policy | undefined;
  private checks = 0;
  private errors = 0;
  private readonly kept = new Map<string, Kept>();

  constructor(options: ShadowOptions) {
    this.options = options;
  }

  /** A line that does what `line` does, and has the candidate judge each request first: memory is then the same. */
  around(line: Line): Line {
    const check = (facts: RequestFacts, policy: Policy): Verdict => {
      const other = this.ask(line, facts);
      const verdict = line.check(facts, policy);
      if (other === undefined || other.decision.kind === verdict.decision.kind) return verdict;
      return this.keep(facts, verdict, other);
    };
    return {
      check,
      preview: (facts, policy) => line.preview(facts, policy),
      review: (facts, policy) => line.review(facts, policy),
      standing: (facts, policy) => line.standing(facts, policy),
      learn: (facts, verdict) => line.learn(facts, verdict),
      outcome: (outcome) => line.outcome(outcome),
      answer: (facts, verdict, verified) => line.answer(facts, verdict, verified),
      locks: line.locks,
      posture: line.posture,
      workloads: line.workloads,
      stats: () => line.stats(),
      scoreBands: (levels) => line.scoreBands(levels),
      principals: () => line.principals(),
      forget: (principal) => line.forget(principal),
      snapshot: (now, part) => line.snapshot(now, part),
      snapshotSteps: (now) => line.snapshotSteps(now),
      restore: (bytes) => line.restore(bytes),
    };
  }

  report(): ShadowReport {
    this.follow(this.options.candidate());
    return {
      candidate: this.current,
      checks: this.checks,
      errors: this.errors,
      differences: [...this.kept]
        .map(([pair, { requests, samples }]) => {
          const [active, candidate] = pair.split(" ") as [DecisionKind, DecisionKind];
          const inOrder = samples.toSorted((a, b) => a.verdict.time - b.verdict.time);
          return { active, candidate, requests, samples: inOrder };
        })
        .sort((a, b) => b.requests - a.requests),
    };
  }

  private ask(line: Line, facts: RequestFacts): Verdict | undefined {
    const { options } = this;
    try {
      const candidate = options.candidate();
      this.follow(candidate);
      if (candidate === undefined || (options.share < 1 && options.random() >= options.share)) return undefined;
      const verdict = line.preview(facts, candidate);
      this.checks++;
      options.onCheck();
      return verdict;
    } catch (error) {
      // Fails open for the candidate alone: it has no say yet, so the request is decided as if there were none.
      this.errors++;
      options.onError(error);
      return undefined;
    }
  }

  private follow(candidate: Policy | undefined): void {
    if (candidate === this.current) return;
    this.current = candidate;
    this.checks = 0;
    this.errors = 0;
    this.kept.clear();
  }

  private keep(facts: RequestFacts, verdict: Verdict, other: Verdict): Verdict {
    const shadow: ShadowVerdict = {
      policyName: other.policyName,
      policyRevision: other.policyRevision,
      decision: other.decision.kind,
      score: other.score,
      rule: other.rule,
      reasons: other.reasons,
    };
    const sample: ShadowSample = { facts, verdict: { ...verdict, shadow } };
    const pair = `${verdict.decision.kind} ${shadow.decision}`;
    const kept = this.kept.get(pair) ?? { requests: 0, samples: [] };
    this.kept.set(pair, kept);
    kept.requests++;
    // A reservoir (Vitter, algorithm R): each difference so far is as likely to be kept as any other.
    if (kept.samples.length < SAMPLES_MAX) kept.samples.push(sample);
    else {
      const at = Math.floor(this.options.random() * kept.requests);
      if (at < SAMPLES_MAX) kept.samples[at] = sample;
    }
    this.options.onDifference(verdict.decision.kind, shadow.decision);
    return sample.verdict;
  }
}
