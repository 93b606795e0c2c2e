/** Reads the authorities of a SPIFFE trust domain: a bundle (JSON) or certificates (PEM). */

import { createPublicKey, X509Certificate } from "node:crypto";
import type { AuthorityPolicy } from "../model/policy.ts";

/** Most authorities, and most keys for JWT-SVIDs, of one trust domain. */
const AUTHORITIES_MAX = 100;

const EXPECTED = "a SPIFFE bundle (JSON) or certificates of authorities (PEM)";

/** What a trust domain vouches with. */
export interface Authorities {
  readonly certificates: readonly AuthorityPolicy[];
  /** A JSON Web Key Set; `undefined`: no keys for JWT-SVIDs. */
  readonly jwtKeys: string | undefined;
}

export type AnchorsResult =
  | { readonly ok: true; readonly authorities: Authorities }
  | { readonly ok: false; readonly expected: string; readonly got: string };

/** Reads either form; nothing of a key is repeated in what is said of a fault. */
export function readAnchors(text: string): AnchorsResult {
  const result = /^\s*\{/.test(text) ? readBundle(text) : readPem(text);
  if (!result.ok) return result;
  const { certificates, jwtKeys } = result.authorities;
  if (certificates.length === 0 && jwtKeys === undefined) return refuse("no authorities");
  return certificates.length > AUTHORITIES_MAX ? refuse(`more than ${AUTHORITIES_MAX} certificates`) : result;
}

function readPem(text: string): AnchorsResult {
  if (/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text)) return refuse("a private key");
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length !== text.split("-----BEGIN ").length - 1 || blocks.length === 0) {
    return refuse("something other than certificates");
  }
  if (blocks.length > AUTHORITIES_MAX) return refuse(`more than ${AUTHORITIES_MAX} certificates`);
  const certificates: AuthorityPolicy[] = [];
  for (const [index, block] of blocks.entries()) {
    const read = authorityOf(block);
    if (typeof read === "string") return refuse(`${read} as certificate ${index + 1}`);
    certificates.push(read);
  }
  return { ok: true, authorities: { certificates, jwtKeys: undefined } };
}

/** SPIFFE Trust Domain and Bundle, section 4; keys of an unknown `use` are passed over, as it asks for. */
function readBundle(text: string): AnchorsResult {
  let bundle: unknown;
  try {
    bundle = JSON.parse(text);
  } catch {
    // Fails closed: the parser's own message would repeat parts of the text.
    return refuse("a text that is not JSON");
  }
  const keys = (bundle as { readonly keys?: unknown }).keys;
  if (!Array.isArray(keys)) return refuse("JSON without a list of `keys`");
  const certificates: AuthorityPolicy[] = [];
  const jwtKeys: Record<string, unknown>[] = [];
  for (const [index, key] of keys.entries()) {
    const at = `keys[${index}]`;
    if (typeof key !== "object" || key === null) return refuse(`${at} that is no key`);
    const { use, kty, kid, x5c } = key as Record<string, unknown>;
    if (use === "x509-svid") {
      if (!Array.isArray(x5c) || x5c.length !== 1 || typeof x5c[0] !== "string") {
        return refuse(`${at} without exactly one certificate in \`x5c\``);
      }
      const read = authorityOf(Buffer.from(x5c[0], "base64"));
      if (typeof read === "string") return refuse(`${read} in ${at}`);
      certificates.push(read);
    } else if (use === "jwt-svid") {
      if (typeof kid !== "string" || kid === "") return refuse(`${at} for JWT-SVIDs without a \`kid\``);
      const publicKey = publicKeyOf(key as Record<string, unknown>, kty);
      if (publicKey === undefined) return refuse(`${at} for JWT-SVIDs that is no public RSA or EC key`);
      // Only what it takes to verify: `use` here is SPIFFE's own, which others would refuse.
      jwtKeys.push({ ...publicKey, kid });
    }
  }
  if (jwtKeys.length > AUTHORITIES_MAX) return refuse(`more than ${AUTHORITIES_MAX} keys for JWT-SVIDs`);
  return {
    ok: true,
    authorities: { certificates, jwtKeys: jwtKeys.length === 0 ? undefined : JSON.stringify({ keys: jwtKeys }) },
  };
}

/** The authority whose certificate it is, or what it is instead. */
function authorityOf(encoded: string | Buffer): AuthorityPolicy | string {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(encoded);
  } catch {
    return "no certificate"; // fails closed: the policy is refused
  }
  if (!certificate.ca) return "a certificate that is no authority's (CA:TRUE is missing)";
  return { subject: certificate.subject, der: new Uint8Array(certificate.raw) };
}

function publicKeyOf(key: Record<string, unknown>, kty: unknown): Record<string, unknown> | undefined {
  if ((kty !== "RSA" && kty !== "EC") || "d" in key) return undefined;
  const { crv, x, y, n, e } = key;
  const members = kty === "RSA" ? { kty, n, e } : { kty, crv, x, y };
  try {
    createPublicKey({ key: members as never, format: "jwk" });
    return members;
  } catch {
    return undefined; // fails closed: the policy is refused
  }
}

function refuse(got: string): AnchorsResult {
  return { ok: false, expected: EXPECTED, got };
}
