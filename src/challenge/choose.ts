/** Chooses how a challenge is put to a caller: the first kind that this caller can answer. */

import type { RequestFacts } from "../model/facts.ts";
import type { CertificateFacts, Identity } from "../model/identity.ts";
import type { ChallengeKind, ChallengePolicy, IdentityPolicy, RegisteredKeys } from "../model/policy.ts";

/**
 * The first of the policy's kinds that the caller can answer by what it presented; where it can answer none, the last,
 * which then stays unanswered.
 */
export function chooseKind(
  policy: ChallengePolicy,
  facts: RequestFacts,
  identity: Identity,
  known: IdentityPolicy,
): ChallengeKind {
  const answerable = policy.kinds.find((kind) => canAnswer(kind, policy, facts, identity, known));
  return answerable ?? policy.kinds.at(-1) ?? "step_up";
}

function canAnswer(
  kind: ChallengeKind,
  policy: ChallengePolicy,
  facts: RequestFacts,
  identity: Identity,
  known: IdentityPolicy,
): boolean {
  const { token, certificate } = facts.presented;
  switch (kind) {
    case "dpop":
      return provesEnough(policy, facts) && token.kind === "verified" && token.boundKey !== undefined;
    case "http_signature":
      return provesEnough(policy, facts) && canSign(facts, identity, known);
    case "certificate_bound":
      return certificate !== undefined && token.kind === "verified" && bindsToCertificates(facts, known);
    case "step_up":
      return token.kind === "verified" || certificate !== undefined;
    case "forward":
      return true;
  }
}

/** A proof of possession says nothing of how the caller was authenticated, and raw TCP has no place for one. */
function provesEnough({ acrValues, maxAgeSeconds }: ChallengePolicy, { protocol }: RequestFacts): boolean {
  return acrValues.length === 0 && maxAgeSeconds === undefined && protocol !== "tcp";
}

/** Mirrors `boundKeys`, as far as facts tell: which keys may answer is settled there. */
function canSign({ presented }: RequestFacts, identity: Identity, known: IdentityPolicy): boolean {
  const { token, certificate } = presented;
  if (!identity.proven) return false;
  if (token.kind === "verified" && token.boundKey !== undefined) return false;
  const signs = certificate?.via === "peer" && makesSignatures(certificate);
  if (token.kind === "verified" && token.boundCertificate !== undefined) {
    return signs && certificate.x5tS256 === token.boundCertificate;
  }
  if (identity.second !== undefined && !identity.delegated) return false;
  const { kind, name } = identity.principal;
  if (signs && kind === "spiffe" && certificate.spiffeId === name) return true;
  return registeredFor(known, name).length > 0;
}

/** Curves and RSA that RFC 9421 has algorithms for. */
function makesSignatures({ key }: CertificateFacts): boolean {
  return key !== undefined && /^(?:EC P-256|EC P-384|Ed25519|RSA \d+)$/i.test(key);
}

function bindsToCertificates({ presented: { token } }: RequestFacts, { issuers }: IdentityPolicy): boolean {
  if (token.kind !== "verified") return false;
  if (token.boundCertificate !== undefined) return true;
  return issuers.some(({ issuer, bindsCertificates }) => issuer === token.issuer && bindsCertificates === true);
}

/** The policy's key sets for a principal. */
export function registeredFor({ registeredKeys }: IdentityPolicy, principal: string): readonly RegisteredKeys[] {
  return registeredKeys.filter(({ principals }) => principals.some((glob) => glob.test(principal)));
}
