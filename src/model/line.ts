/**
 * The seam between the edges and the line. Edges hand in facts and outcomes and get verdicts; all that the line
 * remembers is behind this interface. Implemented by `check/line.ts`.
 */

import type { Outcome, RequestFacts } from "./facts.ts";
import type { Identity } from "./identity.ts";
import type { Lock, Policy, PostureFacts } from "./policy.ts";
import type { EpochMs } from "./units.ts";
import type { Verdict } from "./verdict.ts";
import type { WorkloadTable } from "./workloads.ts";

/** A source of 16 random bytes for ids; an argument, so that a recorded stream replays to identical decisions. */
export type RandomBytes = (size: number) => Uint8Array;

export interface Line {
  /** Judges one request: synchronous, no clock, no I/O. Memory is not taught until {@link Line.learn}. */
  check(facts: RequestFacts, policy: Policy): Verdict;
  /**
   * What {@link check} would say under another policy just now; changes nothing, whatever comes after. The decision id is
   * the nil UUID. Memory is what the decisions really taken have made it: what is open, answered or denied is theirs.
   */
  preview(facts: RequestFacts, policy: Policy): Verdict;
  /**
   * Judges an open stream anew: the request that opened it, as things stand at `facts.time`, by what its session has
   * gathered since. Nothing is touched, and the request counts for nothing a second time.
   */
  review(facts: RequestFacts, policy: Policy): Verdict;
  /**
   * Judges one request by what its session stands at, for less: locks, credentials, proofs, rules and the evidence
   * gathered so far count; behaviour is neither read nor learned. The decision is carried out like any other.
   * @returns `undefined` when the session was not judged in full within the last minute; nothing is changed then
   */
  standing(facts: RequestFacts, policy: Policy): Verdict | undefined;
  /** Teaches memory what a verdict allows it to learn; called once per verdict, after the answer was sent. */
  learn(facts: RequestFacts, verdict: Verdict): void;
  /** Takes what became of a request. Unknown ids are ignored. */
  outcome(outcome: Outcome): void;
  /** Tells that the caller answered (or failed) the challenge of `verdict`: live, a fresher token; in replay, the row. */
  answer(facts: RequestFacts, verdict: Verdict, verified: boolean): void;

  readonly locks: LockTable;
  readonly posture: PostureTable;
  readonly workloads: WorkloadTable;
  stats(): LineStats;
  /** How often scores really reached `levels` (whole points, 1..99), beside what they promise. */
  scoreBands(levels: readonly number[]): readonly ScoreBand[];
  principals(): readonly PrincipalSummary[];
  /** Removes what was learned of a principal; false when there was nothing. */
  forget(principal: string): boolean;
  /**
   * Everything learned, as versioned bytes; the caller stores them.
   * @param part `prior`: only what all principals taught together, to start another sidecar warm; names nobody
   */
  snapshot(now: EpochMs, part?: "all" | "prior"): Uint8Array;
  /**
   * The same (`all`) in small steps, in between which the line may be used: each principal is then as it is when its turn
   * comes. The values in order are the bytes, each a view that is good until the next step; `undefined` is a step that
   * has nothing to write yet.
   */
  snapshotSteps(now: EpochMs): Iterator<Uint8Array | undefined, void>;
  /** @throws {OperatingError} ERR_STATE_INVALID when the bytes are torn or foreign; memory is then unchanged. */
  restore(bytes: Uint8Array): void;
}

/** Locks in force beside the policy's own; bounded. */
export interface LockTable {
  list(now: EpochMs): readonly Lock[];
  /** @throws {OperatingError} ERR_LOCK_INVALID for an empty scope, a bad range, or a full table. */
  add(lock: Lock): void;
  remove(id: string): boolean;
  /**
   * The lock in force that matches a request, if any.
   * @param peerGroup of the principal, by the policy in force; `undefined` where it belongs to none
   */
  match(facts: RequestFacts, identity: Identity, peerGroup: string | undefined, now: EpochMs): Lock | undefined;
}

/** What happened to the table of locks. */
export type LockChange =
  | { readonly kind: "added"; readonly lock: Lock }
  | { readonly kind: "removed"; readonly id: string };

/** Posture facts told at run time (local API); they win over the policy's when newer. Bounded. */
export interface PostureTable {
  put(subject: string, facts: PostureFacts): void;
  get(subject: string): PostureFacts | undefined;
}

/** One level of the score: the share of requests that it promises at most, and the share that reached it. */
export interface ScoreBand {
  readonly score: number;
  /** 10^(-score/10). */
  readonly promised: number;
  readonly observed: number;
  /** Requests that reached the level. */
  readonly requests: number;
}

export interface LineStats {
  readonly principals: number;
  readonly sessions: number;
  readonly locks: number;
  readonly evictedPrincipals: number;
  readonly evictedSessions: number;
  /** Requests of proven callers that were scored by statistics. */
  readonly scored: number;
}

export interface PrincipalSummary {
  readonly principal: string;
  readonly requests: number;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
  readonly features: readonly { readonly feature: string; readonly values: number; readonly top: readonly string[] }[];
}
