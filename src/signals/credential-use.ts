/** Reads who else uses the credential: another principal, or somebody before, where it may be used once only. */

import { HOUR_MS } from "../model/units.ts";
import type { CredentialUse } from "../sessions/session.ts";
import { absent, bitsOf, certain, NOTHING, present, type Signal } from "./signal.ts";

/** Share of thieves who present a stolen credential beside a name of their own. */
const THIEF_SHARES = 0.5;

export const credentialShared: Signal = {
  name: "credential.shared",
  summary:
    "A credential that another principal used within the last hour: a copy in other hands, unless tokens are forwarded here, which is learned, or declared as delegation.",
  gathering: "hold",
  halfLifeMs: HOUR_MS,
  capBits: 10,
  discharged: false,
  cause: () => "",
  read: ({ identity, credentialUse, population, session, facts, commonCause }) => {
    if (!identity.proven) return absent("nothing proven");
    if (credentialUse === undefined) return absent("first use of the credential");
    if (session.requests > 0 || identity.delegated) return NOTHING;
    const other = otherUser(credentialUse, identity.principal.name, facts.time);
    if (other === undefined) return NOTHING;
    const ordinary = Math.max(population.sharedCredential.value(), commonCause("credential.shared", ""));
    return present(Math.max(0, bitsOf(THIEF_SHARES, ordinary)), `credential of ${other}`, "a credential of its own");
  },
};

export const credentialReused: Signal = {
  name: "credential.reused",
  summary:
    "A token whose `jti` was used before, of an issuer whose tokens the policy says are for single use (RFC 7519, section 4.1.7).",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 64,
  discharged: false,
  read: ({ facts, policy, credentialUse }) => {
    const { token } = facts.presented;
    if (token.kind !== "verified" || !token.hasJti) return NOTHING;
    if (!policy.identity.singleUseIssuers.includes(token.issuer) || credentialUse === undefined) return NOTHING;
    // Envoy asks again about the same request when its first question got lost.
    if (facts.requestId !== undefined && facts.requestId === credentialUse.requestId) return NOTHING;
    return certain("deny", "token used before", "a token used once");
  },
};

/** Another principal that used the credential within the hour, if any. */
export function otherUser(use: CredentialUse, principal: string, now: number): string | undefined {
  return use.principals.otherWithin(principal, now, HOUR_MS);
}
