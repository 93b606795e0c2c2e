/** JSON Web Signatures of bundles: general JSON form (RFC 7515, 7.2.1), Ed25519 (RFC 8037), several signers. */

import type { TrustedKey } from "../model/bundle.ts";
import { OperatingError } from "../model/errors.ts";

/** What a signature is over; one can never stand in for the other. */
export type JwsType = "sallyport-manifest+jws" | "sallyport-root+jws";

/** Most signatures of one text: those of a hundred keys that sign and of a hundred that leave. */
export const SIGNATURES_MAX = 200;

/** Both names of one algorithm: RFC 8037's, which is written, and RFC 9864's. */
const ALGORITHMS = ["EdDSA", "Ed25519"];

/** Text and payload bytes of a signed part, of which no signature was looked at. */
export interface Jws {
  /** base64url, as it is signed. */
  readonly payload: string;
  readonly bytes: Uint8Array;
  readonly signatures: readonly unknown[];
}

/** Whose signatures fit, and what is to be said of the others. */
export interface Signers {
  readonly kids: ReadonlySet<string>;
  readonly warnings: readonly string[];
}

/** A private Ed25519 key. */
export interface SigningKey extends TrustedKey {
  /** The private part (RFC 8037 `d`), base64url. Never shown. */
  readonly d: string;
}

/**
 * Reads the text of a JWS. It may have no signatures yet.
 *
 * @param label where it stands, for messages
 * @throws {OperatingError} ERR_BUNDLE_INVALID
 */
export function readJws(text: string, label: string): Jws {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    // Fails closed: what cannot be read is not verified.
    throw new OperatingError("ERR_BUNDLE_INVALID", `${label}: expected a JWS in JSON, got another text`, { cause });
  }
  if (!isObject(value) || !hasExactly(value, ["payload", "signatures"])) {
    throw invalid(label, "a JWS of payload and signatures", "another JSON value");
  }
  const { payload, signatures } = value;
  if (typeof payload !== "string" || !Array.isArray(signatures)) {
    throw invalid(label, "a JWS of payload and signatures", "values of other types");
  }
  if (signatures.length > SIGNATURES_MAX) {
    throw invalid(label, `at most ${SIGNATURES_MAX} signatures`, `${signatures.length}`);
  }
  const bytes = fromBase64url(payload);
  if (bytes === undefined) throw invalid(label, "a payload in base64url", "another text");
  return { payload, bytes, signatures };
}

/** The text of a JWS. */
export function writeJws({ payload, signatures }: Pick<Jws, "payload" | "signatures">): string {
  return JSON.stringify({ payload, signatures });
}

/** A payload that nobody has signed yet. */
export function unsignedJws(bytes: Uint8Array): Jws {
  return { payload: Buffer.from(bytes).toString("base64url"), bytes, signatures: [] };
}

/** Adds the signature of a key in place of an earlier one of the same key; signatures stand in order of their keys. */
export async function addSignature(jws: Jws, type: JwsType, { kid, x, d }: SigningKey): Promise<Jws> {
  const { GeneralSign, importJWK } = await import("jose");
  const key = await importJWK({ kty: "OKP", crv: "Ed25519", x, d }, "EdDSA");
  const { signatures } = await new GeneralSign(jws.bytes)
    .addSignature(key)
    .setProtectedHeader({ alg: "EdDSA", kid, typ: type })
    .sign();
  const others = jws.signatures.filter((signature) => kidOf(signature) !== kid);
  const all = [...others, ...signatures].sort((a, b) => ((kidOf(a) ?? "") < (kidOf(b) ?? "") ? -1 : 1));
  if (all.length > SIGNATURES_MAX) {
    throw new OperatingError("ERR_BUNDLE_INVALID", `expected at most ${SIGNATURES_MAX} signatures, got one more`);
  }
  return { ...jws, signatures: all };
}

/** Which of the keys have signed. A signature that does not fit counts for nothing, and takes nothing from the others. */
export async function signersOf(jws: Jws, type: JwsType, keys: readonly TrustedKey[], label: string): Promise<Signers> {
  const kids = new Set<string>();
  const warnings: string[] = [];
  for (const [index, signature] of jws.signatures.entries()) {
    const outcome = await check(jws.payload, signature, type, keys);
    if ("fault" in outcome) warnings.push(`${label}: signature ${index + 1} does not count: ${outcome.fault}`);
    else if (kids.has(outcome.kid)) {
      warnings.push(`${label}: signature ${index + 1} does not count: its key ${outcome.kid} has signed already`);
    } else kids.add(outcome.kid);
  }
  return { kids, warnings };
}

/** The key that a signature says it is by; `undefined` where it says none that could be. Nothing is verified. */
export function kidOf(signature: unknown): string | undefined {
  const header = isObject(signature) ? readHeader(signature.protected) : undefined;
  return typeof header?.kid === "string" && /^[\w-]{43}$/.test(header.kid) ? header.kid : undefined;
}

async function check(
  payload: string,
  signature: unknown,
  type: JwsType,
  keys: readonly TrustedKey[],
): Promise<{ readonly kid: string } | { readonly fault: string }> {
  if (!isObject(signature) || !hasExactly(signature, ["protected", "signature"])) {
    return { fault: "expected a protected header and a signature and nothing else" };
  }
  const header = readHeader(signature.protected);
  // Whatever else a header may hold either changes what is verified (`crit`, `b64`) or offers a key of its own.
  if (header === undefined || !hasExactly(header, ["alg", "kid", "typ"])) {
    return { fault: "expected a protected header of alg, kid and typ and nothing else" };
  }
  if (!ALGORITHMS.includes(header.alg as string)) return { fault: `expected alg ${ALGORITHMS.join(" or ")}` };
  if (header.typ !== type) return { fault: `expected typ ${type}` };
  const kid = kidOf(signature);
  if (kid === undefined) return { fault: "expected the thumbprint of a key as kid" };
  const key = keys.find((candidate) => candidate.kid === kid);
  if (key === undefined) return { fault: `key ${kid} is not among those that are trusted` };
  if (typeof signature.signature !== "string" || fromBase64url(signature.signature)?.byteLength !== 64) {
    return { fault: "expected a signature of 64 bytes as base64url" };
  }
  const { flattenedVerify, importJWK } = await import("jose"); // of no use for what is not signed
  try {
    await flattenedVerify(
      { payload, protected: signature.protected as string, signature: signature.signature },
      await importJWK({ kty: "OKP", crv: "Ed25519", x: key.x }, "EdDSA"),
      { algorithms: ALGORITHMS },
    );
    return { kid };
  } catch {
    // Fails closed: a signature counts only once it was verified.
    return { fault: `it does not fit key ${kid} (${key.owner === "" ? "of nobody named" : key.owner})` };
  }
}

function readHeader(text: unknown): Record<string, unknown> | undefined {
  const bytes = typeof text === "string" ? fromBase64url(text) : undefined;
  if (bytes === undefined) return undefined;
  try {
    const header: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return isObject(header) ? header : undefined;
  } catch {
    // Fails closed: a signature without a readable header does not count.
    return undefined;
  }
}

/** Bytes of a text in base64url as it is written in the one right way; `undefined` for any other text. */
function fromBase64url(text: string): Uint8Array | undefined {
  const bytes = Buffer.from(text, "base64url");
  return bytes.toString("base64url") === text ? bytes : undefined;
}

function hasExactly(value: Record<string, unknown>, names: readonly string[]): boolean {
  const found = Object.keys(value);
  return found.length === names.length && names.every((name) => Object.hasOwn(value, name));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(label: string, expected: string, got: string): OperatingError {
  return new OperatingError("ERR_BUNDLE_INVALID", `${label}: expected ${expected}, got ${got}`);
}
