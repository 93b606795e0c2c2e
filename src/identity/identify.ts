/** Decides who is calling from what was proved, and which credential carries the session. */

import {
  ANONYMOUS,
  type CredentialId,
  type Identity,
  type PresentedFacts,
  type Principal,
  type VerifiedToken,
} from "../model/identity.ts";
import type { IdentityPolicy } from "../model/policy.ts";

/**
 * Strongest proof first: the SPIFFE ID of the verified peer certificate, the issuer and subject of a verified token, the
 * id of a known API key; otherwise `anonymous`. What was not verified names nobody.
 */
export function identify(presented: PresentedFacts, policy: IdentityPolicy): Identity {
  const { token } = presented;
  const caller = callerOf(presented);
  const principal =
    caller ?? (token.kind === "verified" ? principalOf(token) : undefined) ?? keyPrincipal(presented) ?? ANONYMOUS;
  const second = caller !== undefined && token.kind === "verified" ? secondOf(caller, token) : undefined;
  return {
    principal,
    second,
    delegated: second !== undefined && token.kind === "verified" && isDelegated(principal, token, policy),
    credential: credentialOf(presented),
    proven: principal.kind !== "anonymous",
  };
}

function callerOf({ certificate, peerSpiffeId }: PresentedFacts): Principal | undefined {
  // A listed hop's report is about the caller behind it; the peer's own name is the hop's.
  const name = certificate?.via === "xfcc" ? certificate.spiffeId : (peerSpiffeId ?? certificate?.spiffeId);
  return name === undefined ? undefined : { kind: "spiffe", name };
}

function principalOf(token: VerifiedToken): Principal {
  return { kind: "jwt", name: `${token.issuer}|${token.subject}` };
}

function keyPrincipal({ apiKey }: PresentedFacts): Principal | undefined {
  return apiKey.kind === "known" ? { kind: "api_key", name: `api-key/${apiKey.name}` } : undefined;
}

/** A token whose subject is the caller's own SPIFFE ID names the same workload twice. */
function secondOf(caller: Principal, token: VerifiedToken): Principal | undefined {
  return token.subject === caller.name ? undefined : principalOf(token);
}

/** Declared by the policy, or by the issuer itself: `act` names the caller (RFC 8693, section 4.1). */
function isDelegated(caller: Principal, token: VerifiedToken, policy: IdentityPolicy): boolean {
  if (token.actors[0] === caller.name) return true;
  const subject = principalOf(token).name;
  return policy.delegations.some(
    (delegation) =>
      delegation.caller.test(caller.name) &&
      (delegation.subject.test(subject) || delegation.subject.test(token.subject)),
  );
}

/** What a thief would carry away comes first: a token, then a key, then the certificate. */
function credentialOf({ token, apiKey, certificate }: PresentedFacts): CredentialId {
  if (token.kind !== "absent") return token.id;
  if (apiKey.kind !== "absent") return apiKey.id;
  return certificate === undefined ? "none" : `certificate:${certificate.sha256}`;
}
