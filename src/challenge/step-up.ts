/** Step-up (RFC 9470): a token or certificate issued after the challenge proves that the workload itself is asking. */

import type { RequestFacts } from "../model/facts.ts";
import type { Identity } from "../model/identity.ts";
import type { ChallengePolicy } from "../model/policy.ts";
import { type EpochMs, SECOND_MS, toEpochMs } from "../model/units.ts";
import type { Challenge } from "../model/verdict.ts";
import type { OpenChallenge } from "../sessions/session.ts";

/** Makes the challenge to put now. Tokens tell time in whole seconds, so the moment is rounded down to one. */
export function issueStepUp(policy: ChallengePolicy, now: EpochMs, open: OpenChallenge | undefined): Challenge {
  // The service behind Envoy compares tokens with the moment itself: while it waits for one, the moment must stand still.
  const standing = policy.kind === "forward" && open?.policy.kind === "forward" && now <= open.expiresAtMs;
  return {
    kind: policy.kind,
    issuedAfter: toEpochMs(standing ? open.issuedAfterMs : Math.floor(now / SECOND_MS) * SECOND_MS),
    acrValues: policy.acrValues,
    maxAgeSeconds: policy.maxAgeSeconds,
  };
}

/**
 * Whether this request answers an open challenge: it carries a verified token, other than the one that was challenged,
 * issued at or after the challenge to this very principal (or its declared subject), with an accepted `acr` where the
 * policy names any; or a verified certificate that did not exist before the challenge.
 */
export function answersStepUp(open: OpenChallenge, facts: RequestFacts, identity: Identity): boolean {
  const { policy } = open;
  if (facts.time > open.expiresAtMs || !identity.proven) return false;
  const { token, certificate } = facts.presented;
  if (token.kind === "verified") {
    if (identity.credential === open.credential) return false;
    if (identity.second !== undefined && !identity.delegated) return false;
    if (token.issuedAt === undefined || token.issuedAt < open.issuedAfterMs) return false;
    if (token.issuedAt > facts.time + 60 * SECOND_MS) return false;
    return policy.acrValues.length === 0 || (token.acr !== undefined && policy.acrValues.includes(token.acr));
  }
  if (policy.acrValues.length > 0 || certificate?.notBefore === undefined) return false;
  return certificate.via === "peer" && certificate.notBefore >= open.issuedAfterMs;
}
