/** What a certificate tells, as `node:crypto` reads it: what the program's own walk is held to. */

import { createHash, X509Certificate } from "node:crypto";
import type { CertificateFacts } from "../../src/model/identity.ts";

export interface ExpectedCertificate extends Omit<CertificateFacts, "spiffeId" | "key"> {
  readonly uris: readonly string[];
}

/** @returns `undefined` for what is refused */
export function expectedCertificate(encoded: string | Uint8Array): ExpectedCertificate | undefined {
  let x509: X509Certificate;
  try {
    x509 = new X509Certificate(typeof encoded === "string" ? decodeURIComponent(encoded) : encoded);
  } catch {
    return undefined; // it is refused
  }
  // `null` stands for alternative names that cannot be read.
  const { subjectAltName } = x509 as { readonly subjectAltName: string | undefined | null };
  if (subjectAltName === null) return undefined;
  const digest = createHash("sha256").update(x509.raw).digest();
  return {
    via: "peer",
    sha256: digest.toString("hex"),
    uris: urisOf(subjectAltName),
    subject: oneLine(x509.subject),
    issuer: oneLine(x509.issuer),
    serial: x509.serialNumber.toLowerCase(),
    notBefore: timeOf(x509.validFrom),
    notAfter: timeOf(x509.validTo),
    x5tS256: digest.toString("base64url"),
  };
}

/** The key's kind. Only for keys of the right form: of others, some end the process (Node 20, a point at infinity). */
export function expectedKey(der: Uint8Array): string | undefined {
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = new X509Certificate(der).publicKey;
  switch (type) {
    case "ec": {
      const name = details?.namedCurve ?? "";
      return `EC ${{ prime256v1: "P-256", secp384r1: "P-384", secp521r1: "P-521" }[name] ?? name}`;
    }
    case "rsa":
      return `RSA ${details?.modulusLength}`;
    case "ed25519":
      return "Ed25519";
    default:
      return type;
  }
}

/** `URI:spiffe://a/b, DNS:c`, where what could be mistaken is quoted as in JSON. */
function urisOf(subjectAltName: string | undefined): readonly string[] {
  const names = (subjectAltName ?? "").matchAll(/(?:^|, )([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^,]*)/g);
  return [...names].flatMap(([, kind, value = ""]) => {
    if (kind !== "URI") return [];
    return [value.startsWith('"') ? String(JSON.parse(value)) : value];
  });
}

function oneLine(name: string | undefined): string | undefined {
  return name === undefined || name === "" ? undefined : name.split("\n").join(", ").slice(0, 512);
}

function timeOf(text: string): CertificateFacts["notBefore"] {
  const time = Date.parse(text);
  return Number.isNaN(time) ? undefined : (time as CertificateFacts["notBefore"]);
}
