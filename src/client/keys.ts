/** The caller's own key, in whatever form the application holds it, ready to make proofs with. */

import { constants, createPrivateKey, createPublicKey, KeyObject, sign, webcrypto } from "node:crypto";
import type { SignatureAlgorithm } from "../challenge/http-signature.ts";
import { type JwsAlgorithm, type ProofKeyType, readJwk } from "../challenge/proof-key.ts";

/**
 * A private key: Node's `KeyObject`, a private JWK, a WebCrypto pair (which need not be extractable), or a {@link Signer}
 * of the application's own, for keys that live in hardware or at a service.
 */
export type CallerKey = KeyObject | webcrypto.CryptoKeyPair | webcrypto.JsonWebKey | Signer;

export interface Signer {
  readonly algorithm: JwsAlgorithm;
  /** `undefined`: this key makes no HTTP message signatures. */
  readonly signatureAlgorithm: SignatureAlgorithm | undefined;
  /** Public members only. */
  readonly publicJwk: Readonly<Record<string, unknown>>;
  /** Signature over `data` by {@link algorithm}; of ECDSA, r and s side by side. */
  signJws(data: Uint8Array): Uint8Array | Promise<Uint8Array>;
  /** The same by {@link signatureAlgorithm}. */
  signMessage(data: Uint8Array): Uint8Array | Promise<Uint8Array>;
}

/** A {@link Signer} whose thumbprint is known. */
export interface NamedSigner extends Signer {
  /** RFC 7638: what a token is bound to by `cnf.jkt`. */
  readonly thumbprint: string;
}

/** @throws {TypeError} for a key that can make no proofs: the application gave the wrong one */
export function signerOf(key: CallerKey): NamedSigner {
  const signer = makeSigner(key);
  const read = readJwk(signer.publicJwk);
  if (!read.ok) throw new TypeError(`expected a key that can make proofs, got one that is refused: ${read.why}`);
  return {
    algorithm: signer.algorithm,
    signatureAlgorithm: signer.signatureAlgorithm,
    publicJwk: read.members,
    thumbprint: read.thumbprint,
    signJws: (data) => signer.signJws(data),
    signMessage: (data) => signer.signMessage(data),
  };
}

/** For keys whose public part is asked for asynchronously (WebCrypto); call once and keep the result. */
export async function signerOfPair({ privateKey, publicKey }: webcrypto.CryptoKeyPair): Promise<NamedSigner> {
  const jwk = await webcrypto.subtle.exportKey("jwk", publicKey);
  const form = formOfCryptoKey(privateKey);
  return signerOf({
    ...form,
    publicJwk: publicMembers(jwk),
    signJws: (data) => signWithCrypto(privateKey, data),
    signMessage: (data) => signWithCrypto(privateKey, data),
  });
}

export async function namedSigner(key: CallerKey): Promise<NamedSigner> {
  return isPair(key) ? signerOfPair(key) : signerOf(key);
}

function makeSigner(key: CallerKey): Signer {
  if (isPair(key)) throw new TypeError("a WebCrypto pair is read asynchronously: use signerOfPair");
  if ("signJws" in key) return key;
  const privateKey =
    key instanceof KeyObject ? key : createPrivateKey({ key: key as Record<string, unknown>, format: "jwk" });
  if (privateKey.type !== "private") throw new TypeError(`expected a private key, got a ${privateKey.type} one`);
  const publicJwk = publicMembers(createPublicKey(privateKey).export({ format: "jwk" }));
  const read = readJwk(publicJwk);
  if (!read.ok) throw new TypeError(`expected a key that can make proofs, got one that is refused: ${read.why}`);
  return { ...FORMS[read.type](privateKey), publicJwk };
}

type Form = Omit<Signer, "publicJwk">;

const ecdsa =
  (algorithm: JwsAlgorithm, signatureAlgorithm: SignatureAlgorithm | undefined, hash: string) =>
  (key: KeyObject): Form => {
    const signData = (data: Uint8Array): Uint8Array => sign(hash, data, { key, dsaEncoding: "ieee-p1363" });
    return { algorithm, signatureAlgorithm, signJws: signData, signMessage: signData };
  };

const FORMS: Readonly<Record<ProofKeyType, (key: KeyObject) => Form>> = {
  "P-256": ecdsa("ES256", "ecdsa-p256-sha256", "sha256"),
  "P-384": ecdsa("ES384", "ecdsa-p384-sha384", "sha384"),
  "P-521": ecdsa("ES512", undefined, "sha512"),
  Ed25519: (key) => {
    const signData = (data: Uint8Array): Uint8Array => sign(null, data, key);
    return { algorithm: "EdDSA", signatureAlgorithm: "ed25519", signJws: signData, signMessage: signData };
  },
  RSA: (key) => ({
    algorithm: "PS256",
    signatureAlgorithm: "rsa-pss-sha512",
    signJws: (data) => signPss("sha256", 32, key, data),
    signMessage: (data) => signPss("sha512", 64, key, data),
  }),
};

function signPss(hash: string, saltLength: number, key: KeyObject, data: Uint8Array): Uint8Array {
  return sign(hash, data, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength });
}

function formOfCryptoKey({ algorithm }: webcrypto.CryptoKey): Pick<Signer, "algorithm" | "signatureAlgorithm"> {
  const { name, namedCurve, hash } = algorithm as { name: string; namedCurve?: string; hash?: { name: string } };
  const bits = hash?.name.replace("SHA-", "") ?? "";
  switch (`${name} ${namedCurve ?? bits}`.trim()) {
    case "ECDSA P-256":
      return { algorithm: "ES256", signatureAlgorithm: "ecdsa-p256-sha256" };
    case "ECDSA P-384":
      return { algorithm: "ES384", signatureAlgorithm: "ecdsa-p384-sha384" };
    case "ECDSA P-521":
      return { algorithm: "ES512", signatureAlgorithm: undefined };
    case "Ed25519":
      return { algorithm: "EdDSA", signatureAlgorithm: "ed25519" };
    case "RSA-PSS 256":
      return { algorithm: "PS256", signatureAlgorithm: undefined };
    case "RSA-PSS 384":
      return { algorithm: "PS384", signatureAlgorithm: undefined };
    case "RSA-PSS 512":
      return { algorithm: "PS512", signatureAlgorithm: "rsa-pss-sha512" };
    case "RSASSA-PKCS1-v1_5 256":
      return { algorithm: "RS256", signatureAlgorithm: "rsa-v1_5-sha256" };
    default:
      throw new TypeError(`expected a signing key, got one for ${name}`);
  }
}

async function signWithCrypto(key: webcrypto.CryptoKey, data: Uint8Array): Promise<Uint8Array> {
  const { name, namedCurve, hash } = key.algorithm as { name: string; namedCurve?: string; hash?: { name: string } };
  const hashes: Readonly<Record<string, string>> = { "P-256": "SHA-256", "P-384": "SHA-384", "P-521": "SHA-512" };
  const parameters = {
    name,
    ...(namedCurve === undefined ? {} : { hash: hashes[namedCurve] as string }),
    ...(name === "RSA-PSS" ? { saltLength: Number(hash?.name.slice(4)) / 8 } : {}),
  };
  return new Uint8Array(await webcrypto.subtle.sign(parameters, key, data));
}

function publicMembers({ kty, crv, x, y, n, e }: webcrypto.JsonWebKey): Readonly<Record<string, unknown>> {
  const members = { kty, crv, x, y, n, e };
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}

function isPair(key: CallerKey): key is webcrypto.CryptoKeyPair {
  return "privateKey" in key && "publicKey" in key;
}
