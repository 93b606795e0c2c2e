/**
 * Reads a certificate's textual encoding (RFC 7468), percent-encoded as Envoy sends it, straight into DER. It takes the lax
 * form of section 3 and nothing around it: one certificate, with whitespace wherever it pleases.
 */

const PRE_BOUNDARY = Buffer.from("-----BEGIN CERTIFICATE-----");
const POST_BOUNDARY = Buffer.from("-----END CERTIFICATE-----");

/** How many bytes the DER of so much text has at most. */
export function derBytesMax(encodedBytes: number): number {
  return Math.floor(encodedBytes / 4) * 3;
}

const PERCENT = 0x25;
const DASH = 0x2d;
/** No character any more. */
const END = -1;
/** A percent sign that encodes nothing: NUL, which a certificate's text holds no more than that. */
const INVALID = 0;

/** What a character stands for: below 64 six bits of content. */
const WHITESPACE = 64;
const PAD = 65;
const OTHER = 66;
const VALUES = new Uint8Array(256).fill(OTHER);
for (const space of " \t\n\v\f\r") VALUES[space.charCodeAt(0)] = WHITESPACE;
for (const [value, char] of [..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"].entries()) {
  VALUES[char.charCodeAt(0)] = value;
}
VALUES["=".charCodeAt(0)] = PAD;

/** Values of hexadecimal digits; {@link NO_DIGIT} for what is none. */
const NO_DIGIT = 16;
const DIGITS = new Uint8Array(256).fill(NO_DIGIT);
for (let digit = 0; digit < 16; digit++) {
  DIGITS[digit.toString(16).charCodeAt(0)] = digit;
  DIGITS[digit.toString(16).toUpperCase().charCodeAt(0)] = digit;
}

/**
 * @param into at least {@link derBytesMax} bytes
 * @returns how many bytes of DER were written; `undefined` for what is no certificate's textual encoding
 */
export function decodePem(bytes: Buffer, start: number, end: number, into: Buffer): number | undefined {
  const text = new PercentEncoded(bytes, start, end);
  if (!text.isNext(text.afterWhitespace(), PRE_BOUNDARY)) return undefined;
  let written = 0;
  let bits = 0;
  let chars = 0;
  let next: number;
  for (;;) {
    // Four plain characters at once: nearly all that there is.
    if (chars === 0) {
      let { at } = text;
      for (; at + 4 <= end; at += 4) {
        const a = VALUES[bytes[at] as number] as number;
        const b = VALUES[bytes[at + 1] as number] as number;
        const c = VALUES[bytes[at + 2] as number] as number;
        const d = VALUES[bytes[at + 3] as number] as number;
        if ((a | b | c | d) >= WHITESPACE) break;
        into[written++] = (a << 2) | (b >> 4);
        into[written++] = (b << 4) | (c >> 2);
        into[written++] = (c << 6) | d;
      }
      text.at = at;
    }
    next = text.take();
    const value = next === END ? OTHER : (VALUES[next] as number);
    if (value === WHITESPACE) continue;
    if (value > WHITESPACE) break;
    bits = (bits << 6) | value;
    if (++chars < 4) continue;
    into[written++] = bits >> 16;
    into[written++] = bits >> 8;
    into[written++] = bits;
    bits = 0;
    chars = 0;
  }
  if (chars > 0) {
    // RFC 4648, sections 3.5 and 4: padded, and no bits are left over but zeros.
    const leftOver = chars === 2 ? bits & 0x0f : bits & 0x03;
    if (chars === 1 || leftOver !== 0) return undefined;
    for (let pads = chars; pads < 4; pads++) {
      if (next === END || VALUES[next] !== PAD) return undefined;
      next = text.afterWhitespace();
    }
    if (chars === 2) into[written++] = bits >> 4;
    else {
      into[written++] = bits >> 10;
      into[written++] = bits >> 2;
    }
  }
  return text.isNext(next, POST_BOUNDARY) && text.afterWhitespace() === END ? written : undefined;
}

/** Characters of percent-encoded text (RFC 3986, section 2.1), one by one. */
class PercentEncoded {
  at: number;
  private readonly bytes: Buffer;
  private readonly end: number;

  constructor(bytes: Buffer, start: number, end: number) {
    this.bytes = bytes;
    this.at = start;
    this.end = end;
  }

  /** The character that comes, {@link END} or {@link INVALID}. */
  take(): number {
    const { bytes, at, end } = this;
    if (at >= end) return END;
    const byte = bytes[at] as number;
    if (byte !== PERCENT) {
      this.at = at + 1;
      return byte;
    }
    if (at + 3 > end) return INVALID;
    const high = DIGITS[bytes[at + 1] as number] as number;
    const low = DIGITS[bytes[at + 2] as number] as number;
    if (high === NO_DIGIT || low === NO_DIGIT) return INVALID;
    this.at = at + 3;
    return high * 16 + low;
  }

  /** The first character that is no whitespace. */
  afterWhitespace(): number {
    for (;;) {
      const char = this.take();
      if (char === END || VALUES[char] !== WHITESPACE) return char;
    }
  }

  /** Whether `first` and what follows are these characters. */
  isNext(first: number, wanted: Buffer): boolean {
    if (first !== DASH) return false;
    for (let i = 1; i < wanted.length; i++) if (this.take() !== wanted[i]) return false;
    return true;
  }
}
