/** Policy cases as they are run: what happened before, what is asked, and what is wanted. */

import type { Protocol } from "./facts.ts";
import type { LockScope, PostureFacts } from "./policy.ts";
import type { DecisionKind, Mode } from "./verdict.ts";

export interface PolicyCase {
  readonly name: string;
  /** The file that it stands in, as it was named, and where. */
  readonly file: string;
  readonly line: number;
  /** The policy that it names, as written: relative to its file; `undefined` for none. */
  readonly policy: string | undefined;
  /** When the first step's time is counted from. */
  readonly timeMs: number;
  readonly history: readonly CaseHistory[];
  readonly posture: readonly { readonly subject: string; readonly facts: PostureFacts }[];
  readonly locks: readonly { readonly scope: LockScope; readonly reason: string }[];
  readonly steps: readonly CaseStep[];
}

/** Requests of one kind before the first step. */
export interface CaseHistory {
  readonly repeat: number;
  readonly everyMs: number;
  /** How long before the case's time the last one is. */
  readonly agoMs: number;
  readonly row: CaseRequest;
  /** Values that take turns, by the part of the request that has them. */
  readonly vary: Readonly<Partial<Record<VariedPart, readonly string[]>>>;
}

export const VARIED = [
  "principal",
  "credential",
  "sourceAddress",
  "userAgent",
  "tlsFingerprint",
  "method",
  "host",
  "path",
] as const;
export type VariedPart = (typeof VARIED)[number];

/** A request as a case tells of it; what is left out is unknown, or ordinary. */
export interface CaseRequest {
  readonly principal?: string;
  readonly credential?: string;
  readonly sourceAddress?: string;
  readonly userAgent?: string;
  readonly tlsFingerprint?: string;
  readonly method?: string;
  readonly host?: string;
  readonly path?: string;
  readonly status?: number;
  readonly responseBytes?: number;
  readonly answersChallenge?: boolean;
  readonly timeMs?: number;
  readonly protocol?: Protocol;
  readonly requestBytes?: number;
  readonly ja3?: string;
  readonly sni?: string;
  readonly tlsVersion?: string;
  readonly certificate?: CaseCertificate;
  readonly token?: CaseToken;
}

export interface CaseCertificate {
  readonly via: "peer" | "xfcc";
  readonly sha256: string | undefined;
  readonly subject: string | undefined;
  readonly issuer: string | undefined;
  readonly serial: string | undefined;
  readonly ageMs: number | undefined;
  readonly expiresInMs: number | undefined;
  readonly key: string | undefined;
  readonly x5tS256: string | undefined;
}

export interface CaseToken {
  /** Why it could not be verified, and whether it was found false; `undefined` when it was verified. */
  readonly unverified: { readonly why: string; readonly forged: boolean } | undefined;
  readonly issuer: string | undefined;
  readonly subject: string | undefined;
  readonly ageMs: number | undefined;
  readonly expiresInMs: number | undefined;
  readonly authenticatedMs: number | undefined;
  readonly acr: string | undefined;
  readonly boundCertificate: string | undefined;
  readonly boundKey: string | undefined;
  readonly actors: readonly string[];
}

export interface CaseStep {
  /** Since the step before. */
  readonly afterMs: number;
  readonly given: CaseRequest;
  readonly answers: boolean;
  readonly want: Wanted;
}

/** Every part that is there must hold. */
export interface Wanted {
  readonly decision: DecisionKind | undefined;
  readonly scoreMin: number | undefined;
  readonly scoreMax: number | undefined;
  readonly because: readonly string[];
  readonly notBecause: readonly string[];
  readonly rule: string | undefined;
  readonly mode: Mode | undefined;
  readonly enforced: DecisionKind | undefined;
}
