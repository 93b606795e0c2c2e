/** Builders of DPoP proofs, sound by default and wrong as a test asks. */

import { constants, createHash, generateKeyPairSync, type KeyObject, sign } from "node:crypto";

export interface TestKey {
  readonly privateKey: KeyObject;
  readonly jwk: Readonly<Record<string, unknown>>;
  readonly alg: string;
  readonly jkt: string;
}

export function testKey(alg = "ES256", bits = 2048): TestKey {
  const { publicKey, privateKey } = pairFor(alg, bits);
  const jwk = publicKey.export({ format: "jwk" }) as Record<string, unknown>;
  const required = { EC: ["crv", "kty", "x", "y"], OKP: ["crv", "kty", "x"], RSA: ["e", "kty", "n"] }[jwk.kty as "EC"];
  const members = JSON.stringify(Object.fromEntries(required.map((name) => [name, jwk[name]])));
  return { privateKey, jwk, alg, jkt: createHash("sha256").update(members).digest("base64url") };
}

function pairFor(alg: string, bits: number): { readonly publicKey: KeyObject; readonly privateKey: KeyObject } {
  if (alg === "EdDSA" || alg === "Ed25519") return generateKeyPairSync("ed25519");
  const curves: Readonly<Record<string, string>> = { ES256: "P-256", ES384: "P-384", ES512: "P-521" };
  const namedCurve = curves[alg];
  return namedCurve === undefined
    ? generateKeyPairSync("rsa", { modulusLength: bits })
    : generateKeyPairSync("ec", { namedCurve });
}

export function signJws(alg: string, key: KeyObject, data: string): Buffer {
  const bytes = Buffer.from(data);
  if (alg === "EdDSA" || alg === "Ed25519") return sign(null, bytes, key);
  const hash = `sha${alg.slice(2)}`;
  if (alg.startsWith("ES")) return sign(hash, bytes, { key, dsaEncoding: "ieee-p1363" });
  if (alg.startsWith("RS")) return sign(hash, bytes, key);
  return sign(hash, bytes, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: Number(alg.slice(2)) / 8 });
}

export function encode(value: unknown): string {
  return Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
}

/** A compact JWS of these parts; `undefined` members are left out. */
export function jws(header: Readonly<Record<string, unknown>>, claims: unknown, key: TestKey): string {
  const signed = `${encode(header)}.${encode(claims)}`;
  return `${signed}.${signJws(key.alg, key.privateKey, signed).toString("base64url")}`;
}

export function proofOf(
  key: TestKey,
  claims: Readonly<Record<string, unknown>>,
  header: Readonly<Record<string, unknown>> = {},
): string {
  return jws({ typ: "dpop+jwt", alg: key.alg, jwk: key.jwk, ...header }, claims, key);
}
