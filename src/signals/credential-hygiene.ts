/** Reads what a credential says about itself: forged, bound to another certificate, unknown, odd in its times. */

import { lacksProof } from "../challenge/answer.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { Policy } from "../model/policy.ts";
import { DAY_MS, HOUR_MS, MINUTE_MS } from "../model/units.ts";
import type { Reading } from "../model/verdict.ts";
import type { Session } from "../sessions/session.ts";
import { absent, certain, NOTHING, present, type Signal } from "./signal.ts";

export const credentialForged: Signal = {
  name: "credential.forged",
  summary: "A token whose signature, issuer or form was found false.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 64,
  discharged: false,
  read: ({ facts }) => {
    const { token } = facts.presented;
    if (token.kind !== "unverified") return NOTHING;
    if (token.forged) return certain("deny", token.why, "a token that verifies");
    return absent(token.why);
  },
};

export const credentialBinding: Signal = {
  name: "credential.binding",
  summary:
    "The token is bound to a certificate (RFC 8705, `cnf.x5t#S256`) that is not the one of this connection, or to a key (RFC 9449, `cnf.jkt`) that another key's proof came with: failed proof of possession.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 64,
  discharged: false,
  read: ({ facts, policy, session }) => {
    const { token, certificate } = facts.presented;
    if (token.kind !== "verified") return NOTHING;
    if (token.boundKey !== undefined) {
      const reading = proofReading(facts, policy, session);
      if (reading.kind === "present") return reading;
    }
    if (token.boundCertificate === undefined) return NOTHING;
    if (certificate?.x5tS256 === token.boundCertificate) return NOTHING;
    return certain(
      "deny",
      certificate === undefined ? "bound token without a certificate" : "bound token with another certificate",
      "the certificate that the token names",
    );
  },
};

/** A missing proof alone is as often a client that has not learned of it yet. */
const MISSING_PROOF_BITS = 3;
/** One that fails by time, URI or as a replay: careless clients do that, too. */
const FAILED_PROOF_BITS = 7;
/** Forgeries that were denied before the next ends everything. */
const FORGERIES_DENIED = 2;

/** How the proof stands that a token bound to a key must come with. */
function proofReading(facts: RequestFacts, policy: Policy, session: Session): Reading {
  const { proof } = facts.presented;
  const { requireBoundProof } = policy.identity;
  const wanted = "a proof by the key that the token names";
  if (proof?.kind === "failed" && proof.forged) {
    // Whoever goes on after being refused twice has the token and not its key: the lock takes this token from this origin.
    const kind = session.standing.denials >= FORGERIES_DENIED ? "terminate" : "deny";
    return certain(kind, `bound token with a proof that failed: ${proof.why}`, wanted);
  }
  if (requireBoundProof === "off" || !lacksProof(facts)) return NOTHING;
  const seen =
    proof?.kind === "failed" || proof?.kind === "stale"
      ? `bound token with a proof that does not count: ${proof.why}`
      : "bound token without a proof";
  // A stale proof by the right key is asked for anew, and is never a reason to deny.
  if (requireBoundProof === "deny" && proof?.kind !== "stale") return certain("deny", seen, wanted);
  if (proof?.kind === "stale") return NOTHING;
  return present(proof?.kind === "failed" ? FAILED_PROOF_BITS : MISSING_PROOF_BITS, seen, wanted);
}

export const credentialUnknownKey: Signal = {
  name: "credential.unknown_key",
  summary: "An API key that the policy does not list.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 12,
  discharged: false,
  read: ({ facts }) =>
    facts.presented.apiKey.kind === "unknown"
      ? present(11, `unknown ${facts.presented.apiKey.id}`, "a listed key")
      : NOTHING,
};

export const credentialTimes: Signal = {
  name: "credential.times",
  summary: "A token issued in the future, past its end, or living far longer than a day.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 6,
  discharged: false,
  read: ({ facts }) => {
    const { token } = facts.presented;
    if (token.kind !== "verified") return absent("no verified token");
    if (token.expiresAt !== undefined && facts.time > token.expiresAt + MINUTE_MS) {
      return present(6, "token past its end", "a current token");
    }
    if (token.issuedAt === undefined) return NOTHING;
    if (token.issuedAt > facts.time + 5 * MINUTE_MS)
      return present(4, "token issued in the future", "issued before now");
    if (token.expiresAt === undefined) return present(1.5, "token without end", "a lifetime");
    const lifetimeMs = token.expiresAt - token.issuedAt;
    if (lifetimeMs > 30 * DAY_MS) {
      return present(1.5, `token lives ${Math.round(lifetimeMs / DAY_MS)} days`, "at most a few hours");
    }
    return NOTHING;
  },
};

export const credentialSubject: Signal = {
  name: "credential.subject",
  summary: "Certificate and token name different subjects, and no delegation is declared.",
  gathering: "hold",
  halfLifeMs: HOUR_MS,
  capBits: 12,
  discharged: false,
  read: ({ identity }) => {
    if (identity.second === undefined || identity.delegated) return NOTHING;
    return present(
      7,
      `token of ${identity.second.name}`,
      `token of ${identity.principal.name}, or a declared delegation`,
    );
  },
};
