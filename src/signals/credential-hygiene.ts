/** Reads what a credential says about itself: forged, bound to another certificate, unknown, odd in its times. */

import { DAY_MS, HOUR_MS, MINUTE_MS } from "../model/units.ts";
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
    "The token is bound to a certificate (RFC 8705, `cnf.x5t#S256`) that is not the one of this connection: failed proof of possession.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 64,
  discharged: false,
  read: ({ facts }) => {
    const { token, certificate } = facts.presented;
    if (token.kind !== "verified" || token.boundCertificate === undefined) return NOTHING;
    if (certificate?.x5tS256 === token.boundCertificate) return NOTHING;
    return certain(
      "deny",
      certificate === undefined ? "bound token without a certificate" : "bound token with another certificate",
      "the certificate that the token names",
    );
  },
};

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
