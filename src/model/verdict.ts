/** What the line concludes: readings, their evidence, the score, and the decision with its reasons. */

import type { Identity } from "./identity.ts";
import type { ChallengeKind, ResponsePolicy, Thresholds } from "./policy.ts";
import type { Bits, EpochMs, Score } from "./units.ts";

/** `absent` means we cannot know; it is not the same as an ordinary reading. */
export type Reading =
  | { readonly kind: "absent"; readonly why: string }
  | {
      readonly kind: "present";
      /** Evidence before the policy's cap. */
      readonly bits: Bits;
      /** Short texts for people; never a secret. */
      readonly seen: string;
      readonly expected: string;
      /** Set when the reading alone decides (blocklist, forged token, forbidden posture, lock). */
      readonly certain?: "deny" | "terminate";
    };

export type DecisionKind = "allow" | "challenge" | "deny" | "terminate";

export type Mode = "enforce" | "observe";

/** One line of the explanation. `points` over all reasons of a verdict sum to its score. */
export interface Reason {
  /** Stable name, `family.what`, for example `origin.new_address`. */
  readonly signal: string;
  readonly bits: number;
  readonly points: number;
  readonly seen: string;
  readonly expected: string;
}

/** The challenge to put to the caller, here or (`forward`) by the service behind Envoy. */
export interface Challenge {
  readonly kind: ChallengeKind;
  /** A token issued, or a proof made, at or after this moment answers. */
  readonly issuedAfter: EpochMs;
  readonly acrValues: readonly string[];
  readonly maxAgeSeconds: number | undefined;
}

export type Decision =
  | { readonly kind: "allow" }
  | { readonly kind: "challenge"; readonly challenge: Challenge }
  /** `rate` asks for 429 instead of 403: only the rate is wrong. */
  | { readonly kind: "deny"; readonly because: string; readonly rate: boolean }
  | { readonly kind: "terminate"; readonly because: string };

/** Decision, score, reasons and ids: what Envoy is told and what the logs keep. */
export interface Verdict {
  readonly decisionId: string;
  readonly time: EpochMs;
  readonly identity: Identity;
  readonly score: Score;
  readonly reasons: readonly Reason[];
  /** What the policy decides. */
  readonly decision: Decision;
  /** What is carried out: `decision` in enforce mode, allow in observe mode and where a challenge is forwarded. */
  readonly enforced: DecisionKind;
  readonly mode: Mode;
  /** Name of the policy rule that counted; `default` without one. */
  readonly rule: string;
  /** Thresholds in force for this request. */
  readonly thresholds: Thresholds;
  /** Those of them that the rule sets; the others are the policy's. */
  readonly ruleThresholds: Partial<Thresholds> | undefined;
  readonly policyName: string;
  readonly policyRevision: string;
  /** Learned or declared template of the path. */
  readonly route: string;
  /** True when this request carried a proof that answered an open challenge. */
  readonly answered: boolean;
  /** Whether long-lived streams under this verdict should be held so that they can be ended. */
  readonly watch: boolean;
  /** What the candidate policy would have said, where that is another decision. */
  readonly shadow?: ShadowVerdict;
  /** The peer group of the principal; `undefined` where it belongs to none. */
  readonly peerGroup?: string | undefined;
  /** Names of rules whose condition could not be evaluated. */
  readonly conditionErrors?: readonly string[] | undefined;
  /** What it was judged by, where not in full: what its session stood at. */
  readonly basis?: "standing" | undefined;
  /** What callers and the service are told, where the rule changes it; otherwise the policy's. */
  readonly response?: ResponsePolicy | undefined;
}

/** What a candidate policy says of a request that it does not decide. */
export interface ShadowVerdict {
  readonly policyName: string;
  readonly policyRevision: string;
  readonly decision: DecisionKind;
  readonly score: number;
  readonly rule: string;
  readonly reasons: readonly Reason[];
}
