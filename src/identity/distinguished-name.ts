/**
 * Reads the Name of a certificate (RFC 5280, section 4.1.2.4) as one line of text: attributes by their short names, escaped
 * as RFC 2253 has it, in the order in which they stand, as `node:crypto` and OpenSSL write them.
 */

import { type DerCursor, DerError, NONE, TAG } from "./der.ts";

/**
 * The attribute types that have short names: of an arc, those from one number on. They are OpenSSL's, which are the ones that
 * operators meet elsewhere; types that they lack are told by their numbers.
 */
const SHORT_NAMES: readonly (readonly [arc: string, from: number, names: string])[] = [
  // X.520.
  [
    "2.5.4",
    3,
    "CN SN serialNumber C L ST street O OU title description searchGuide businessCategory postalAddress " +
      "postalCode postOfficeBox physicalDeliveryOfficeName telephoneNumber telexNumber " +
      "teletexTerminalIdentifier facsimileTelephoneNumber x121Address internationaliSDNNumber " +
      "registeredAddress destinationIndicator preferredDeliveryMethod presentationAddress " +
      "supportedApplicationContext member owner roleOccupant seeAlso userPassword userCertificate " +
      "cACertificate authorityRevocationList certificateRevocationList crossCertificatePair name GN " +
      "initials generationQualifier x500UniqueIdentifier dnQualifier enhancedSearchGuide " +
      "protocolInformation distinguishedName uniqueMember houseIdentifier supportedAlgorithms " +
      "deltaRevocationList dmdName",
  ],
  ["2.5.4", 65, "pseudonym"],
  ["2.5.4", 72, "role"],
  ["2.5.4", 97, "organizationIdentifier c3 n3 dnsName"],
  // The COSINE pilot and RFC 4524.
  [
    "0.9.2342.19200300.100.1",
    1,
    "UID textEncodedORAddress mail info favouriteDrink roomNumber photo userClass host manager " +
      "documentIdentifier documentTitle documentVersion documentAuthor documentLocation",
  ],
  [
    "0.9.2342.19200300.100.1",
    20,
    "homeTelephoneNumber secretary otherMailbox lastModifiedTime lastModifiedBy DC aRecord " +
      "pilotAttributeType27 mXRecord nSRecord sOARecord cNAMERecord",
  ],
  [
    "0.9.2342.19200300.100.1",
    37,
    "associatedDomain associatedName homePostalAddress personalTitle mobileTelephoneNumber " +
      "pagerTelephoneNumber friendlyCountryName uid organizationalStatus janetMailbox mailPreferenceOption " +
      "buildingName dSAQuality singleLevelQuality subtreeMinimumQuality subtreeMaximumQuality " +
      "personalSignature dITRedirect audio documentPublisher",
  ],
  // Russian registers.
  ["1.2.643.3.131.1", 1, "INN"],
  ["1.2.643.100", 1, "OGRN"],
  ["1.2.643.100", 3, "SNILS"],
  ["1.2.643.100", 5, "OGRNIP"],
  ["1.2.643.100", 111, "subjectSignTool issuerSignTool classSignTool"],
  // PKCS #9.
  ["1.2.840.113549.1.9", 1, "emailAddress unstructuredName"],
  ["1.2.840.113549.1.9", 8, "unstructuredAddress"],
  // Extended validation: where an organisation is registered.
  ["1.3.6.1.4.1.311.60.2.1", 1, "jurisdictionL jurisdictionST jurisdictionC"],
];

/** By the type as it is encoded. */
const NAME_OF: ReadonlyMap<string, string> = new Map(
  SHORT_NAMES.flatMap(([arc, from, names]) =>
    names.split(" ").map((name, i) => [encodedType(`${arc}.${from + i}`), name] as const),
  ),
);

function encodedType(numbers: string): string {
  const [first = 0, second = 0, ...rest] = numbers.split(".").map(Number);
  return [40 * first + second, ...rest].map(base128).join("");
}

function base128(number: number): string {
  let digits = String.fromCharCode(number & 0x7f);
  for (let left = number >>> 7; left > 0; left >>>= 7) digits = String.fromCharCode((left & 0x7f) | 0x80) + digits;
  return digits;
}

/** OpenSSL writes numbers into as much room. */
const NUMBERS_CHARS_MAX = 79;

/** Reads a Name; the empty text for one that is empty. @throws {DerError} when what comes is none */
export function readName(der: DerCursor): string {
  const name = der.enter(TAG.sequence);
  const parts: string[] = [];
  while (der.next() !== NONE) {
    let separator = parts.length === 0 ? "" : ", ";
    const set = der.enter(TAG.set);
    do {
      const attribute = der.enter(TAG.sequence);
      der.objectIdentifier();
      const type = der.latin1();
      parts.push(separator, NAME_OF.get(type) ?? numbersOf(type), "=", readValue(der));
      der.leave(attribute);
      separator = " + ";
    } while (der.next() !== NONE);
    der.leave(set);
  }
  der.leave(name);
  return parts.join("");
}

/** X.690, section 8.19: the first number holds two. */
function numbersOf(type: string): string {
  const numbers: bigint[] = [];
  let number = 0n;
  for (let i = 0; i < type.length; i++) {
    const byte = type.charCodeAt(i);
    number = (number << 7n) | BigInt(byte & 0x7f);
    if (byte >= 0x80) continue;
    if (numbers.length === 0) {
      const first = number < 40n ? 0n : number < 80n ? 1n : 2n;
      numbers.push(first);
      number -= 40n * first;
    }
    numbers.push(number);
    number = 0n;
  }
  return numbers.join(".").slice(0, NUMBERS_CHARS_MAX);
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function readValue(der: DerCursor): string {
  const tag = der.next();
  switch (tag) {
    case TAG.utf8String:
      der.pass(tag);
      return escaped(utf8Of(der));
    // OpenSSL, too, takes the octets of Teletex strings for Latin-1, as nearly all who wrote them did.
    case TAG.printableString:
    case TAG.teletexString:
    case TAG.ia5String:
    case TAG.numericString:
      der.pass(tag);
      return escaped(der.latin1());
    case TAG.bmpString:
      der.text(tag, 2);
      return escaped(charactersOf(der, 2));
    case TAG.universalString:
      der.text(tag, 4);
      return escaped(charactersOf(der, 4));
    case TAG.bitString: // unique identifiers (X.520, section 6.2.7)
      der.bitString();
      return escaped(der.latin1());
    default:
      throw new DerError("a name holds what is no text");
  }
}

function utf8Of(der: DerCursor): string {
  const { bytes, start, end } = der;
  let all = 0;
  for (let i = start; i < end; i++) all |= bytes[i] as number;
  if (all < 0x80) return der.latin1();
  try {
    return UTF8.decode(bytes.subarray(start, end));
  } catch {
    throw new DerError("a UTF8String is none"); // refuses the certificate
  }
}

/** Code points of a fixed size, the highest octet first. */
function charactersOf({ bytes, start, end }: DerCursor, size: 2 | 4): string {
  let text = "";
  for (let i = start; i < end; i += size) {
    const point = bytes.readUIntBE(i, size);
    if (point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
      throw new DerError("a text holds what is no character");
    text += String.fromCodePoint(point);
  }
  return text;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is escaped
const SPECIAL = /[\x00-\x1f\x7f"+,;<>\\]|^[ #]| $/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is escaped
const CONTROL = /[\x00-\x1f\x7f]/;

/** RFC 2253, section 2.4; control characters as two hexadecimal digits. */
function escaped(text: string): string {
  if (!SPECIAL.test(text)) return text;
  let out = "";
  for (let i = 0; i < text.length; i++) {
    const char = text.charAt(i);
    if (CONTROL.test(char)) out += `\\${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`;
    else if (isSpecialAt(text, i)) out += `\\${char}`;
    else out += char;
  }
  return out;
}

function isSpecialAt(text: string, at: number): boolean {
  const char = text.charAt(at);
  const isLast = at === text.length - 1;
  if (char === " ") return at === 0 || isLast;
  // Of a text that is nothing else, OpenSSL leaves it as it is.
  if (char === "#") return at === 0 && !isLast;
  return '"+,;<>\\'.includes(char);
}
