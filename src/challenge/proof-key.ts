/** Public keys that proofs are made with: read strictly, named by thumbprint, and tied to the algorithms that fit them. */

import { constants, createHash, createPublicKey, type KeyObject, verify as verifyBytes } from "node:crypto";
import { decodeBase64url } from "./base64url.ts";

export type ProofKeyType = "P-256" | "P-384" | "P-521" | "Ed25519" | "RSA";

export interface ProofKey {
  /** RFC 7638 with SHA-256, base64url: what `cnf.jkt` holds. */
  readonly thumbprint: string;
  readonly type: ProofKeyType;
  readonly key: KeyObject;
  /** `kid` as its publisher named it. */
  readonly kid: string | undefined;
  /** `alg` of the JWK: when present, the key is for that algorithm only. */
  readonly alg: string | undefined;
}

export type ParsedKey =
  | { readonly ok: true; readonly key: ProofKey }
  | { readonly ok: false; readonly why: "key_malformed" | "key_private" | "key_unsupported" | "key_size" };

/** JWS algorithms (RFC 7518, 8037, 9864) that proofs may use. Symmetric ones and `none` are not among them. */
export const JWS_ALGORITHMS = [
  "ES256",
  "ES384",
  "ES512",
  "EdDSA",
  "Ed25519",
  "PS256",
  "PS384",
  "PS512",
  "RS256",
  "RS384",
  "RS512",
] as const;
export type JwsAlgorithm = (typeof JWS_ALGORITHMS)[number];

/** Below, a key can be factored; above, verifying costs more than a request is worth. */
const RSA_BITS_MIN = 2048;
const RSA_BITS_MAX = 4096;
/** Public exponents are small odd numbers; a huge one makes verifying slow, and 1 verifies anything. */
const RSA_EXPONENT_BYTES_MAX = 4;
const RSA_EXPONENT_MIN = 3;
const KID_CHARS_MAX = 256;

const PRIVATE_MEMBERS = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
const CURVE_BYTES: Readonly<Record<string, number>> = { "P-256": 32, "P-384": 48, "P-521": 66 };

/** A JWK after all checks but the import itself, which is the costly part. */
export type ReadKey =
  | {
      readonly ok: true;
      readonly thumbprint: string;
      readonly type: ProofKeyType;
      readonly members: Readonly<Record<string, string>>;
      readonly kid: string | undefined;
      readonly alg: string | undefined;
    }
  | Extract<ParsedKey, { readonly ok: false }>;

/** Reads a public JWK (RFC 7517) of unknown origin: no private members, one spelling, sizes within bounds. */
export function readJwk(jwk: unknown): ReadKey {
  if (typeof jwk !== "object" || jwk === null || Array.isArray(jwk)) return { ok: false, why: "key_malformed" };
  const members = jwk as Readonly<Record<string, unknown>>;
  if (PRIVATE_MEMBERS.some((name) => Object.hasOwn(members, name))) return { ok: false, why: "key_private" };
  if (!isForVerifying(members)) return { ok: false, why: "key_unsupported" };
  const shape = shapeOf(members);
  if (!("members" in shape)) return shape;
  // RFC 7638, section 3.2: the required members in the order of their names.
  const ordered = Object.fromEntries(Object.entries(shape.members).sort(([a], [b]) => (a < b ? -1 : 1)));
  return {
    ok: true,
    thumbprint: createHash("sha256").update(JSON.stringify(ordered)).digest("base64url"),
    type: shape.type,
    members: ordered,
    kid: text(members.kid),
    alg: text(members.alg),
  };
}

/** Imports a key that {@link readJwk} found well formed. A point off its curve is found out here. */
export function importKey(read: Extract<ReadKey, { readonly ok: true }>): ParsedKey {
  const { thumbprint, type, members, kid, alg } = read;
  try {
    return {
      ok: true,
      key: { thumbprint, type, kid, alg, key: createPublicKey({ key: { ...members }, format: "jwk" }) },
    };
  } catch {
    return { ok: false, why: "key_malformed" }; // fails closed: no such key exists
  }
}

export function parseJwk(jwk: unknown): ParsedKey {
  const read = readJwk(jwk);
  return read.ok ? importKey(read) : read;
}

/** A certificate's or an application's public key, under the same bounds. */
export function parseKeyObject(key: KeyObject): ParsedKey {
  try {
    return parseJwk(key.export({ format: "jwk" }));
  } catch {
    return { ok: false, why: "key_unsupported" }; // fails closed: a kind of key that JWK cannot say
  }
}

/** Whether `algorithm` is one for keys of this type. A key that names its own algorithm is for no other. */
export function fits(key: Pick<ProofKey, "type" | "alg">, algorithm: JwsAlgorithm): boolean {
  if (key.alg !== undefined && key.alg !== algorithm && !(isEdwards(key.alg) && isEdwards(algorithm))) return false;
  switch (key.type) {
    case "P-256":
      return algorithm === "ES256";
    case "P-384":
      return algorithm === "ES384";
    case "P-521":
      return algorithm === "ES512";
    case "Ed25519":
      return isEdwards(algorithm);
    case "RSA":
      return algorithm.startsWith("PS") || algorithm.startsWith("RS");
  }
}

/** Verifies with parameters that follow from the algorithm alone; the caller has made sure that it fits the key. */
export function verifyJws(algorithm: JwsAlgorithm, key: ProofKey, data: Uint8Array, signature: Uint8Array): boolean {
  switch (algorithm) {
    case "ES256":
      return verifyEcdsa("sha256", key, data, signature, 64);
    case "ES384":
      return verifyEcdsa("sha384", key, data, signature, 96);
    case "ES512":
      return verifyEcdsa("sha512", key, data, signature, 132);
    case "EdDSA":
    case "Ed25519":
      return verifyEd25519(key, data, signature);
    case "PS256":
    case "PS384":
    case "PS512":
      return verifyPss(`sha${algorithm.slice(2)}`, key, data, signature);
    case "RS256":
    case "RS384":
    case "RS512":
      return verifyPkcs1(`sha${algorithm.slice(2)}`, key, data, signature);
  }
}

/** @param bytes length of r and s together (IEEE P1363); DER is not accepted */
export function verifyEcdsa(
  hash: string,
  { key }: ProofKey,
  data: Uint8Array,
  signature: Uint8Array,
  bytes: number,
): boolean {
  if (signature.length !== bytes) return false;
  return attempt(() => verifyBytes(hash, data, { key, dsaEncoding: "ieee-p1363" }, signature));
}

export function verifyEd25519({ key }: ProofKey, data: Uint8Array, signature: Uint8Array): boolean {
  return signature.length === 64 && attempt(() => verifyBytes(null, data, key, signature));
}

/** RSASSA-PSS with MGF1 of the same hash and a salt as long as it (RFC 7518, section 3.5; RFC 9421, section 3.3.1). */
export function verifyPss(hash: string, { key }: ProofKey, data: Uint8Array, signature: Uint8Array): boolean {
  const saltLength = Number(hash.slice(3)) / 8;
  return attempt(() =>
    verifyBytes(hash, data, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength }, signature),
  );
}

export function verifyPkcs1(hash: string, { key }: ProofKey, data: Uint8Array, signature: Uint8Array): boolean {
  return attempt(() => verifyBytes(hash, data, { key, padding: constants.RSA_PKCS1_PADDING }, signature));
}

function attempt(verify: () => boolean): boolean {
  try {
    return verify();
  } catch {
    return false; // fails closed: what OpenSSL cannot read is not a signature
  }
}

function isForVerifying({ use, key_ops: operations }: Readonly<Record<string, unknown>>): boolean {
  if (use !== undefined && use !== "sig") return false;
  return operations === undefined || (Array.isArray(operations) && operations.includes("verify"));
}

type Shape =
  | { readonly type: ProofKeyType; readonly members: Readonly<Record<string, string>> }
  | Extract<ParsedKey, { readonly ok: false }>;

function shapeOf(jwk: Readonly<Record<string, unknown>>): Shape {
  switch (jwk.kty) {
    case "EC":
      return ecShape(jwk);
    case "OKP":
      return okpShape(jwk);
    case "RSA":
      return rsaShape(jwk);
    default:
      return { ok: false, why: "key_unsupported" };
  }
}

function ecShape({ crv, x, y }: Readonly<Record<string, unknown>>): Shape {
  const bytes = typeof crv === "string" && Object.hasOwn(CURVE_BYTES, crv) ? CURVE_BYTES[crv] : undefined;
  if (bytes === undefined) return { ok: false, why: "key_unsupported" };
  if (octets(x)?.length !== bytes || octets(y)?.length !== bytes) return { ok: false, why: "key_malformed" };
  return {
    type: crv as ProofKeyType,
    members: { kty: "EC", crv: crv as string, x: x as string, y: y as string },
  };
}

function okpShape({ crv, x }: Readonly<Record<string, unknown>>): Shape {
  if (crv !== "Ed25519") return { ok: false, why: "key_unsupported" };
  if (octets(x)?.length !== 32) return { ok: false, why: "key_malformed" };
  return { type: "Ed25519", members: { kty: "OKP", crv, x: x as string } };
}

function rsaShape({ n, e }: Readonly<Record<string, unknown>>): Shape {
  const modulus = octets(n);
  const exponent = octets(e);
  // A leading zero byte would be a second spelling of the same key, and so a second thumbprint.
  if (modulus === undefined || !modulus[0] || exponent === undefined || !exponent[0]) {
    return { ok: false, why: "key_malformed" };
  }
  const bits = modulus.length * 8 - Math.clz32(modulus[0]) + 24;
  if (bits < RSA_BITS_MIN || bits > RSA_BITS_MAX || exponent.length > RSA_EXPONENT_BYTES_MAX) {
    return { ok: false, why: "key_size" };
  }
  const value = exponent.readUIntBE(0, exponent.length);
  if (value < RSA_EXPONENT_MIN || value % 2 === 0) return { ok: false, why: "key_size" };
  return { type: "RSA", members: { kty: "RSA", n: n as string, e: e as string } };
}

/** Longest member: the modulus of the largest RSA key. */
const MEMBER_CHARS_MAX = Math.ceil((RSA_BITS_MAX / 6) * 2);

function octets(value: unknown): Buffer | undefined {
  return typeof value === "string" && value.length <= MEMBER_CHARS_MAX ? decodeBase64url(value) : undefined;
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value.length <= KID_CHARS_MAX ? value : undefined;
}

function isEdwards(algorithm: string): boolean {
  return algorithm === "EdDSA" || algorithm === "Ed25519";
}
