/** Reads whether the caller's name may be believed and may call at all. */

import { certain, NOTHING, present, type Signal } from "./signal.ts";

export const identityUntrusted: Signal = {
  name: "identity.untrusted",
  summary:
    "A SPIFFE ID outside the paths that the policy trusts, a peer name that is no valid SPIFFE ID, or one whose certificate its trust domain did not issue.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 64,
  discharged: false,
  read: ({ policy, identity, facts }) => {
    const { unanchored } = facts.presented;
    if (unanchored !== undefined) {
      return certain("deny", unanchored, "a certificate from its own trust domain's authorities");
    }
    const { trustedSpiffe } = policy.identity;
    if (trustedSpiffe.length === 0) return NOTHING;
    if (facts.presented.peerNameInvalid !== undefined) {
      return certain("deny", "peer certificate without a valid SPIFFE ID", "a trusted SPIFFE ID");
    }
    if (identity.principal.kind !== "spiffe") return NOTHING;
    if (trustedSpiffe.some((pattern) => pattern.test(identity.principal.name))) return NOTHING;
    return certain("deny", identity.principal.name, "a trusted SPIFFE ID");
  },
};

export const identityFaults: Signal = {
  name: "identity.faults",
  summary: "Identity headers or certificates that could not be read, such as two authorization headers.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 8,
  discharged: false,
  read: ({ facts }) => {
    const { faults } = facts.presented;
    return faults.length === 0 ? NOTHING : present(5, faults.slice(0, 3).join("; "), "well-formed identity");
  },
};
