/** Puts challenges and judges answers, by verified facts alone: proofs, tokens and certificates from after the challenge. */

import type { RequestFacts } from "../model/facts.ts";
import type { Identity } from "../model/identity.ts";
import type { ChallengeKind, ChallengePolicy } from "../model/policy.ts";
import { type EpochMs, SECOND_MS, toEpochMs } from "../model/units.ts";
import type { Challenge } from "../model/verdict.ts";
import type { OpenChallenge } from "../sessions/session.ts";
import { certificateBinding } from "./bound.ts";

/** Makes the challenge to put now. Tokens tell time in whole seconds, so the moment is rounded down to one. */
export function issueChallenge(
  kind: ChallengeKind,
  policy: ChallengePolicy,
  now: EpochMs,
  open: OpenChallenge | undefined,
): Challenge {
  // The service behind Envoy compares tokens with the moment itself: while it waits for one, the moment must stand still.
  const standing = kind === "forward" && open?.kind === "forward" && now <= open.expiresAtMs;
  return {
    kind,
    issuedAfter: toEpochMs(standing ? open.issuedAfterMs : Math.floor(now / SECOND_MS) * SECOND_MS),
    acrValues: policy.acrValues,
    maxAgeSeconds: policy.maxAgeSeconds,
  };
}

/**
 * What a request is to an open challenge. `failed`: an answer that is wrong, and counts as a try at once. `other`: neither
 * an answer nor ignoring, such as a proof with a nonce that grew old on its way.
 */
export type Answer = "answered" | "failed" | "missing" | "other";

/** @param isCopy whether the credential was in use elsewhere before */
export function answerOf(open: OpenChallenge, facts: RequestFacts, identity: Identity, isCopy: boolean): Answer {
  switch (open.kind) {
    case "dpop":
    case "http_signature":
      return proofAnswers(open, open.kind, facts, identity);
    case "certificate_bound": {
      const { token, certificate } = facts.presented;
      const bound = certificateBinding(token, certificate) === "matched";
      return bound && !isCopy && answersStepUp(open, facts, identity) ? "answered" : "missing";
    }
    case "step_up":
    case "forward":
      // A token that was in use elsewhere before is a copy: whoever answers brings one of its own.
      return !isCopy && answersStepUp(open, facts, identity) ? "answered" : "missing";
  }
}

/** A proof answers when it was made with a nonce from after the challenge; which keys count was settled at the edge. */
function proofAnswers(
  open: OpenChallenge,
  method: "dpop" | "http_signature",
  facts: RequestFacts,
  identity: Identity,
): Answer {
  const { proof } = facts.presented;
  if (proof === undefined || proof.kind === "none" || proof.method !== method) return "missing";
  switch (proof.kind) {
    case "failed":
      return "failed";
    case "stale":
      return "other";
    case "valid": {
      if (proof.nonce === "absent") return "missing";
      const { nonceIssuedAt } = proof;
      const fresh = nonceIssuedAt !== undefined && nonceIssuedAt >= open.issuedAtMs;
      return fresh && identity.proven && facts.time <= open.expiresAtMs ? "answered" : "other";
    }
  }
}

/**
 * Whether this request answers an open step-up (RFC 9470): it carries a verified token, other than the one that was
 * challenged, issued at or after the challenge to this very principal (or its declared subject), with an accepted `acr`
 * where the policy names any; or a verified certificate that did not exist before the challenge.
 */
function answersStepUp(open: OpenChallenge, facts: RequestFacts, identity: Identity): boolean {
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

/**
 * Whether a token that is bound to a key lacks the proof that must come with it (RFC 9449, section 7.1). A proof without a
 * nonce will do: whether it is recent enough was settled at the edge.
 */
export function lacksProof({ presented: { token, proof } }: RequestFacts): boolean {
  if (token.kind !== "verified" || token.boundKey === undefined || proof === undefined) return false;
  return proof.kind !== "valid" || proof.method !== "dpop" || proof.key !== token.boundKey;
}
