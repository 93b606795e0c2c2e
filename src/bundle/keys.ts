/** Signing keys: made, read and written as JSON Web Keys (RFC 7517, RFC 8037). */

import { createPrivateKey, createPublicKey, generateKeyPairSync } from "node:crypto";
import type { TrustedKey } from "../model/bundle.ts";
import { OperatingError } from "../model/errors.ts";
import type { SigningKey } from "./jws.ts";
import { thumbprint } from "./trust.ts";

/** PKCS #8 of an Ed25519 key before its 32 private bytes (RFC 8410, section 7). */
const PKCS8_HEAD = Buffer.from("302e020100300506032b657004220420", "hex");

const OWNER_MAX = 256;

/** Makes a new key. */
export function makeSigningKey(owner: string): SigningKey {
  const { x, d } = generateKeyPairSync("ed25519").privateKey.export({ format: "jwk" });
  if (x === undefined || d === undefined) throw new RangeError("a new Ed25519 key has x and d");
  return { kid: thumbprint(x), x, d, owner };
}

/** The text of a private key file. It must reach nothing but that file. */
export function writeSigningKey({ kid, x, d, owner }: SigningKey): string {
  return `${JSON.stringify({ kty: "OKP", crv: "Ed25519", kid, x, d, alg: "EdDSA", use: "sig", owner }, undefined, 2)}\n`;
}

/** The text of a public key file. */
export function writePublicKey({ kid, x, owner }: TrustedKey): string {
  return `${JSON.stringify({ kty: "OKP", crv: "Ed25519", kid, x, alg: "EdDSA", use: "sig", owner }, undefined, 2)}\n`;
}

/**
 * Reads a private key file.
 * @throws {OperatingError} ERR_KEY_INVALID; its message holds nothing of the key
 */
export function readSigningKey(text: string, file: string): SigningKey {
  const { key, d } = readJwk(text, file);
  if (d === undefined) throw invalid(file, "a private key", "a public one");
  if (d === "" || publicPartOf(d) !== key.x) throw invalid(file, "a private part d that belongs to x", "another");
  return { ...key, d };
}

/**
 * Reads a public key file. A private one is refused: it is not to lie where public ones do.
 * @throws {OperatingError} ERR_KEY_INVALID
 */
export function readPublicKey(text: string, file: string): TrustedKey {
  const { key, d } = readJwk(text, file);
  if (d !== undefined) throw invalid(file, "a public key", "a private one; take the .pub file beside it");
  return key;
}

function readJwk(text: string, file: string): { readonly key: TrustedKey; readonly d: string | undefined } {
  let jwk: unknown;
  try {
    jwk = JSON.parse(text);
  } catch {
    // Fails closed, and without the cause: the message of a parser may repeat the text, which may be a private key.
    throw invalid(file, "a JSON Web Key", "something that is no JSON");
  }
  if (typeof jwk !== "object" || jwk === null || Array.isArray(jwk)) throw invalid(file, "a JSON Web Key", "no object");
  const { kty, crv, x, d, kid, owner = "" } = jwk as Record<string, unknown>;
  if (kty !== "OKP" || crv !== "Ed25519") throw invalid(file, "a key of kty OKP and crv Ed25519", "another kind");
  if (typeof x !== "string" || !isKeyText(x)) throw invalid(file, "x of 32 bytes as base64url", "another value");
  if (d !== undefined && typeof d !== "string") throw invalid(file, "d as text", "another type");
  if (kid !== undefined && kid !== thumbprint(x)) {
    throw invalid(file, `kid ${thumbprint(x)}, the RFC 7638 thumbprint of x, or none`, "another");
  }
  if (typeof owner !== "string" || owner.length > OWNER_MAX) {
    throw invalid(file, `an owner of at most ${OWNER_MAX} characters`, "another value");
  }
  return { key: { kid: thumbprint(x), x, owner }, d };
}

function publicPartOf(d: string): string | undefined {
  if (!isKeyText(d)) return undefined;
  const der = Buffer.concat([PKCS8_HEAD, Buffer.from(d, "base64url")]);
  return createPublicKey(createPrivateKey({ key: der, format: "der", type: "pkcs8" })).export({ format: "jwk" }).x;
}

function isKeyText(text: string): boolean {
  const bytes = Buffer.from(text, "base64url");
  return bytes.byteLength === 32 && bytes.toString("base64url") === text;
}

function invalid(file: string, expected: string, got: string): OperatingError {
  return new OperatingError("ERR_KEY_INVALID", `${file}: expected ${expected}, got ${got}`);
}
