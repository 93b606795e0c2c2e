/** Writes DER (X.690), and certificates that nobody signed: to read them, nobody need have. */

export function element(tag: number, ...content: readonly Uint8Array[]): Buffer {
  const length = content.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const digits = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Uint8Array.of(tag, ...digits), ...content]);
}

export const sequence = (...content: readonly Uint8Array[]): Buffer => element(0x30, ...content);
export const set = (...content: readonly Uint8Array[]): Buffer => element(0x31, ...content);
export const hex = (digits: string): Buffer => Buffer.from(digits.replaceAll(" ", ""), "hex");
/** One character an octet. */
export const text = (tag: number, characters: string): Buffer => element(tag, Buffer.from(characters, "latin1"));

/** X.690, section 8.19. @param numbers with dots */
export function objectIdentifier(numbers: string, tag = 0x06): Buffer {
  const [first = 0n, second = 0n, ...rest] = numbers.split(".").map(BigInt);
  return element(tag, Uint8Array.from([40n * first + second, ...rest].flatMap(base128)));
}

function base128(number: bigint): number[] {
  const digits = [Number(number & 0x7fn)];
  for (let left = number >> 7n; left > 0n; left >>= 7n) digits.unshift(Number(left & 0x7fn) | 0x80);
  return digits;
}

/** An attribute of a name; of another kind of text than UTF8String by its tag. */
export const attribute = (type: string, value: string | Uint8Array, tag = 0x0c): Buffer =>
  sequence(objectIdentifier(type), element(tag, typeof value === "string" ? Buffer.from(value) : value));

/** A name of one attribute each. */
export const nameOf = (...attributes: readonly Uint8Array[]): Buffer =>
  sequence(...attributes.map((each) => set(each)));

export const COMMON_NAME = "2.5.4.3";
export const KEY_USAGE = "2.5.29.15";
export const ALTERNATIVE_NAMES = "2.5.29.17";
export const BASIC_CONSTRAINTS = "2.5.29.19";

export const TRUE = hex("0101ff");
export const FALSE = hex("010100");

export const extension = (id: string, value: Uint8Array, critical?: Uint8Array): Buffer =>
  sequence(objectIdentifier(id), ...(critical === undefined ? [] : [critical]), element(0x04, value));

/** Subject's alternative names (RFC 5280, section 4.2.1.6). */
export const alternativeNames = (...names: readonly Uint8Array[]): Buffer =>
  extension(ALTERNATIVE_NAMES, sequence(...names));
export const uri = (characters: string): Buffer => text(0x86, characters);

export const utcTime = (characters: string): Buffer => text(0x17, characters);
export const generalizedTime = (characters: string): Buffer => text(0x18, characters);

const ECDSA_WITH_SHA256 = sequence(objectIdentifier("1.2.840.10045.4.3.2"));
/** A point of P-256: the base point. */
export const P256_KEY = sequence(
  sequence(objectIdentifier("1.2.840.10045.2.1"), objectIdentifier("1.2.840.10045.3.1.7")),
  element(
    0x03,
    hex("00 04"),
    hex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"),
    hex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"),
  ),
);

/** What a certificate is made of; what is left out is ordinary. */
export interface CertificateParts {
  /** With its tag; empty for the first version. */
  readonly version?: Uint8Array;
  /** Content of the INTEGER. */
  readonly serial?: Uint8Array;
  readonly algorithm?: Uint8Array;
  readonly issuer?: Uint8Array;
  readonly notBefore?: Uint8Array;
  readonly notAfter?: Uint8Array;
  readonly subject?: Uint8Array;
  readonly key?: Uint8Array;
  /** Between the key and the extensions. */
  readonly uniqueIds?: Uint8Array;
  /** `undefined`: the list is absent, not empty. */
  readonly extensions?: readonly Uint8Array[] | undefined;
  readonly signatureAlgorithm?: Uint8Array;
  readonly signature?: Uint8Array;
}

export function certificateOf({
  version = element(0xa0, hex("020102")),
  serial = hex("01"),
  algorithm = ECDSA_WITH_SHA256,
  issuer = nameOf(attribute(COMMON_NAME, "an authority")),
  notBefore = utcTime("250101000000Z"),
  notAfter = utcTime("350101000000Z"),
  subject = nameOf(attribute(COMMON_NAME, "a workload")),
  key = P256_KEY,
  uniqueIds = hex(""),
  extensions,
  signatureAlgorithm = algorithm,
  signature = element(0x03, hex("00 3006 020101 020101")),
}: CertificateParts = {}): Buffer {
  const validity = sequence(notBefore, notAfter);
  const wrapped = extensions === undefined ? hex("") : element(0xa3, sequence(...extensions));
  const serialNumber = element(0x02, serial);
  const signed = sequence(version, serialNumber, algorithm, issuer, validity, subject, key, uniqueIds, wrapped);
  return sequence(signed, signatureAlgorithm, signature);
}

export function pemOf(der: Uint8Array): string {
  const lines =
    Buffer.from(der)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n");
}
