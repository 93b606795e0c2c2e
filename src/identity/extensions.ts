/**
 * Reads of a certificate's DER what `node:crypto` does not tell, or only for much more time: the two extensions that decide
 * whether it is a leaf, and its public key as it stands there.
 */

export interface LeafRules {
  /** Basic constraints (RFC 5280, section 4.2.1.9). */
  readonly ca: boolean;
  /** Key usage (RFC 5280, section 4.2.1.3); `undefined` when the extension is absent. */
  readonly usage:
    | { readonly digitalSignature: boolean; readonly keyCertSign: boolean; readonly crlSign: boolean }
    | undefined;
}

const BASIC_CONSTRAINTS = "551d13";
const KEY_USAGE = "551d0f";
const SEQUENCE = 0x30;
const BOOLEAN = 0x01;
const BIT_STRING = 0x03;
const OCTET_STRING = 0x04;
const OBJECT_IDENTIFIER = 0x06;
const EXTENSIONS = 0xa3;

interface Element {
  readonly tag: number;
  /** With tag and length. */
  readonly whole: Uint8Array;
  readonly content: Uint8Array;
}

/** @param der a certificate that was parsed before, so that its outer form is known to be good */
export function readLeafRules(der: Uint8Array): LeafRules {
  let ca = false;
  let usage: LeafRules["usage"];
  const certificate = elements(der)[0];
  const tbs = elements(certificate?.content)[0];
  const wrapped = elements(tbs?.content).find(({ tag }) => tag === EXTENSIONS);
  for (const extension of elements(elements(wrapped?.content)[0]?.content)) {
    const parts = elements(extension.content);
    const oid = parts.find(({ tag }) => tag === OBJECT_IDENTIFIER);
    const value = parts.find(({ tag }) => tag === OCTET_STRING);
    const [inner] = elements(value?.content);
    if (oid === undefined || inner === undefined) continue;
    const name = Buffer.from(oid.content).toString("hex");
    if (name === BASIC_CONSTRAINTS && inner.tag === SEQUENCE) {
      ca = elements(inner.content).some(({ tag, content }) => tag === BOOLEAN && content[0] !== 0);
    } else if (name === KEY_USAGE && inner.tag === BIT_STRING) {
      // The first byte counts the unused bits; bit 0 is the highest of the second byte.
      const bits = inner.content[1] ?? 0;
      usage = {
        digitalSignature: (bits & 0x80) !== 0,
        keyCertSign: (bits & 0x04) !== 0,
        crlSign: (bits & 0x02) !== 0,
      };
    }
  }
  return { ca, usage };
}

/** Of TBSCertificate: serial, signature, issuer, validity, subject, and then the key, after a version that may be missing. */
const KEY_AT = 5;
const VERSION = 0xa0;

/**
 * SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7) as it stands in a certificate; `undefined` where it has none.
 * @param der a certificate that was parsed before, so that its outer form is known to be good
 */
export function readPublicKeyInfo(der: Uint8Array): Uint8Array | undefined {
  const tbs = elements(elements(der)[0]?.content)[0];
  const info = elements(tbs?.content).filter(({ tag }) => tag !== VERSION)[KEY_AT];
  return info?.tag === SEQUENCE ? info.whole : undefined;
}

/** The DER elements that follow one another in `bytes`; ends at the first that does not fit. */
function elements(bytes: Uint8Array | undefined): Element[] {
  const found: Element[] = [];
  let at = 0;
  while (bytes !== undefined && at + 2 <= bytes.length) {
    const start = at;
    const tag = bytes[at] as number;
    let length = bytes[at + 1] as number;
    at += 2;
    if (length > 0x80) {
      const digits = length & 0x7f;
      if (digits > 4 || at + digits > bytes.length) break;
      length = 0;
      for (let i = 0; i < digits; i++) length = length * 256 + (bytes[at + i] as number);
      at += digits;
    }
    if (at + length > bytes.length) break;
    found.push({ tag, whole: bytes.subarray(start, at + length), content: bytes.subarray(at, at + length) });
    at += length;
  }
  return found;
}
