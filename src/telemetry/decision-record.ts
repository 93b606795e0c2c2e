/** One decision as it is remembered and shown: flat, without secrets. */

import type { BundleFacts, PolicyFreshness } from "../model/bundle.ts";
import type { Protocol, RequestFacts } from "../model/facts.ts";
import type { Thresholds } from "../model/policy.ts";
import type { DecisionKind, Mode, Reason, ShadowVerdict, Verdict } from "../model/verdict.ts";

export interface DecisionRecord {
  readonly decisionId: string;
  readonly timeMs: number;
  readonly decision: DecisionKind;
  readonly enforced: DecisionKind;
  readonly because: string | undefined;
  readonly score: number;
  readonly reasons: readonly Reason[];
  readonly mode: Mode;
  /** `standing`: not judged in full, but by what its session stood at. */
  readonly basis?: "standing" | undefined;
  readonly rule: string;
  readonly thresholds: Thresholds;
  /** Which of them the rule sets; the others are the policy's. */
  readonly ruleThresholds: readonly (keyof Thresholds)[];
  readonly policyName: string;
  /** Rules whose condition could not be evaluated. */
  readonly conditionErrors?: readonly string[] | undefined;
  readonly policyRevision: string;
  readonly principal: string;
  readonly peerGroup?: string | undefined;
  readonly credential: string;
  readonly protocol: Protocol;
  readonly method: string;
  readonly destination: string;
  readonly route: string;
  readonly sourceAddress: string | undefined;
  readonly userAgent: string | undefined;
  readonly ja4: string | undefined;
  readonly requestId: string | undefined;
  readonly answered: boolean;
  readonly latencyUs: number;
  /** What the candidate policy would have said, where that is another decision. */
  readonly shadow: ShadowVerdict | undefined;
  /** How the policy stood when it decided; `undefined` where nobody keeps it up to date. */
  readonly policyFreshness?: PolicyFreshness | undefined;
  /** The bundle that the policy is; `undefined`: unsigned. */
  readonly bundle?: Pick<BundleFacts, "name" | "revision"> | undefined;
}

const NAMES = ["challenge", "deny", "terminate"] as const;
const NONE: DecisionRecord["ruleThresholds"] = [];

/**
 * @param policyFreshness how the policy stood when it decided
 * @param bundle the bundle that the policy is
 */
export function recordOf(
  facts: RequestFacts,
  verdict: Verdict,
  latencyUs: number,
  policyFreshness?: PolicyFreshness,
  bundle?: DecisionRecord["bundle"],
): DecisionRecord {
  const { decision, ruleThresholds } = verdict;
  return {
    decisionId: verdict.decisionId,
    timeMs: verdict.time,
    decision: decision.kind,
    enforced: verdict.enforced,
    because: decision.kind === "deny" || decision.kind === "terminate" ? decision.because : undefined,
    score: verdict.score,
    reasons: verdict.reasons,
    mode: verdict.mode,
    basis: verdict.basis,
    rule: verdict.rule,
    thresholds: verdict.thresholds,
    ruleThresholds: ruleThresholds === undefined ? NONE : NAMES.filter((name) => ruleThresholds[name] !== undefined),
    policyName: verdict.policyName,
    conditionErrors: verdict.conditionErrors,
    policyRevision: verdict.policyRevision,
    principal: verdict.identity.principal.name,
    peerGroup: verdict.peerGroup,
    credential: verdict.identity.credential,
    protocol: facts.protocol,
    method: facts.method,
    destination: facts.destination,
    route: verdict.route,
    sourceAddress: facts.sourceAddress,
    userAgent: facts.userAgent,
    ja4: facts.tls.ja4,
    requestId: facts.requestId,
    answered: verdict.answered,
    latencyUs,
    shadow: verdict.shadow,
    policyFreshness,
    bundle,
  };
}
