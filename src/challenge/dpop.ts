/** Verifies DPoP proofs as a resource server does (RFC 9449, sections 4.3 and 7.1), from plain facts and without waiting. */

import { createHash, timingSafeEqual } from "node:crypto";
import { type EpochMs, MINUTE_MS, SECOND_MS } from "../model/units.ts";
import { decodeBase64url } from "./base64url.ts";
import type { BoundKey } from "./bound.ts";
import type { Nonces } from "./nonce.ts";
import {
  fits,
  importKey,
  JWS_ALGORITHMS,
  type JwsAlgorithm,
  type ParsedKey,
  type ReadKey,
  readJwk,
  verifyJws,
} from "./proof-key.ts";
import type { ReplayMemory } from "./replay.ts";
import { normaliseUri } from "./target-uri.ts";

/** Stable reasons why a proof failed; public in logs and metrics: add, never rename. */
export type DpopFault =
  | "several_proofs"
  | "too_long"
  | "malformed"
  | "type"
  | "algorithm"
  | "key_malformed"
  | "key_private"
  | "key_unsupported"
  | "key_size"
  | "key_not_bound"
  | "claims"
  | "method"
  | "uri"
  | "time"
  | "token_hash"
  | "signature"
  | "replayed";

export type DpopOutcome =
  | {
      readonly kind: "valid";
      readonly jkt: string;
      readonly jti: string;
      readonly nonceIssuedAt: EpochMs | undefined;
      /** Why no nonce counted, where one need not. */
      readonly nonceLacks?: NonceLack;
    }
  /** No proof was sent. */
  | { readonly kind: "missing" }
  /** A sound proof by a key that counts, but not known to be made just now: answer with a nonce. */
  | { readonly kind: "wants_nonce"; readonly why: "absent" | "stale" | "unknown" | "forgotten" }
  | { readonly kind: "invalid"; readonly why: DpopFault };

export type NonceLack = "absent" | "stale" | "unknown";

export interface DpopRequest {
  /** All values of the `DPoP` header, as sent. */
  readonly proofs: readonly string[];
  /** As sent: methods are case-sensitive. */
  readonly method: string;
  /** Origins under which callers know this service, for example `https://orders.example`; Envoy's own view first. */
  readonly origins: readonly string[];
  /** As sent; query and fragment are ignored. */
  readonly path: string;
  /** The access token in the request, when there is one: the proof must then name its hash. */
  readonly accessToken: string | undefined;
}

export interface DpopContext {
  readonly now: EpochMs;
  /** The keys that may answer, or `any` where only possession is asked and who calls does not matter. */
  readonly keys: readonly BoundKey[] | "any";
  /** Absent: nonces are not asked for, and a nonce that is sent anyway is not looked at. */
  readonly nonces: Nonces | undefined;
  /** A proof of the last minute passes without a fresh nonce; an older one is asked for anew. */
  readonly nonceOptional?: boolean;
  readonly replays: ReplayMemory;
  /** How keys are imported; an edge puts a cache here. */
  readonly importKey?: (read: Extract<ReadKey, { readonly ok: true }>) => ParsedKey;
  /** A subset of what is allowed here; the proof has no say in it. */
  readonly algorithms?: readonly JwsAlgorithm[];
}

/** An RSA-4096 key and signature with room for long URIs. */
export const PROOF_CHARS_MAX = 8 * 1024;
const JTI_CHARS_MAX = 256;
/** How old a proof may be by its own `iat`. With nonces, the nonce is what counts, and this allows for wrong clocks. */
export const PROOF_AGE_MS = MINUTE_MS;
export const PROOF_AGE_WITH_NONCE_MS = 5 * MINUTE_MS;
export const PROOF_SKEW_MS = 10 * SECOND_MS;

interface Proof {
  readonly algorithm: JwsAlgorithm;
  readonly key: Extract<ReadKey, { readonly ok: true }>;
  readonly jti: string;
  readonly htm: string;
  readonly htu: string;
  readonly issuedAtMs: number;
  readonly ath: string | undefined;
  readonly nonce: string | undefined;
  readonly signed: string;
  readonly signature: Buffer;
}

/** Cheap checks come first, the signature after them, the nonce next, and only a proof without fault is remembered. */
export function verifyDpop(request: DpopRequest, context: DpopContext): DpopOutcome {
  if (request.proofs.length === 0) return { kind: "missing" };
  if (request.proofs.length > 1) return invalid("several_proofs");
  const proof = parseProof(request.proofs[0] as string, context.algorithms ?? JWS_ALGORITHMS);
  if (typeof proof === "string") return invalid(proof);
  const fault = claimsFault(proof, request, context);
  if (fault !== undefined) return invalid(fault);
  const jkt = proof.key.thumbprint;
  if (context.keys !== "any" && !context.keys.some(({ thumbprint }) => sameText(thumbprint, jkt))) {
    return invalid("key_not_bound");
  }
  if (context.replays.peek(jkt, proof.jti, proof.issuedAtMs) === "replayed") return invalid("replayed");
  const imported = (context.importKey ?? importKey)(proof.key);
  if (!imported.ok) return invalid(imported.why);
  if (!verifyJws(proof.algorithm, imported.key, Buffer.from(proof.signed), proof.signature)) {
    return invalid("signature");
  }
  return admit(proof, context);
}

function admit(proof: Proof, { nonces, nonceOptional = false, now, replays }: DpopContext): DpopOutcome {
  let nonceIssuedAt: EpochMs | undefined;
  let nonceLacks: NonceLack | undefined;
  if (nonces !== undefined) {
    const judged = proof.nonce === undefined ? undefined : nonces.judge("dpop", proof.nonce, now);
    if (judged?.kind === "fresh") nonceIssuedAt = judged.issuedAt;
    else nonceLacks = judged?.kind ?? "absent";
    if (nonceLacks !== undefined && (!nonceOptional || now - proof.issuedAtMs > PROOF_AGE_MS)) {
      return { kind: "wants_nonce", why: nonceLacks };
    }
  }
  const jkt = proof.key.thumbprint;
  // The longest age of all, whichever applied: a proof that came where no nonce was asked for may hold a fresh one, and
  // must not come again where one is.
  const expiresAtMs = proof.issuedAtMs + PROOF_AGE_WITH_NONCE_MS + PROOF_SKEW_MS;
  // Made after its nonce, whatever the caller's clock says: a clock that is behind does not put it before a start.
  const madeAtMs = Math.max(proof.issuedAtMs, nonceIssuedAt ?? proof.issuedAtMs);
  switch (replays.admit(jkt, proof.jti, madeAtMs, Math.max(expiresAtMs, madeAtMs), now)) {
    case "first":
      return {
        kind: "valid",
        jkt,
        jti: proof.jti,
        nonceIssuedAt,
        ...(nonceLacks === undefined ? {} : { nonceLacks }),
      };
    case "replayed":
      return invalid("replayed");
    case "forgotten":
      return { kind: "wants_nonce", why: "forgotten" };
  }
}

function parseProof(text: string, algorithms: readonly JwsAlgorithm[]): Proof | DpopFault {
  if (text.length > PROOF_CHARS_MAX) return "too_long";
  const parts = text.split(".", 4);
  if (parts.length !== 3) return "malformed";
  const [encodedHeader, encodedClaims, encodedSignature] = parts as [string, string, string];
  const header = objectOf(encodedHeader);
  const claims = objectOf(encodedClaims);
  const signature = decodeBase64url(encodedSignature);
  if (header === undefined || claims === undefined || signature === undefined) return "malformed";
  // Extensions that must be understood: none is (RFC 7515, section 4.1.11; RFC 7797's `b64` would change what is signed).
  if (Object.hasOwn(header, "crit") || Object.hasOwn(header, "b64")) return "malformed";
  if (typeof header.typ !== "string" || header.typ.toLowerCase() !== "dpop+jwt") return "type";
  const algorithm = algorithms.find((candidate) => candidate === header.alg);
  if (algorithm === undefined) return "algorithm";
  const key = readJwk(header.jwk);
  if (!key.ok) return key.why;
  if (!fits(key, algorithm)) return "algorithm";
  const { jti, htm, htu, iat, ath, nonce } = claims;
  if (typeof jti !== "string" || jti === "" || jti.length > JTI_CHARS_MAX) return "claims";
  if (typeof htm !== "string" || typeof htu !== "string" || !isSeconds(iat)) return "claims";
  if (!isTextOrAbsent(ath) || !isTextOrAbsent(nonce)) return "claims";
  const signed = `${encodedHeader}.${encodedClaims}`;
  return { algorithm, key, jti, htm, htu, issuedAtMs: iat * SECOND_MS, ath, nonce, signed, signature };
}

function claimsFault(proof: Proof, request: DpopRequest, { now, nonces }: DpopContext): DpopFault | undefined {
  if (proof.htm !== request.method) return "method";
  const claimed = normaliseUri(proof.htu);
  if (claimed === undefined) return "uri";
  const path = request.path.startsWith("/") ? request.path : `/${request.path}`;
  if (!request.origins.some((origin) => normaliseUri(`${origin}${path}`) === claimed)) return "uri";
  if (proof.issuedAtMs > now + PROOF_SKEW_MS || now - proof.issuedAtMs > ageMax(nonces)) return "time";
  if (request.accessToken === undefined) return undefined;
  if (proof.ath === undefined || !sameText(proof.ath, tokenHash(request.accessToken))) return "token_hash";
  return undefined;
}

/** `ath` (RFC 9449, section 4.2): base64url of the SHA-256 of the token's ASCII. */
export function tokenHash(accessToken: string): string {
  return createHash("sha256").update(accessToken).digest("base64url");
}

function ageMax(nonces: Nonces | undefined): number {
  return nonces === undefined ? PROOF_AGE_MS : PROOF_AGE_WITH_NONCE_MS;
}

function sameText(left: string, right: string): boolean {
  const [a, b] = [Buffer.from(left), Buffer.from(right)];
  return a.length === b.length && timingSafeEqual(a, b);
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function objectOf(encoded: string): Readonly<Record<string, unknown>> | undefined {
  const bytes = decodeBase64url(encoded);
  if (bytes === undefined) return undefined;
  try {
    const value: unknown = JSON.parse(utf8.decode(bytes));
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined; // fails closed: not a proof
  }
}

/** NumericDate within what a date can hold. */
function isSeconds(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 && value <= 253_402_300_799;
}

function isTextOrAbsent(value: unknown): value is string | undefined {
  return value === undefined || typeof value === "string";
}

function invalid(why: DpopFault): DpopOutcome {
  return { kind: "invalid", why };
}
