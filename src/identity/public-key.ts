/** Tells what public key a certificate holds (RFC 5280, section 4.1.2.7). */

import { type DerCursor, DerError, NONE, type Span, TAG } from "./der.ts";

/** SubjectPublicKeyInfo, of the right form; its key need not be. */
export interface PublicKeyInfo {
  /** All of it, with tag and length. */
  readonly whole: Span;
  /** Encoded OBJECT IDENTIFIER, one character an octet. */
  readonly algorithm: string;
  /** Tag of the algorithm's parameters; {@link NONE} without any. */
  readonly parameters: number;
  /** The parameters where they are an OBJECT IDENTIFIER, as `algorithm`. */
  readonly curve: string | undefined;
  readonly key: Span;
}

/** @throws {DerError} when what comes is no SubjectPublicKeyInfo */
export function readPublicKeyInfo(der: DerCursor): PublicKeyInfo {
  const whole = der.whole(TAG.sequence);
  const info = der.enterPassed();
  const algorithm = der.enter(TAG.sequence);
  der.objectIdentifier();
  const name = der.latin1();
  const parameters = der.next();
  let curve: string | undefined;
  if (parameters === TAG.objectIdentifier) {
    der.objectIdentifier();
    curve = der.latin1();
  } else if (parameters !== NONE) der.passAny();
  der.leave(algorithm);
  der.octetsInBits();
  const key = { start: der.start, end: der.end };
  der.leave(info);
  return { whole, algorithm: name, parameters, curve, key };
}

function encoded(hex: string): string {
  return Buffer.from(hex, "hex").toString("latin1");
}

/** RFC 3279, section 2.3, RFC 4055, section 1.2, and RFC 5480, section 2.1.1. */
const RSA = encoded("2a864886f70d010101");
const RSA_PSS = encoded("2a864886f70d01010a");
const DSA = encoded("2a8648ce380401");
const ELLIPTIC_CURVE = encoded("2a8648ce3d0201");

/** RFC 8410, with the length of a key in bytes. */
const EDWARDS_AND_MONTGOMERY: ReadonlyMap<string, readonly [name: string, keyBytes: number]> = new Map([
  [encoded("2b656e"), ["x25519", 32]],
  [encoded("2b656f"), ["x448", 56]],
  [encoded("2b6570"), ["Ed25519", 32]],
  [encoded("2b6571"), ["ed448", 57]],
]);

/** RFC 5480, section 2.1.1.1, SEC 2 and RFC 5639, with the length of a coordinate in bytes. */
const CURVES: ReadonlyMap<string, readonly [name: string, coordinateBytes: number]> = new Map([
  [encoded("2a8648ce3d030101"), ["EC prime192v1", 24]],
  [encoded("2b81040021"), ["EC secp224r1", 28]],
  [encoded("2a8648ce3d030107"), ["EC P-256", 32]],
  [encoded("2b81040022"), ["EC P-384", 48]],
  [encoded("2b81040023"), ["EC P-521", 66]],
  [encoded("2b8104000a"), ["EC secp256k1", 32]],
  [encoded("2b2403030208010107"), ["EC brainpoolP256r1", 32]],
  [encoded("2b240303020801010b"), ["EC brainpoolP384r1", 48]],
  [encoded("2b240303020801010d"), ["EC brainpoolP512r1", 64]],
]);

/**
 * The key's kind and size, as `EC P-256` or `RSA 2048`; `undefined` for a kind that is not known, and for a key that is not
 * of the form that its kind has. Whether a point lies on its curve is for those to know who verify something with it.
 * @param der begins anew, at the key
 */
export function keyOf({ algorithm, parameters, curve, key }: PublicKeyInfo, der: DerCursor): string | undefined {
  switch (algorithm) {
    case ELLIPTIC_CURVE:
      return curveOf(curve, der.bytes[key.start], key.end - key.start);
    case RSA: {
      const bits = modulusBits(der, key);
      return bits === undefined ? undefined : `RSA ${bits}`;
    }
    case RSA_PSS:
      if (parameters !== NONE && parameters !== TAG.sequence) return undefined;
      return modulusBits(der, key) === undefined ? undefined : "rsa-pss";
    case DSA:
      return parameters === TAG.sequence ? "dsa" : undefined;
  }
  const [name, keyBytes] = EDWARDS_AND_MONTGOMERY.get(algorithm) ?? [];
  return parameters === NONE && key.end - key.start === keyBytes ? name : undefined;
}

/** SEC 1, section 2.3.3: first octet of a point, compressed or not. */
const COMPRESSED_EVEN = 2;
const COMPRESSED_ODD = 3;
const UNCOMPRESSED = 4;

function curveOf(curve: string | undefined, form: number | undefined, pointBytes: number): string | undefined {
  const isWhole = form === UNCOMPRESSED;
  if (!isWhole && form !== COMPRESSED_EVEN && form !== COMPRESSED_ODD) return undefined;
  const known = curve === undefined ? undefined : CURVES.get(curve);
  if (known === undefined) return "EC unknown curve";
  const [name, coordinateBytes] = known;
  return pointBytes === 1 + (isWhole ? 2 : 1) * coordinateBytes ? name : undefined;
}

/** Of RSAPublicKey (RFC 8017, appendix A.1.1). */
function modulusBits(der: DerCursor, key: Span): number | undefined {
  try {
    der.begin(der.bytes, key.start, key.end);
    const numbers = der.enter(TAG.sequence);
    der.integer();
    const { start, end } = der;
    der.integer();
    der.leave(numbers);
    der.leave(key.end);
    const first = der.bytes[start] as number;
    if (first >= 0x80) return undefined;
    // A number whose highest bit is set has a zero before it.
    if (first > 0 || end - start === 1) return 8 * (end - start) - (Math.clz32(first) - 24);
    return 8 * (end - start - 1);
  } catch (error) {
    if (error instanceof DerError) return undefined; // keeps the certificate: only its key is none
    throw error;
  }
}
