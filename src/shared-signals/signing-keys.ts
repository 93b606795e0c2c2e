/** The keys that our own tokens are signed with: the first signs, all are published. */

import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { CompactSign, calculateJwkThumbprint, type JWK } from "jose";
import { OperatingError } from "../model/errors.ts";

/** CAEP's interoperability profile, section 2.6, asks for at least so many with RS256. */
const RSA_BITS_MIN = 2_048;

export interface SigningKey {
  readonly kid: string;
  readonly alg: "EdDSA" | "ES256" | "RS256";
  readonly key: KeyObject;
  /** Public, with `kid`, `alg` and `use`. */
  readonly jwk: JWK;
}

/**
 * Reads a private key: PKCS #8 PEM or JWK.
 * @param file its name, for messages
 * @throws {OperatingError} ERR_KEY_INVALID; the message holds nothing of the key
 */
export async function readSigningKey(text: string, file: string): Promise<SigningKey> {
  let key: KeyObject;
  try {
    const trimmed = text.trim();
    key = trimmed.startsWith("{")
      ? createPrivateKey({ key: JSON.parse(trimmed), format: "jwk" })
      : createPrivateKey(trimmed);
  } catch {
    // Fails closed; the parser's own message might repeat parts of the key.
    throw invalid(file, "a private key as PKCS #8 PEM or JWK", "something else");
  }
  const alg = algorithmOf(key, file);
  const exported = createPublicKey(key).export({ format: "jwk" }) as JWK;
  const kid = await calculateJwkThumbprint(exported);
  return { kid, alg, key, jwk: { ...exported, kid, alg, use: "sig" } };
}

function algorithmOf(key: KeyObject, file: string): SigningKey["alg"] {
  const wanted = `an Ed25519 or P-256 key, or RSA of at least ${RSA_BITS_MIN} bits`;
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  if (type === "ed25519") return "EdDSA";
  if (type === "ec" && details?.namedCurve === "prime256v1") return "ES256";
  if (type === "rsa" && (details?.modulusLength ?? 0) >= RSA_BITS_MIN) return "RS256";
  throw invalid(file, wanted, `${type ?? "a key"} ${details?.namedCurve ?? details?.modulusLength ?? ""}`.trim());
}

/** Signs the claims of a security event token (RFC 8417, section 2.3 names its type). */
export function signSet(claims: Readonly<Record<string, unknown>>, { key, alg, kid }: SigningKey): Promise<string> {
  return new CompactSign(new TextEncoder().encode(JSON.stringify(claims)))
    .setProtectedHeader({ typ: "secevent+jwt", alg, kid })
    .sign(key);
}

function invalid(file: string, expected: string, got: string): OperatingError {
  return new OperatingError("ERR_KEY_INVALID", `${file}: expected ${expected}, got ${got}`);
}
