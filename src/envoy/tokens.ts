/** Verifies bearer tokens before the line sees them, and remembers what was verified. */

import type { JWTPayload, JWTVerifyOptions } from "jose";
import { tokenFromClaims, tokenId } from "../identity/jwt-claims.ts";
import { keyedHash } from "../identity/keyed-hash.ts";
import { parseSpiffeId } from "../identity/spiffe.ts";
import type { TokenFacts } from "../model/identity.ts";
import { CALLERS_MAX } from "../model/limits.ts";
import type { IdentityPolicy, IssuerPolicy, TrustDomainPolicy } from "../model/policy.ts";
import { MINUTE_MS, SECOND_MS } from "../model/units.ts";
import { loadJose } from "./jose.ts";
import type { KeySets, Keys } from "./key-sets.ts";

/** Longer tokens are refused unread; Envoy's own limit for all headers together is 60 KiB. */
const TOKEN_CHARS_MAX = 16 * 1024;
const VERIFIED_MAX = CALLERS_MAX;
/** A verified token is looked at anew after this, so that a withdrawn key takes effect. */
const TRUSTED_MS = 5 * MINUTE_MS;
/** A refused one is not verified again for this long: a flood of bad tokens costs one hash each. */
const REFUSED_MS = 5 * SECOND_MS;
/** Keys tried for a token that names none: every try costs a verification. */
const KEYS_TRIED_MAX = 8;

/** JWT-SVID specification, section 2.1. */
const SVID_ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];
const SVID_TOLERANCE_MS = 30 * SECOND_MS;

type TrustDomains = IdentityPolicy["trustDomains"];
const NO_DOMAINS: TrustDomains = new Map();

interface Known {
  readonly token: TokenFacts;
  readonly untilMs: number;
}

/** Verification results by the token's keyed hash; the raw token is never kept. */
export class Tokens {
  private readonly known = new Map<string, Known>();
  /** Facts of claims that identify their token by themselves; gone with the claims. */
  private readonly byClaims = new WeakMap<object, TokenFacts>();
  private readonly key: Uint8Array;
  private readonly keySets: KeySets;
  private readonly now: () => number;

  constructor(options: { readonly key: Uint8Array; readonly keySets: KeySets; readonly now: () => number }) {
    this.key = options.key;
    this.keySets = options.keySets;
    this.now = options.now;
  }

  /** Forgets every result: after a policy change another issuer may be trusted. */
  forget(): void {
    this.known.clear();
  }

  /**
   * The facts of claims that were verified before they came here.
   * @param claims not changed afterwards: the same object has the same facts
   * @param bearer the token's text where it is at hand
   */
  ofClaims(claims: Readonly<Record<string, unknown>>, bearer: string | undefined): TokenFacts {
    const known = this.byClaims.get(claims);
    if (known !== undefined) return known;
    const token = tokenFromClaims(claims, this.key, bearer);
    // Without a `jti` it is the token's text that it is known by, and claims may be those of several.
    if (token.kind === "verified" && token.hasJti) this.byClaims.set(claims, token);
    return token;
  }

  /** The facts of a bearer token; at once when it is known, else after verification. */
  read(
    bearer: string,
    issuers: readonly IssuerPolicy[],
    trustDomains: TrustDomains = NO_DOMAINS,
  ): TokenFacts | Promise<TokenFacts> {
    const hash = keyedHash(this.key, bearer);
    if (bearer.length > TOKEN_CHARS_MAX)
      return unverified(`token:${hash}`, `longer than ${TOKEN_CHARS_MAX} characters`);
    if (issuers.length === 0 && trustDomains.size === 0)
      return unverified(`token:${hash}`, "the policy names no issuer that could be checked");
    const known = this.known.get(hash);
    if (known !== undefined && this.now() < known.untilMs) return known.token;
    return this.verify(bearer, hash, issuers, trustDomains);
  }

  private async verify(
    bearer: string,
    hash: string,
    issuers: readonly IssuerPolicy[],
    trustDomains: TrustDomains,
  ): Promise<TokenFacts> {
    const token = await this.judge(bearer, hash, issuers, trustDomains);
    const now = this.now();
    const untilMs =
      token.kind === "verified"
        ? Math.min(token.expiresAt ?? Number.POSITIVE_INFINITY, now + TRUSTED_MS)
        : now + REFUSED_MS;
    this.known.delete(hash);
    this.known.set(hash, { token, untilMs });
    if (this.known.size > VERIFIED_MAX) {
      const oldest = this.known.keys().next().value;
      if (oldest !== undefined) this.known.delete(oldest);
    }
    return token;
  }

  private async judge(
    bearer: string,
    hash: string,
    issuers: readonly IssuerPolicy[],
    trustDomains: TrustDomains,
  ): Promise<TokenFacts> {
    const { decodeJwt } = await loadJose();
    let claims: Record<string, unknown>;
    try {
      claims = decodeJwt(bearer);
    } catch {
      return unverified(`token:${hash}`, "not a JWT"); // names nobody; an opaque token may be somebody else's business
    }
    const id = tokenId(
      this.key,
      typeof claims.iss === "string" ? claims.iss : undefined,
      typeof claims.jti === "string" ? claims.jti : undefined,
      bearer,
    );
    const issuer = issuers.find((candidate) => candidate.issuer === claims.iss);
    const domain = issuer === undefined ? trustDomainOf(claims.sub, trustDomains) : undefined;
    if (domain !== undefined) return this.checkSvid(bearer, hash, domain);
    // An unverified token keeps the id of its text: a forged `jti` must not stand for the real token.
    if (issuer === undefined) return unverified(`token:${hash}`, "of an issuer that the policy does not name");
    const first = await this.check(bearer, hash, id, issuer);
    if (first.kind !== "unverified" || first.why !== `token ${UNKNOWN_KEY}`) return first;
    await this.keySets.refetch(issuer);
    return this.check(bearer, hash, id, issuer);
  }

  /**
   * Verifies a JWT-SVID (JWT-SVID specification, sections 2 to 5) with its trust domain's own keys. Whatever its `iss`
   * says, it is the trust domain that vouches for it, and by whose SPIFFE ID it is known.
   */
  private async checkSvid(bearer: string, hash: string, domain: TrustDomainPolicy): Promise<TokenFacts> {
    const { name, jwtKeys, audiences } = domain;
    const id = `token:${hash}`;
    if (jwtKeys === undefined || audiences.length === 0) {
      const lacking = jwtKeys === undefined ? "keys for JWT-SVIDs" : "audiences";
      return unverified(id, `of a trust domain for which the policy names no ${lacking}`);
    }
    const issuer: IssuerPolicy = {
      issuer: `spiffe://${name}`,
      audiences,
      jwks: { kind: "inline", keys: jwtKeys },
      algorithms: SVID_ALGORITHMS,
      clockToleranceMs: SVID_TOLERANCE_MS,
    };
    const keys = await this.keySets.keysFor(issuer);
    if (keys === undefined) return unverified(id, UNKNOWN_KEY);
    try {
      const { decodeProtectedHeader } = await loadJose();
      const { typ } = decodeProtectedHeader(bearer);
      if (typ !== undefined && typ !== "JWT" && typ !== "JOSE")
        return unverified(id, "of a type that is no JWT-SVID's");
      const payload = await payloadOf(bearer, keys, {
        audience: [...audiences],
        algorithms: [...SVID_ALGORITHMS],
        requiredClaims: ["sub", "aud", "exp"],
        clockTolerance: SVID_TOLERANCE_MS / SECOND_MS,
        currentDate: new Date(this.now()),
      });
      return tokenFromClaims({ ...payload, iss: issuer.issuer }, this.key, bearer);
    } catch (error) {
      return await refusalOf(error, id); // fails to unverified: the token names nobody
    }
  }

  private async check(bearer: string, hash: string, id: string, issuer: IssuerPolicy): Promise<TokenFacts> {
    const keys = await this.keySets.keysFor(issuer);
    if (keys === undefined) return unverified(`token:${hash}`, UNKNOWN_KEY);
    try {
      const payload = await payloadOf(bearer, keys, {
        issuer: issuer.issuer,
        ...(issuer.audiences.length === 0 ? {} : { audience: [...issuer.audiences] }),
        algorithms: [...issuer.algorithms],
        clockTolerance: issuer.clockToleranceMs / SECOND_MS,
        currentDate: new Date(this.now()),
      });
      const token = tokenFromClaims(payload, this.key, bearer);
      return token.kind === "verified" ? { ...token, id } : token;
    } catch (error) {
      return await refusalOf(error, `token:${hash}`); // fails to unverified: the token names nobody
    }
  }
}

/** The listed trust domain whose SPIFFE ID a token's subject is, if any. */
function trustDomainOf(subject: unknown, trustDomains: TrustDomains): TrustDomainPolicy | undefined {
  if (typeof subject !== "string") return undefined;
  const parsed = parseSpiffeId(subject);
  return parsed.ok && parsed.id.path !== "" ? trustDomains.get(parsed.id.trustDomain) : undefined;
}

/** A token need not name its key (RFC 7515, section 4.1.4): then any of the issuer's that fits may have signed it. */
async function payloadOf(bearer: string, keys: Keys, options: JWTVerifyOptions): Promise<JWTPayload> {
  const { errors, jwtVerify } = await loadJose();
  try {
    return (await jwtVerify(bearer, keys, options)).payload;
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
    let refused: unknown = error;
    let tried = 0;
    for await (const key of error) {
      if (++tried > KEYS_TRIED_MAX) throw new errors.JWKSNoMatchingKey();
      try {
        return (await jwtVerify(bearer, key, options)).payload;
      } catch (next) {
        if (!(next instanceof errors.JWSSignatureVerificationFailed)) throw next;
        refused = next; // the next key may be the one
      }
    }
    throw refused;
  }
}

const UNKNOWN_KEY = "signed with a key that the issuer does not publish";

async function refusalOf(error: unknown, id: string): Promise<TokenFacts> {
  const { errors } = await loadJose();
  if (error instanceof errors.JWSSignatureVerificationFailed) return forged(id, "signature does not verify");
  if (error instanceof errors.JOSEAlgNotAllowed) return forged(id, "signature algorithm not allowed");
  if (error instanceof errors.JWTExpired) return unverified(id, "past its end");
  if (error instanceof errors.JWKSNoMatchingKey) return unverified(id, UNKNOWN_KEY);
  if (error instanceof errors.JWTClaimValidationFailed) return unverified(id, `claim ${error.claim} not accepted`);
  return unverified(id, "malformed");
}

function unverified(id: string, why: string): TokenFacts {
  return { kind: "unverified", why: `token ${why}`, forged: false, id };
}

function forged(id: string, why: string): TokenFacts {
  return { kind: "unverified", why: `token ${why}`, forged: true, id };
}
