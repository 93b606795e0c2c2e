/**
 * Reads an X.509 certificate from its DER (RFC 5280, section 4.1) as far as it tells who shows it. It believes nothing, and
 * verifies no signature: that was done by whoever ended the TLS connection.
 *
 * `node:crypto` tells the same in more than ten times the time (`test/bench/pieces.ts` measures both). It takes more than this:
 * encodings other than DER, versions and extensions that do not fit, extensions that are there twice, times that are none,
 * and whatever follows.
 */

import { type DerCursor, DerError, isSame, NONE, type Span, TAG } from "./der.ts";
import { readName } from "./distinguished-name.ts";
import { type PublicKeyInfo, readPublicKeyInfo } from "./public-key.ts";

export interface X509 {
  /** Content of the INTEGER. */
  readonly serial: Span;
  /** Name, with tag and length; its content was not looked at. */
  readonly issuer: Span;
  readonly subject: Span;
  /** Milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
  readonly publicKeyInfo: PublicKeyInfo;
  /** URIs among the subject's alternative names (section 4.2.1.6), in the order in which they stand. */
  readonly uris: readonly Span[];
  /** Basic constraints (section 4.2.1.9). */
  readonly isAuthority: boolean;
  /** Key usage (section 4.2.1.3); `undefined` when the extension is absent. */
  readonly usage: KeyUsage | undefined;
}

export interface KeyUsage {
  readonly digitalSignature: boolean;
  readonly keyCertSign: boolean;
  readonly crlSign: boolean;
}

/** RFC 5280, section 4.1.2.2, has 20; some have had more. */
const SERIAL_BYTES_MAX = 64;
const VERSION = 0xa0;
const ISSUER_UNIQUE_ID = 0x81;
const SUBJECT_UNIQUE_ID = 0x82;
const EXTENSIONS = 0xa3;
const V1 = 0;
const V2 = 1;
const V3 = 2;

/** @throws {DerError} when what lies between is no certificate */
export function readX509(der: DerCursor, bytes: Buffer, start: number, end: number): X509 {
  der.begin(bytes, start, end);
  const certificate = der.enter(TAG.sequence);
  const signed = der.enter(TAG.sequence);
  const version = readVersion(der);
  der.integer();
  const serial = { start: der.start, end: der.end };
  if (serial.end - serial.start > SERIAL_BYTES_MAX) throw new DerError("the serial number is too long");
  const algorithm = readAlgorithm(der);
  const issuer = der.whole(TAG.sequence);
  const validity = der.enter(TAG.sequence);
  const notBefore = readTime(der);
  const notAfter = readTime(der);
  der.leave(validity);
  const subject = der.whole(TAG.sequence);
  const publicKeyInfo = readPublicKeyInfo(der);
  if (version !== V1) {
    if (der.next() === ISSUER_UNIQUE_ID) der.bitString(ISSUER_UNIQUE_ID);
    if (der.next() === SUBJECT_UNIQUE_ID) der.bitString(SUBJECT_UNIQUE_ID);
  }
  const extensions = new Extensions();
  if (version === V3 && der.next() === EXTENSIONS) extensions.read(der);
  der.leave(signed);
  if (!isSame(bytes, algorithm, readAlgorithm(der))) throw new DerError("two algorithms are named for one signature");
  der.octetsInBits();
  der.leave(certificate);
  if (der.next() !== NONE) throw new DerError("something follows the certificate");
  const { uris, isAuthority, usage } = extensions;
  return { serial, issuer, subject, notBefore, notAfter, publicKeyInfo, uris, isAuthority, usage };
}

/** Section 4.1.2.1: the first version is not stated. */
function readVersion(der: DerCursor): number {
  if (der.next() !== VERSION) return V1;
  const wrapped = der.enter(VERSION);
  der.integer();
  const version = der.end - der.start === 1 ? der.bytes[der.start] : undefined;
  der.leave(wrapped);
  if (version !== V2 && version !== V3) throw new DerError("the version is none");
  return version;
}

/** AlgorithmIdentifier (section 4.1.1.2), with tag and length. */
function readAlgorithm(der: DerCursor): Span {
  const whole = der.whole(TAG.sequence);
  const algorithm = der.enterPassed();
  der.objectIdentifier();
  if (der.next() !== NONE) der.passAny();
  der.leave(algorithm);
  return whole;
}

const DAY_MS = 86_400_000;
/** The calendar comes back to itself after so many years (RFC 5280 has it of Gregory). */
const CYCLE_YEARS = 400;
const CYCLE_MS = 146_097 * DAY_MS;
const UTC_TIME_CHARS = 13;
const GENERALIZED_TIME_CHARS = 15;
const ZULU = 0x5a;
const MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/** Section 4.1.2.5: to the second, and in Greenwich; but years before 2050 may come in either form. */
function readTime(der: DerCursor): number {
  const isShort = der.next() === TAG.utcTime;
  der.pass(isShort ? TAG.utcTime : TAG.generalizedTime);
  const { bytes, start, end } = der;
  if (end - start !== (isShort ? UTC_TIME_CHARS : GENERALIZED_TIME_CHARS) || bytes[end - 1] !== ZULU) {
    throw new DerError("a time is none");
  }
  const short = twoDigits(bytes, start);
  const at = isShort ? start + 2 : start + 4;
  const year = isShort ? (short < 50 ? 2000 : 1900) + short : short * 100 + twoDigits(bytes, start + 2);
  const month = twoDigits(bytes, at);
  const day = twoDigits(bytes, at + 2);
  const hour = twoDigits(bytes, at + 4);
  const minute = twoDigits(bytes, at + 6);
  const second = twoDigits(bytes, at + 8);
  const isLeap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = month === 2 && isLeap ? 29 : (MONTH_DAYS[month - 1] ?? 0);
  if (day < 1 || day > days || hour > 23 || minute > 59 || second > 59) throw new DerError("a time is none");
  // Date.UTC takes the years of the first century for those of the twentieth.
  return Date.UTC(year + CYCLE_YEARS, month - 1, day, hour, minute, second) - CYCLE_MS;
}

function twoDigits(bytes: Buffer, at: number): number {
  const tens = (bytes[at] as number) - 0x30;
  const ones = (bytes[at + 1] as number) - 0x30;
  if (tens < 0 || tens > 9 || ones < 0 || ones > 9) throw new DerError("a time is none");
  return 10 * tens + ones;
}

/** Certificates have about ten. Each is compared with those before it. */
const EXTENSIONS_MAX = 64;
/** id-ce (section 4.2.1), before the number of an extension. */
const ID_CE = [0x55, 0x1d] as const;
const KEY_USAGE = 15;
const SUBJECT_ALTERNATIVE_NAME = 17;
const BASIC_CONSTRAINTS = 19;

/** The extensions of a certificate (section 4.2): what those that concern us say. */
class Extensions {
  readonly uris: Span[] = [];
  isAuthority = false;
  usage: KeyUsage | undefined;

  read(der: DerCursor): void {
    const wrapped = der.enter(EXTENSIONS);
    const all = der.enter(TAG.sequence);
    const seen: Span[] = [];
    // There ought to be one, but some who make certificates write the list whether there is one or not.
    while (der.next() !== NONE) {
      const extension = der.enter(TAG.sequence);
      der.objectIdentifier();
      const id = { start: der.start, end: der.end };
      if (seen.length >= EXTENSIONS_MAX) throw new DerError("there are too many extensions");
      if (seen.some((other) => isSame(der.bytes, id, other))) throw new DerError("an extension is there twice");
      seen.push(id);
      if (der.next() === TAG.boolean) der.boolean(); // critical or not: what is needed is read all the same
      this.readValue(der, numberOf(der.bytes, id));
      der.leave(extension);
    }
    der.leave(all);
    der.leave(wrapped);
  }

  private readValue(der: DerCursor, number: number | undefined): void {
    switch (number) {
      case KEY_USAGE: {
        const value = der.enter(TAG.octetString);
        this.usage = readKeyUsage(der);
        der.leave(value);
        break;
      }
      case SUBJECT_ALTERNATIVE_NAME: {
        const value = der.enter(TAG.octetString);
        readUris(der, this.uris);
        der.leave(value);
        break;
      }
      case BASIC_CONSTRAINTS: {
        const value = der.enter(TAG.octetString);
        this.isAuthority = readIsAuthority(der);
        der.leave(value);
        break;
      }
      default:
        der.pass(TAG.octetString);
    }
  }
}

function numberOf(bytes: Buffer, { start, end }: Span): number | undefined {
  return end - start === 3 && bytes[start] === ID_CE[0] && bytes[start + 1] === ID_CE[1] ? bytes[start + 2] : undefined;
}

/** The first bit is the highest. */
function readKeyUsage(der: DerCursor): KeyUsage {
  der.bitString();
  const bits = der.start < der.end ? (der.bytes[der.start] as number) : 0;
  return { digitalSignature: (bits & 0x80) !== 0, keyCertSign: (bits & 0x04) !== 0, crlSign: (bits & 0x02) !== 0 };
}

function readIsAuthority(der: DerCursor): boolean {
  const constraints = der.enter(TAG.sequence);
  const isAuthority = der.next() === TAG.boolean && der.boolean();
  if (der.next() === TAG.integer) der.integer(); // how long a chain below it may be
  der.leave(constraints);
  return isAuthority;
}

/** GeneralName (section 4.2.1.6). */
const OTHER_NAME = 0xa0;
const RFC822_NAME = 0x81;
const DNS_NAME = 0x82;
const X400_ADDRESS = 0xa3;
const DIRECTORY_NAME = 0xa4;
const EDI_PARTY_NAME = 0xa5;
const URI = 0x86;
const IP_ADDRESS = 0x87;
const REGISTERED_ID = 0x88;

function readUris(der: DerCursor, uris: Span[]): void {
  const names = der.enter(TAG.sequence);
  do {
    const tag = der.next();
    switch (tag) {
      case URI:
        der.pass(tag);
        uris.push({ start: der.start, end: der.end });
        break;
      case RFC822_NAME:
      case DNS_NAME:
      case IP_ADDRESS:
      case X400_ADDRESS:
      case EDI_PARTY_NAME:
        der.pass(tag);
        break;
      case REGISTERED_ID:
        der.objectIdentifier(tag);
        break;
      case OTHER_NAME: {
        const other = der.enter(tag);
        der.objectIdentifier();
        const value = der.enter(OTHER_NAME);
        der.passAny();
        der.leave(value);
        der.leave(other);
        break;
      }
      case DIRECTORY_NAME: {
        const directory = der.enter(tag);
        readName(der);
        der.leave(directory);
        break;
      }
      default:
        throw new DerError("a name is of no known kind");
    }
  } while (der.next() !== NONE);
  der.leave(names);
}
