/**
 * Which keys may answer for a principal: only those that were bound to it before the challenge. Anybody can make a key,
 * a thief as well, so a sound proof by any other key is a failed one.
 */

import type { CertificateFacts, Identity, TokenFacts } from "../model/identity.ts";
import { type EpochMs, SECOND_MS } from "../model/units.ts";
import type { ProofKey } from "./proof-key.ts";

export type BoundBy = "token_key" | "token_certificate" | "certificate" | "registered";

export interface BoundKey {
  readonly by: BoundBy;
  readonly thumbprint: string;
  /** Absent where only the thumbprint is known (`cnf.jkt`): then the proof itself must carry the key. */
  readonly key: ProofKey | undefined;
}

export interface Presented {
  readonly identity: Identity;
  readonly token: TokenFacts;
  readonly certificate: CertificateFacts | undefined;
  /** Public key of that certificate, where it is the peer's own and of a kind that can make proofs. */
  readonly certificateKey: ProofKey | undefined;
}

/**
 * The keys that count, strongest binding first. A token that is bound (`cnf`) is answered by what it is bound to alone:
 * otherwise who stole it would answer with a certificate of their own. Without such a token, the certificate's key counts
 * for the principal that the certificate names, and so do keys that the policy registers for the principal.
 * @param registered the principal's keys by the policy in force
 */
export function boundKeys(presented: Presented, registered: readonly ProofKey[]): readonly BoundKey[] {
  const { identity, token, certificate, certificateKey } = presented;
  if (!identity.proven) return [];
  const own = certificate?.via === "peer" ? certificateKey : undefined;
  if (token.kind === "verified" && (token.boundKey !== undefined || token.boundCertificate !== undefined)) {
    const keys: BoundKey[] = [];
    if (token.boundKey !== undefined) {
      const known = [...registered, ...(own === undefined ? [] : [own])];
      const key = known.find(({ thumbprint }) => thumbprint === token.boundKey);
      keys.push({ by: "token_key", thumbprint: token.boundKey, key });
    } else if (own !== undefined && certificate?.x5tS256 === token.boundCertificate) {
      keys.push({ by: "token_certificate", thumbprint: own.thumbprint, key: own });
    }
    return keys;
  }
  // An unbound token of somebody else, with no declared delegation: the certificate does not answer for that subject.
  if (identity.second !== undefined && !identity.delegated) return [];
  const keys: BoundKey[] = [];
  if (own !== undefined && identity.principal.kind === "spiffe" && certificate?.spiffeId === identity.principal.name) {
    keys.push({ by: "certificate", thumbprint: own.thumbprint, key: own });
  }
  for (const key of registered) keys.push({ by: "registered", thumbprint: key.thumbprint, key });
  return keys;
}

/** How a token's `cnf["x5t#S256"]` (RFC 8705, section 3.1) stands to the peer's certificate. */
export type CertificateBinding = "unbound" | "matched" | "mismatched" | "no_certificate";

/** A certificate that a proxy reported (XFCC) proves possession to that proxy, and counts as it does elsewhere. */
export function certificateBinding(token: TokenFacts, certificate: CertificateFacts | undefined): CertificateBinding {
  if (token.kind !== "verified" || token.boundCertificate === undefined) return "unbound";
  if (certificate === undefined) return "no_certificate";
  return certificate.x5tS256 === token.boundCertificate ? "matched" : "mismatched";
}

/** Whether a token is bound to any key: what the policy's treatment of unbound tokens turns on. */
export function isBound(token: TokenFacts): boolean {
  return token.kind === "verified" && (token.boundKey !== undefined || token.boundCertificate !== undefined);
}

/** What a step-up (RFC 9470, section 3) may ask of the authentication behind a token. */
export interface AuthenticationDemand {
  /** Any one of these; empty asks for none. */
  readonly acrValues: readonly string[];
  readonly maxAgeSeconds: number | undefined;
}

export type AuthenticationFault = "not_verified" | "acr" | "age_unknown" | "too_old";

/** How far an issuer's clock may be ahead. */
const AUTHENTICATION_SKEW_MS = 60 * SECOND_MS;

/**
 * What a returning token still lacks, or `undefined` when it satisfies the demand (RFC 9470, section 6). Age is counted
 * from `auth_time`; a workload's token may lack it, and then its issue is its authentication.
 */
export function authenticationFault(
  token: TokenFacts,
  demand: AuthenticationDemand,
  now: EpochMs,
): AuthenticationFault | undefined {
  if (token.kind !== "verified") return "not_verified";
  const { acrValues, maxAgeSeconds } = demand;
  if (acrValues.length > 0 && (token.acr === undefined || !acrValues.includes(token.acr))) return "acr";
  if (maxAgeSeconds === undefined) return undefined;
  const since = token.authenticatedAt ?? token.issuedAt;
  if (since === undefined || since > now + AUTHENTICATION_SKEW_MS) return "age_unknown";
  // Tokens tell time in whole seconds: one issued this very second is no second old.
  return Math.floor(now / SECOND_MS) - Math.floor(since / SECOND_MS) > maxAgeSeconds ? "too_old" : undefined;
}
