/** What a signal is: one kind of evidence, read from facts and memory, with a stated way of gathering over a session. */

import type { Arrivals } from "../baseline/arrivals.ts";
import type { Baseline, Population } from "../baseline/baseline.ts";
import type { Outcome, RequestFacts } from "../model/facts.ts";
import type { Identity } from "../model/identity.ts";
import type { Policy, PostureFacts } from "../model/policy.ts";
import { type Bits, toBits } from "../model/units.ts";
import type { Reading } from "../model/verdict.ts";
import type { PeerPod } from "../model/workloads.ts";
import type { CredentialUse, Session } from "../sessions/session.ts";
import type { Origin } from "./origin.ts";

/** All that a signal may look at. Nothing here is changed by reading. */
export interface SignalContext {
  readonly facts: RequestFacts;
  readonly policy: Policy;
  readonly identity: Identity;
  readonly origin: Origin;
  /** Template of the path with its method, for example `GET /orders/{id}`. */
  readonly route: string;
  /** What is ordinary for whom the request is judged against; `undefined` before anything was learned. */
  readonly baseline: Baseline | undefined;
  /** Whether the principal had a baseline until room was wanted. */
  readonly forgotten: boolean;
  readonly population: Population;
  readonly session: Session;
  readonly credentialUse: CredentialUse | undefined;
  readonly posture: PostureFacts | undefined;
  /** Whose address the source address is, by what is known of pods; `undefined`: nobody's for certain. */
  readonly peer: PeerPod | undefined;
  /** How often callers come by other workloads' addresses. */
  readonly arrivals: Arrivals;
  /**
   * Which share, 0..1, of the other principals at work here shows this very novelty just now.
   * @param value what is new, where a common cause shows the same value; empty where it shows in kind only
   */
  readonly commonCause: (signal: string, value: string) => number;
}

/** How readings of one signal add up over a session. */
export type Gathering =
  /** Counts for this request only. */
  | "now"
  /** Kept at its highest, fading: facts about the session, such as where it comes from. */
  | "hold"
  /** Added up request by request, fading, never below zero: behaviour. */
  | "sum";

export interface Signal {
  /** Stable, `family.what`. */
  readonly name: string;
  /** One sentence for the catalogue: what is read, and why a thief differs. */
  readonly summary: string;
  readonly gathering: Gathering;
  /** Half-life of gathered evidence, milliseconds; ignored for `now`. */
  readonly halfLifeMs: number;
  /** Most bits it may add to a score by default. */
  readonly capBits: number;
  /** Whether an answered challenge discharges it: origin, never behaviour or volume. */
  readonly discharged: boolean;
  /**
   * What others would show too if the world had changed rather than this caller. Without it, what this signal notices is
   * never put down to a common cause.
   */
  readonly cause?: (context: SignalContext) => string;
  /** Reads one request before it is answered. */
  readonly read?: (context: SignalContext) => Reading;
  /** Reads what became of a request. */
  readonly readOutcome?: (outcome: Outcome, context: OutcomeContext) => Reading;
}

export interface OutcomeContext {
  readonly baseline: Baseline;
  readonly population: Population;
  readonly session: Session;
  readonly route: string;
}

export const NOTHING: Reading = { kind: "absent", why: "nothing unusual" };

export function absent(why: string): Reading {
  return { kind: "absent", why };
}

export function present(bits: number, seen: string, expected: string): Reading {
  return { kind: "present", bits: toBits(bits) as Bits, seen, expected };
}

/** A reading that decides by itself. */
export function certain(kind: "deny" | "terminate", seen: string, expected: string): Reading {
  return { kind: "present", bits: toBits(64), seen, expected, certain: kind };
}

/** log2 of a likelihood ratio; both chances in (0, 1]. */
export function bitsOf(thief: number, ordinary: number): number {
  return Math.log2(thief / ordinary);
}
