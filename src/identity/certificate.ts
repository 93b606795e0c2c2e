/** Reads the peer certificate that Envoy verified (`source.certificate`, URL-encoded PEM). */

import { createHash, X509Certificate } from "node:crypto";
import type { CertificateFacts } from "../model/identity.ts";
import { type EpochMs, toEpochMs } from "../model/units.ts";
import { BytesMemo } from "./bytes-memo.ts";
import { readLeafRules, readPublicKeyInfo } from "./extensions.ts";
import { parseSpiffeId } from "./spiffe.ts";

/** A certificate beyond this is refused unread: real ones with long chains of names stay below 10 KiB. */
const ENCODED_CHARS_MAX = 64 * 1024;

export type ParsedCertificate =
  | {
      readonly ok: true;
      readonly certificate: CertificateFacts;
      /** Why it names no SPIFFE principal although it carries a URI; `undefined` when all is well or there is none. */
      readonly fault: string | undefined;
    }
  | { readonly ok: false; readonly why: string };

const NO_PEM: ParsedCertificate = { ok: false, why: "not a PEM certificate" };

/**
 * Parses one certificate. Its SPIFFE ID counts only when the certificate has exactly one URI SAN, the ID is valid, and
 * the certificate is a leaf (X509-SVID specification, sections 2, 4 and 5).
 * @param encoded PEM, percent-encoded as Envoy sends it; plain PEM is accepted too
 */
export function parsePeerCertificate(encoded: string): ParsedCertificate {
  if (encoded.length > ENCODED_CHARS_MAX) return { ok: false, why: `longer than ${ENCODED_CHARS_MAX} characters` };
  let x509: X509Certificate;
  try {
    x509 = new X509Certificate(decodeURIComponent(encoded));
  } catch {
    return NO_PEM; // keeps the request going: the certificate names nobody
  }
  const uris = urisOf(x509.subjectAltName);
  const spiffe = spiffeOf(x509, uris);
  const digest = createHash("sha256").update(x509.raw).digest();
  return {
    ok: true,
    certificate: {
      via: "peer",
      sha256: digest.toString("hex"),
      spiffeId: spiffe.id,
      subject: oneLine(x509.subject),
      issuer: oneLine(x509.issuer),
      serial: x509.serialNumber.toLowerCase(),
      notBefore: timeOf(x509.validFrom),
      notAfter: timeOf(x509.validTo),
      key: keyOf(x509),
      x5tS256: digest.toString("base64url"),
      keySha256: keySha256Of(x509),
    },
    fault: spiffe.fault,
  };
}

/** Of all remembered certificates together, percent-encoded. */
const REMEMBERED_BYTES_MAX = 24 * 1024 * 1024;
const strict = new TextDecoder("utf-8", { fatal: true });

/** Remembers parsed certificates by their very bytes: a connection sends the same one with every request. Bounded. */
export class CertificateCache {
  private readonly parsed: BytesMemo<ParsedCertificate>;

  /** @param certificatesMax the one that came first is forgotten beyond */
  constructor(certificatesMax: number) {
    this.parsed = new BytesMemo({ entriesMax: certificatesMax, bytesMax: REMEMBERED_BYTES_MAX });
  }

  /** Parses what lies between, as {@link parsePeerCertificate} does its text. What is no UTF-8 is no certificate. */
  read(bytes: Buffer, start: number, end: number): ParsedCertificate {
    const known = this.parsed.find(bytes, start, end);
    if (known !== undefined) return known;
    let encoded: string;
    try {
      encoded = strict.decode(bytes.subarray(start, end));
    } catch {
      return NO_PEM; // keeps the request going: the certificate names nobody
    }
    const parsed = parsePeerCertificate(encoded);
    if (encoded.length <= ENCODED_CHARS_MAX) this.parsed.add(bytes, start, end, parsed);
    return parsed;
  }
}

function spiffeOf(
  x509: X509Certificate,
  uris: readonly string[],
): { readonly id: string | undefined; readonly fault: string | undefined } {
  const refuse = (fault: string) => ({ id: undefined, fault: `certificate ${fault}` });
  if (uris.length === 0) return { id: undefined, fault: undefined };
  if (uris.length > 1)
    return uris.some(isSpiffe) ? refuse("has more than one URI name") : { id: undefined, fault: undefined };
  const uri = uris[0] as string;
  if (!isSpiffe(uri)) return { id: undefined, fault: undefined };
  const parsed = parseSpiffeId(uri);
  if (!parsed.ok) return refuse(`SPIFFE ID ${parsed.why}`);
  if (parsed.id.path === "") return refuse("names a trust domain, not a workload");
  const { ca, usage } = readLeafRules(x509.raw);
  if (ca) return refuse("is a CA certificate, not a leaf");
  if (usage?.keyCertSign || usage?.crlSign) return refuse("may sign certificates or revocation lists: not a leaf");
  if (usage?.digitalSignature === false) return refuse("may not be used for signatures");
  return { id: uri, fault: undefined };
}

function isSpiffe(uri: string): boolean {
  return /^spiffe:/i.test(uri);
}

/** Node writes `URI:spiffe://a/b, DNS:c` and quotes as JSON what could be mistaken. */
function urisOf(subjectAltName: string | undefined): readonly string[] {
  if (subjectAltName === undefined) return [];
  const uris: string[] = [];
  for (const match of subjectAltName.matchAll(/(?:^|, )([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^,]*)/g)) {
    if (match[1] !== "URI") continue;
    const value = match[2] ?? "";
    uris.push(value.startsWith('"') ? String(JSON.parse(value)) : value);
  }
  return uris;
}

function oneLine(name: string | undefined): string | undefined {
  return name === undefined || name === "" ? undefined : name.split("\n").join(", ").slice(0, 512);
}

function timeOf(text: string): EpochMs | undefined {
  const time = Date.parse(text);
  return Number.isNaN(time) ? undefined : toEpochMs(time);
}

function keySha256Of(x509: X509Certificate): string | undefined {
  const info = readPublicKeyInfo(x509.raw);
  return info === undefined ? undefined : createHash("sha256").update(info).digest("hex");
}

function keyOf(x509: X509Certificate): string | undefined {
  try {
    const { asymmetricKeyType, asymmetricKeyDetails } = x509.publicKey;
    if (asymmetricKeyType === "ec") {
      const curve = asymmetricKeyDetails?.namedCurve ?? "unknown curve";
      return `EC ${curve.replace("prime256v1", "P-256").replace("secp384r1", "P-384").replace("secp521r1", "P-521")}`;
    }
    if (asymmetricKeyType === "rsa") return `RSA ${asymmetricKeyDetails?.modulusLength ?? ""}`.trim();
    return asymmetricKeyType?.replace("ed25519", "Ed25519");
  } catch {
    return undefined; // keeps the certificate: only its key is of an unknown kind
  }
}
