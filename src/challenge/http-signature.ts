/** Verifies HTTP message signatures (RFC 9421, section 3.2) that answer a challenge, from plain facts and without waiting. */

import { createHash } from "node:crypto";
import { type EpochMs, MINUTE_MS, SECOND_MS } from "../model/units.ts";
import type { BoundKey } from "./bound.ts";
import type { Nonces } from "./nonce.ts";
import { type ProofKey, verifyEcdsa, verifyEd25519, verifyPkcs1, verifyPss } from "./proof-key.ts";
import type { ReplayMemory } from "./replay.ts";
import { type BaseFault, type SignedRequest, signatureBase } from "./signature-base.ts";
import { type InnerList, type Parameters, parseDictionary, serialiseItem } from "./structured-fields.ts";

/** Asymmetric algorithms of the registry (RFC 9421, section 3.3). A shared secret proves nothing about who signed. */
export const SIGNATURE_ALGORITHMS = [
  "ecdsa-p256-sha256",
  "ecdsa-p384-sha384",
  "ed25519",
  "rsa-pss-sha512",
  "rsa-v1_5-sha256",
] as const;
export type SignatureAlgorithm = (typeof SIGNATURE_ALGORITHMS)[number];

/** Stable reasons why a signature failed; public in logs and metrics: add, never rename. */
export type SignatureFault =
  | BaseFault
  | "malformed"
  | "not_covered"
  | "tag"
  | "created"
  | "expired"
  | "algorithm"
  | "key_unknown"
  | "key_not_bound"
  | "signature"
  | "replayed";

export type SignatureOutcome =
  | {
      readonly kind: "valid";
      readonly thumbprint: string;
      readonly label: string;
      readonly nonceIssuedAt: EpochMs | undefined;
    }
  /** No signature was sent, or none for us. */
  | { readonly kind: "missing" }
  /** A sound signature by a key that counts, but not known to be made just now. */
  | { readonly kind: "wants_nonce"; readonly why: "absent" | "stale" | "unknown" | "forgotten" }
  | { readonly kind: "invalid"; readonly why: SignatureFault };

/** What a signature must hold to answer. */
export interface SignatureDemand {
  /** Component identifiers as they are written, for example `"@method"` with its quotes; all must be covered. */
  readonly covered: readonly string[];
  /** Signatures with another `tag`, or none, are not for us. */
  readonly tag: string;
  /** RSASSA-PKCS1-v1_5 is accepted only where this says so. */
  readonly allowPkcs1: boolean;
}

export interface SignatureContext {
  readonly now: EpochMs;
  /** The keys that may answer. */
  readonly keys: readonly BoundKey[];
  readonly nonces: Nonces | undefined;
  readonly replays: ReplayMemory;
  readonly demand: SignatureDemand;
}

/** Names the signatures that are meant for us. */
export const SIGNATURE_TAG = "sallyport";
/** Method and target, and the nonce that is among the parameters. */
export const COVERED_MIN = ['"@method"', '"@authority"', '"@path"'] as const;

/** Signatures looked at in one request, and keys tried for one that names none: every try costs a verification. */
const SIGNATURES_MAX = 2;
const KEYS_TRIED_MAX = 4;
export const SIGNATURE_AGE_MS = MINUTE_MS;
export const SIGNATURE_AGE_WITH_NONCE_MS = 5 * MINUTE_MS;
export const SIGNATURE_SKEW_MS = 10 * SECOND_MS;

/**
 * Looks at the signatures that carry our tag; one that verifies is enough, and of several failures the first is told.
 * `expires` and `created` are both held; a signature without `created` is refused.
 */
export function verifyHttpSignature(request: SignedRequest, context: SignatureContext): SignatureOutcome {
  const inputs = request.values("signature-input");
  const signatures = request.values("signature");
  if (inputs.length === 0 && signatures.length === 0) return { kind: "missing" };
  const inputMembers = parseDictionary(inputs.join(", "));
  const signatureMembers = parseDictionary(signatures.join(", "));
  if (inputMembers === undefined || signatureMembers === undefined) return invalid("malformed");
  let failure: SignatureOutcome | undefined;
  let looked = 0;
  for (const [label, input] of inputMembers) {
    if (input.kind !== "inner_list" || stringOf(input.parameters, "tag") !== context.demand.tag) continue;
    if (++looked > SIGNATURES_MAX) break;
    const signature = signatureMembers.get(label);
    const outcome =
      signature?.kind === "item" && signature.value.kind === "bytes"
        ? verifyOne(request, context, label, input, signature.value.value)
        : invalid("malformed");
    if (outcome.kind === "valid") return outcome;
    failure ??= outcome;
  }
  return failure ?? { kind: "missing" };
}

function verifyOne(
  request: SignedRequest,
  context: SignatureContext,
  label: string,
  input: InnerList,
  signature: Buffer,
): SignatureOutcome {
  const fault = parametersFault(input, context);
  if (fault !== undefined) return invalid(fault);
  const candidates = keysFor(input.parameters, context.keys);
  if (typeof candidates === "string") return invalid(candidates);
  const base = signatureBase(request, input);
  if (!base.ok) return invalid(base.why);
  const data = Buffer.from(base.base);
  const named = stringOf(input.parameters, "alg");
  let fitting = 0;
  for (const key of candidates) {
    const algorithm = algorithmOf(key, named, context.demand.allowPkcs1);
    if (algorithm === undefined) continue;
    if (++fitting > KEYS_TRIED_MAX) break;
    if (verifySignature(algorithm, key, data, signature)) return admit(context, label, input, data, key);
  }
  return invalid(fitting === 0 ? "algorithm" : "signature");
}

function parametersFault(input: InnerList, { demand, now, nonces }: SignatureContext): SignatureFault | undefined {
  const covered = new Set(input.items.map(serialiseItem));
  if (![...COVERED_MIN, ...demand.covered].every((identifier) => covered.has(identifier))) return "not_covered";
  for (const name of ["alg", "keyid", "nonce"]) {
    if (input.parameters.has(name) && stringOf(input.parameters, name) === undefined) return "malformed";
  }
  const createdMs = timeOf(input.parameters, "created");
  const ageMax = nonces === undefined ? SIGNATURE_AGE_MS : SIGNATURE_AGE_WITH_NONCE_MS;
  if (createdMs === undefined || createdMs > now + SIGNATURE_SKEW_MS || now - createdMs > ageMax) return "created";
  if (!input.parameters.has("expires")) return undefined;
  const expiresMs = timeOf(input.parameters, "expires");
  return expiresMs === undefined || expiresMs < now ? "expired" : undefined;
}

/** By `keyid`, which is the key's `kid` or its thumbprint; without one, any key that counts may have signed. */
function keysFor(parameters: Parameters, keys: readonly BoundKey[]): readonly ProofKey[] | SignatureFault {
  const known = keys.flatMap(({ key }) => (key === undefined ? [] : [key]));
  if (known.length === 0) return "key_not_bound";
  const keyId = stringOf(parameters, "keyid");
  if (keyId === undefined) return known;
  const named = known.filter(({ kid, thumbprint }) => kid === keyId || thumbprint === keyId);
  return named.length === 0 ? "key_unknown" : named;
}

/** The key decides; what the message says may only agree (RFC 9421, section 3.2, step 6). */
export function algorithmOf(
  { type, alg }: Pick<ProofKey, "type" | "alg">,
  named: string | undefined,
  allowPkcs1: boolean,
): SignatureAlgorithm | undefined {
  const possible = POSSIBLE[type]?.find(
    ([algorithm, jws]) =>
      (named === undefined || named === algorithm) &&
      (alg === undefined || jws.includes(alg)) &&
      (algorithm !== "rsa-v1_5-sha256" || (allowPkcs1 && (named === algorithm || alg === "RS256"))),
  );
  return possible?.[0];
}

const POSSIBLE: Readonly<Record<string, readonly (readonly [SignatureAlgorithm, readonly string[]])[]>> = {
  "P-256": [["ecdsa-p256-sha256", ["ES256"]]],
  "P-384": [["ecdsa-p384-sha384", ["ES384"]]],
  Ed25519: [["ed25519", ["EdDSA", "Ed25519"]]],
  RSA: [
    ["rsa-pss-sha512", ["PS512"]],
    ["rsa-v1_5-sha256", ["RS256"]],
  ],
};

export function verifySignature(
  algorithm: SignatureAlgorithm,
  key: ProofKey,
  data: Uint8Array,
  signature: Uint8Array,
): boolean {
  switch (algorithm) {
    case "ecdsa-p256-sha256":
      return verifyEcdsa("sha256", key, data, signature, 64);
    case "ecdsa-p384-sha384":
      return verifyEcdsa("sha384", key, data, signature, 96);
    case "ed25519":
      return verifyEd25519(key, data, signature);
    case "rsa-pss-sha512":
      return verifyPss("sha512", key, data, signature);
    case "rsa-v1_5-sha256":
      return verifyPkcs1("sha256", key, data, signature);
  }
}

function admit(
  { nonces, now, replays }: SignatureContext,
  label: string,
  input: InnerList,
  signed: Buffer,
  { thumbprint }: ProofKey,
): SignatureOutcome {
  let nonceIssuedAt: EpochMs | undefined;
  const nonce = stringOf(input.parameters, "nonce");
  if (nonces !== undefined) {
    if (nonce === undefined) return { kind: "wants_nonce", why: "absent" };
    const judged = nonces.judge("signature", nonce, now);
    if (judged.kind !== "fresh") return { kind: "wants_nonce", why: judged.kind };
    nonceIssuedAt = judged.issuedAt;
  }
  const createdMs = timeOf(input.parameters, "created") ?? now;
  // The longest age of all, as with DPoP proofs.
  const expiresAtMs = createdMs + SIGNATURE_AGE_WITH_NONCE_MS + SIGNATURE_SKEW_MS;
  // Not the signature's bytes: of an ECDSA signature anybody can make a second one that verifies as well. A nonce is
  // answered once by one key; without nonces, what was signed stands for the proof.
  const id = nonce === undefined ? createHash("sha256").update(signed).digest("base64url") : `nonce ${nonce}`;
  const madeAtMs = Math.max(createdMs, nonceIssuedAt ?? createdMs);
  switch (replays.admit(`signature ${thumbprint}`, id, madeAtMs, Math.max(expiresAtMs, madeAtMs), now)) {
    case "first":
      return { kind: "valid", thumbprint, label, nonceIssuedAt };
    case "replayed":
      return invalid("replayed");
    case "forgotten":
      return { kind: "wants_nonce", why: "forgotten" };
  }
}

function stringOf(parameters: Parameters, name: string): string | undefined {
  const value = parameters.get(name);
  return value?.kind === "string" ? value.value : undefined;
}

function timeOf(parameters: Parameters, name: string): number | undefined {
  const value = parameters.get(name);
  return value?.kind === "integer" ? value.value * SECOND_MS : undefined;
}

function invalid(why: SignatureFault): SignatureOutcome {
  return { kind: "invalid", why };
}
