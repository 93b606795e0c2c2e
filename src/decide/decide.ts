/** Score, history and policy to a decision. */

import type { Policy, Rule, Thresholds } from "../model/policy.ts";
import type { Challenge, Decision, Mode } from "../model/verdict.ts";

/** After an answer, only clearly more evidence than was answered for is worth another challenge. */
const FURTHER_POINTS = 10;

export interface Standing {
  /** Points. */
  readonly score: number;
  /** Set when a signal or a lock leaves no doubt. */
  readonly certain: { readonly kind: "deny" | "terminate"; readonly because: string } | undefined;
  /** Challenges of the session that were failed or ignored. */
  readonly tries: number;
  /** Requests of the session that were denied by their score. */
  readonly denials: number;
  /** The score that an answered challenge of this session, still valid, was put for; `undefined` without one. */
  readonly answeredScore: number | undefined;
  /** Whether memory here is old enough to deny somebody who has answered. */
  readonly seasoned: boolean;
  /** Only the rate accuses. */
  readonly rateOnly: boolean;
  /** A bound token came without its proof, and the policy challenges that whatever the score. */
  readonly lacksProof: boolean;
}

export function thresholdsFor(policy: Policy, rule: Rule | undefined): Thresholds {
  return rule?.thresholds === undefined ? policy.thresholds : { ...policy.thresholds, ...rule.thresholds };
}

export function modeFor(policy: Policy, rule: Rule | undefined): Mode {
  return policy.modeForAll ?? rule?.mode ?? policy.mode;
}

/**
 * Statistics challenge first. They deny only once a challenge was failed or ignored, or when the evidence stays after
 * it was answered: a thief inside the workload answers as well. They terminate only what goes on after a denial.
 * @param challenge made only when needed
 */
export function decide(
  standing: Standing,
  thresholds: Thresholds,
  rule: Rule | undefined,
  triesMax: number,
  challenge: () => Challenge,
): Decision {
  const { certain, score, tries, denials, answeredScore, seasoned } = standing;
  if (certain !== undefined) {
    return certain.kind === "terminate"
      ? { kind: "terminate", because: certain.because }
      : { kind: "deny", because: certain.because, rate: false };
  }
  if (rule?.decision === "allow") return { kind: "allow" };
  if (rule?.decision === "deny") return { kind: "deny", because: `rule ${rule.name}`, rate: false };
  // An engine that has not seen an ordinary hour yet cannot tell habits from news: whoever answers it is believed.
  const tested = tries > 0 || (answeredScore !== undefined && seasoned);
  // A caller who goes on after a refusal is ended for good: a retry of the refused request alone is not yet that.
  if (tries > 0 && denials > 0 && score >= thresholds.terminate) return { kind: "terminate", because: "score" };
  if (tested && score >= thresholds.deny) return { kind: "deny", because: "score", rate: standing.rateOnly };
  if (tries >= triesMax) return { kind: "deny", because: "challenges unanswered", rate: false };
  if (standing.lacksProof || (rule?.decision === "challenge" && answeredScore === undefined))
    return { kind: "challenge", challenge: challenge() };
  if (score >= Math.max(thresholds.challenge, answeredScore === undefined ? 0 : answeredScore + FURTHER_POINTS)) {
    return { kind: "challenge", challenge: challenge() };
  }
  return { kind: "allow" };
}
