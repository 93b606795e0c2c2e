/** Reads the peer certificate that Envoy verified (`source.certificate`, URL-encoded PEM). */

import { hash } from "node:crypto";
import type { CertificateFacts } from "../model/identity.ts";
import { toEpochMs } from "../model/units.ts";
import { BytesMemo } from "./bytes-memo.ts";
import { DerCursor, DerError, type Span } from "./der.ts";
import { readName } from "./distinguished-name.ts";
import { decodePem, derBytesMax } from "./pem.ts";
import { keyOf } from "./public-key.ts";
import { parseSpiffeId } from "./spiffe.ts";
import { readX509, type X509 } from "./x509.ts";

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
  const bytes = Buffer.from(encoded);
  return reader.read(bytes, 0, bytes.length);
}

/** Of all remembered certificates together, percent-encoded. */
const REMEMBERED_BYTES_MAX = 24 * 1024 * 1024;

/** Remembers parsed certificates by their very bytes: a connection sends the same one with every request. Bounded. */
export class CertificateCache {
  private readonly parsed: BytesMemo<ParsedCertificate>;

  /** @param certificatesMax the one that came first is forgotten beyond */
  constructor(certificatesMax: number) {
    this.parsed = new BytesMemo({ entriesMax: certificatesMax, bytesMax: REMEMBERED_BYTES_MAX });
  }

  /** Parses what lies between, as {@link parsePeerCertificate} does its text. What counts as a certificate is ASCII. */
  read(bytes: Buffer, start: number, end: number): ParsedCertificate {
    const known = this.parsed.find(bytes, start, end);
    if (known !== undefined) return known;
    const parsed = reader.read(bytes, start, end);
    if (end - start <= ENCODED_CHARS_MAX) this.parsed.add(bytes, start, end, parsed);
    return parsed;
  }
}

/** Names of issuers are few, and those of subjects often are. */
const NAMES_MAX = 256;
const NAMES_BYTES_MAX = 64 * 1024;
const NAME_CHARS_MAX = 512;

/**
 * Reads one certificate after another in the same place. What it tells is made of texts of its own and depends on the
 * certificate alone: names are remembered by their very bytes, so that equal ones are one text in memory.
 */
class CertificateReader {
  private readonly place = Buffer.allocUnsafeSlow(derBytesMax(ENCODED_CHARS_MAX));
  private readonly der = new DerCursor();
  private readonly issuers = new BytesMemo<string>({ entriesMax: NAMES_MAX, bytesMax: NAMES_BYTES_MAX });
  private readonly subjects = new BytesMemo<string>({ entriesMax: NAMES_MAX, bytesMax: NAMES_BYTES_MAX });

  read(bytes: Buffer, start: number, end: number): ParsedCertificate {
    if (end - start > ENCODED_CHARS_MAX) return { ok: false, why: `longer than ${ENCODED_CHARS_MAX} characters` };
    const derBytes = decodePem(bytes, start, end, this.place);
    if (derBytes === undefined) return NO_PEM;
    try {
      return this.parsed(derBytes);
    } catch (error) {
      if (error instanceof DerError) return NO_PEM; // keeps the request going: the certificate names nobody
      throw error;
    }
  }

  private parsed(derBytes: number): ParsedCertificate {
    const { place, der } = this;
    const x509 = readX509(der, place, 0, derBytes);
    const subject = this.nameOf(x509.subject, this.subjects);
    const issuer = this.nameOf(x509.issuer, this.issuers);
    const spiffe = spiffeOf(x509, place);
    const sha256 = hash("sha256", place.subarray(0, derBytes), "hex");
    const { start, end } = x509.publicKeyInfo.whole;
    return {
      ok: true,
      certificate: {
        via: "peer",
        sha256,
        spiffeId: spiffe.id,
        subject,
        issuer,
        serial: numberOf(place, x509.serial),
        notBefore: toEpochMs(x509.notBefore),
        notAfter: toEpochMs(x509.notAfter),
        key: keyOf(x509.publicKeyInfo, der),
        x5tS256: Buffer.from(sha256, "hex").toString("base64url"),
        keySha256: hash("sha256", place.subarray(start, end), "hex"),
      },
      fault: spiffe.fault,
    };
  }

  private nameOf({ start, end }: Span, known: BytesMemo<string>): string | undefined {
    const { place, der } = this;
    let name = known.find(place, start, end);
    if (name === undefined) {
      der.begin(place, start, end);
      name = firstChars(readName(der));
      known.add(place, start, end, name);
    }
    return name === "" ? undefined : name;
  }
}

const reader = new CertificateReader();

function spiffeOf(
  { uris, isAuthority, usage }: X509,
  bytes: Buffer,
): { readonly id: string | undefined; readonly fault: string | undefined } {
  const refuse = (fault: string) => ({ id: undefined, fault: `certificate ${fault}` });
  const [first] = uris;
  if (first === undefined || !uris.some((uri) => isSpiffe(bytes, uri))) return { id: undefined, fault: undefined };
  if (uris.length > 1) return refuse("has more than one URI name");
  const uri = bytes.toString("latin1", first.start, first.end);
  const parsed = parseSpiffeId(uri);
  if (!parsed.ok) return refuse(`SPIFFE ID ${parsed.why}`);
  if (parsed.id.path === "") return refuse("names a trust domain, not a workload");
  if (isAuthority) return refuse("is a CA certificate, not a leaf");
  if (usage?.keyCertSign || usage?.crlSign) return refuse("may sign certificates or revocation lists: not a leaf");
  if (usage?.digitalSignature === false) return refuse("may not be used for signatures");
  return { id: uri, fault: undefined };
}

const SCHEME = "spiffe:";

function isSpiffe(bytes: Buffer, { start, end }: Span): boolean {
  return bytes.toString("latin1", start, Math.min(end, start + SCHEME.length)).toLowerCase() === SCHEME;
}

/** Two's complement (X.690, section 8.3) in hexadecimal digits, with a sign where it is below zero, and `0` for zero. */
function numberOf(bytes: Buffer, { start, end }: Span): string {
  const first = bytes[start] as number;
  if (first >= 0x80) return negativeOf(bytes, start, end);
  const digits = bytes.toString("hex", first === 0 ? start + 1 : start, end);
  return digits === "" ? "0" : digits;
}

/** RFC 5280, section 4.1.2.2, asks to be prepared for them. */
function negativeOf(bytes: Buffer, start: number, end: number): string {
  const bits = 8 * (end - start);
  const digits = (2n ** BigInt(bits) - BigInt(`0x${bytes.toString("hex", start, end)}`)).toString(16);
  return `-${digits.padStart(digits.length + (digits.length % 2), "0")}`;
}

/** Of what is cut off, nothing is kept. */
function firstChars(text: string): string {
  if (text.length <= NAME_CHARS_MAX) return text;
  return Buffer.from(text.slice(0, NAME_CHARS_MAX), "utf16le").toString("utf16le");
}
