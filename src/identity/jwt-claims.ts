/** Turns verified JWT claims (RFC 7519) into what the line needs of a token. Verification itself is an edge's work. */

import type { TokenFacts, VerifiedToken } from "../model/identity.ts";
import { type EpochMs, toEpochMs } from "../model/units.ts";
import { keyedHash } from "./keyed-hash.ts";

const NAME_CHARS_MAX = 512;
const ACTORS_MAX = 8;
/** NumericDate (RFC 7519, section 2) beyond the year 9999 is nonsense. */
const SECONDS_MAX = 253_402_300_799;

/**
 * @param raw the token's text where it is at hand; stands for the token when it has no `jti`
 * @returns an unverified token when the claims name no issuer or subject: nobody is named then
 */
export function tokenFromClaims(
  claims: Readonly<Record<string, unknown>>,
  key: Uint8Array,
  raw: string | undefined,
): TokenFacts {
  const issuer = text(claims.iss);
  const subject = text(claims.sub);
  const jti = text(claims.jti);
  const id = tokenId(key, issuer, jti, raw ?? JSON.stringify(claims));
  if (issuer === undefined) return { kind: "unverified", why: "token without issuer", forged: false, id };
  if (subject === undefined) return { kind: "unverified", why: "token without subject", forged: false, id };
  const confirmation = record(claims.cnf);
  return {
    kind: "verified",
    id,
    issuer,
    subject,
    issuedAt: seconds(claims.iat),
    expiresAt: seconds(claims.exp),
    authenticatedAt: seconds(claims.auth_time),
    acr: text(claims.acr),
    boundCertificate: text(confirmation["x5t#S256"]),
    boundKey: text(confirmation.jkt),
    actors: actorsOf(claims.act),
    hasJti: jti !== undefined,
  } satisfies VerifiedToken;
}

/** Keyed hash that stands for a token: of issuer and `jti` where it has one, else of the whole text. */
export function tokenId(key: Uint8Array, issuer: string | undefined, jti: string | undefined, raw: string): string {
  const hash = jti === undefined ? keyedHash(key, raw) : keyedHash(key, `${issuer ?? ""}\n${jti}`);
  return `token:${hash}`;
}

function actorsOf(act: unknown): readonly string[] {
  const actors: string[] = [];
  let current = record(act);
  while (actors.length < ACTORS_MAX) {
    const subject = text(current.sub);
    if (subject === undefined) break;
    actors.push(subject);
    current = record(current.act);
  }
  return actors;
}

/** Names go into logs and headers: control characters and halves of characters make a claim unreadable. */
function text(value: unknown): string | undefined {
  if (typeof value !== "string" || value === "" || value.length > NAME_CHARS_MAX) return undefined;
  return /[\p{Cc}\p{Cs}]/u.test(value) ? undefined : value;
}

function seconds(value: unknown): EpochMs | undefined {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0 || value > SECONDS_MAX) return undefined;
  return toEpochMs(value * 1000);
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}
