/** The certificate and key that the API server meets: read, checked against each other and the clock, never shown. */

import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { createSecureContext } from "node:tls";
import { OperatingError } from "../model/errors.ts";

export const KEY_PAIR_BYTES_MAX = 1024 * 1024;

export interface KeyPair {
  /** Chain, leaf first, PEM. */
  readonly cert: Buffer;
  /** PEM. Secret. */
  readonly key: Buffer;
  /** Milliseconds since the Unix epoch; of the certificate in the chain that begins last. */
  readonly notBeforeMs: number;
  /** Of the certificate in the chain that ends first: with it the whole chain fails. */
  readonly notAfterMs: number;
  /** SHA-256 of the leaf, lower-case hex, for logs. */
  readonly fingerprint: string;
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

/**
 * Reads a pair of PEM files.
 * @param names of the files, for messages
 * @throws {OperatingError} ERR_CONFIG_INVALID when one of them is not PEM or they do not belong together; what was
 *   found is not repeated, as it may be the key
 */
export function readKeyPair(
  cert: Buffer,
  key: Buffer,
  names: { readonly cert: string; readonly key: string },
): KeyPair {
  const chain = (cert.toString("latin1").match(CERTIFICATE) ?? []).map((pem) => parseCertificate(pem, names.cert));
  const [leaf] = chain;
  if (leaf === undefined) throw invalid(names.cert, "a PEM certificate", "none");
  if (!leaf.checkPrivateKey(parseKey(key, names.key))) {
    throw invalid(names.key, `the private key of the certificate in ${names.cert}`, "the key of another");
  }
  try {
    createSecureContext({ cert, key, minVersion: "TLSv1.2" });
  } catch (cause) {
    // Fails closed: at a start nothing is served, later the last good pair stays.
    throw invalid(names.cert, "a certificate chain that TLS can use", "one that it cannot", cause);
  }
  return {
    cert,
    key,
    notBeforeMs: Math.max(...chain.map(({ validFrom }) => Date.parse(validFrom))),
    notAfterMs: Math.min(...chain.map(({ validTo }) => Date.parse(validTo))),
    fingerprint: leaf.fingerprint256.replaceAll(":", "").toLowerCase(),
  };
}

/** Where a certificate stands in its life. */
export type Validity = "not yet valid" | "valid" | "ending" | "expired";

const DAY_MS = 86_400_000;
/** Whoever renews has done so long before: cert-manager after two thirds of a certificate's life. */
const ENDING_SHARE = 1 / 4;
const ENDING_MS_MAX = 30 * DAY_MS;

/** `ending`: within the last quarter of its life, or the last 30 days of a long one, so that somebody ought to look. */
export function validityOf({ notBeforeMs, notAfterMs }: KeyPair, nowMs: number): Validity {
  if (nowMs >= notAfterMs) return "expired";
  if (nowMs < notBeforeMs) return "not yet valid";
  const ending = Math.min(ENDING_MS_MAX, (notAfterMs - notBeforeMs) * ENDING_SHARE);
  return notAfterMs - nowMs <= ending ? "ending" : "valid";
}

function parseCertificate(pem: string, name: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (cause) {
    // Fails closed: at a start nothing is served, later the last good pair stays.
    throw invalid(name, "PEM certificates", "one that cannot be parsed", cause);
  }
}

function parseKey(pem: Buffer, name: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch {
    // Fails closed as above; without the cause, which might tell of the key.
    throw invalid(name, "a PEM private key without a passphrase", "something else");
  }
}

function invalid(name: string, expected: string, got: string, cause?: unknown): OperatingError {
  return new OperatingError("ERR_CONFIG_INVALID", `${name}: expected ${expected}, got ${got}`, { cause });
}
