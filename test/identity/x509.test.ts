import "reflect-metadata";
import assert from "node:assert/strict";
import { generateKeyPairSync, getCurves, webcrypto, X509Certificate } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { fromBinary } from "@bufbuild/protobuf";
import * as x509 from "@peculiar/x509";
import fc from "fast-check";
import t from "tap";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { parsePeerCertificate } from "../../src/identity/certificate.ts";
import { DerCursor } from "../../src/identity/der.ts";
import { readX509 } from "../../src/identity/x509.ts";
import {
  ALTERNATIVE_NAMES,
  alternativeNames,
  attribute,
  BASIC_CONSTRAINTS,
  type CertificateParts,
  COMMON_NAME,
  certificateOf,
  element,
  extension,
  FALSE,
  generalizedTime,
  hex,
  KEY_USAGE,
  nameOf,
  objectIdentifier,
  P256_KEY,
  pemOf,
  sequence,
  set,
  TRUE,
  text,
  uri,
  utcTime,
} from "../support/der.ts";
import { type ExpectedCertificate, expectedCertificate, expectedKey } from "../support/expected-certificate.ts";

/** What our walk tells, in the form of what `node:crypto` does; `undefined` for what is refused. */
function read(der: Uint8Array): ExpectedCertificate | undefined {
  const parsed = parsePeerCertificate(pemOf(der));
  if (!parsed.ok) return undefined;
  const { spiffeId, key, keySha256, ...facts } = parsed.certificate;
  return { ...facts, uris: urisOf(der) };
}

function urisOf(der: Uint8Array): readonly string[] {
  const bytes = Buffer.from(der);
  const { uris } = readX509(new DerCursor(), bytes, 0, bytes.length);
  return uris.map(({ start, end }) => bytes.toString("latin1", start, end));
}

function keyOf(der: Uint8Array): string | undefined {
  const parsed = parsePeerCertificate(pemOf(der));
  return parsed.ok ? parsed.certificate.key : "refused";
}

const shared = process.env.SALLYPORT_SHARED ?? fileURLToPath(new URL("../../../shared", import.meta.url));

function certificatesIn(directory: string): readonly string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { recursive: true, encoding: "utf8" }).flatMap((file) => {
    if (file.endsWith(".pem")) {
      const all = readFileSync(`${directory}/${file}`, "utf8");
      return all.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
    }
    if (!file.endsWith(".bin")) return [];
    const { attributes } = fromBinary(CheckRequestSchema, readFileSync(`${directory}/${file}`));
    return attributes?.source?.certificate || [];
  });
}

const collected = [`${shared}/data/conformance`, `${shared}/envoy/samples`].flatMap(certificatesIn);
t.test("recorded certificates are read as node:crypto reads them", { skip: collected.length === 0 }, async (t) => {
  for (const encoded of collected) {
    const expected = expectedCertificate(encoded);
    const parsed = parsePeerCertificate(encoded);
    t.equal(parsed.ok, expected !== undefined);
    if (!parsed.ok || expected === undefined) continue;
    const der = new X509Certificate(decodeURIComponent(encoded)).raw;
    t.same(read(der), expected);
    t.equal(keyOf(der), expectedKey(der));
  }
});

t.test("certificates of other makers are read as node:crypto reads them", async (t) => {
  const rsa = { modulusLength: 2048, publicExponent: Uint8Array.of(1, 0, 1), hash: "SHA-256" };
  const kinds = [
    { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" },
    { name: "ECDSA", namedCurve: "P-384", hash: "SHA-384" },
    { name: "ECDSA", namedCurve: "P-521", hash: "SHA-512" },
    { name: "RSASSA-PKCS1-v1_5", ...rsa },
    { name: "RSA-PSS", ...rsa, saltLength: 32 },
    { name: "Ed25519" },
  ];
  const names: readonly x509.JsonName[] = [
    [{ CN: ["any"] }],
    [{ C: ["DE"], ST: ["Bayern"] }, { O: ["Größe, Maß + Co"] }, { CN: ['1 "quoted" '] }],
    [
      { DC: ["shop"] },
      { E: ["someone@shop.example"] },
      { "2.5.4.97": ["NTRDE-1"] },
      { "1.2.3.4": [{ utf8String: "\u{1F600}" } as never] },
    ],
    [],
  ];
  for (const [i, algorithm] of kinds.entries()) {
    const keys = (await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"])) as webcrypto.CryptoKeyPair;
    for (const name of names) {
      const certificate = await x509.X509CertificateGenerator.createSelfSigned(
        {
          name: name as x509.JsonName,
          keys: keys as never,
          signingAlgorithm: algorithm,
          notBefore: new Date("2026-01-01T00:00:00Z"),
          notAfter: new Date(i % 2 === 0 ? "2049-12-31T23:59:59Z" : "2050-01-01T00:00:00Z"),
          extensions: [
            new x509.BasicConstraintsExtension(i % 2 === 0, i % 2 === 0 ? 3 : undefined, true),
            new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature | x509.KeyUsageFlags.decipherOnly, true),
            await x509.SubjectKeyIdentifierExtension.create(keys.publicKey as never, false, webcrypto as never),
            new x509.CertificatePolicyExtension(["1.2.3"]),
            new x509.SubjectAlternativeNameExtension(
              [
                { type: "dns", value: "a, URI:b" },
                { type: "url", value: "spiffe://td/a" },
                { type: "ip", value: "2001:db8::1" },
                { type: "url", value: 'https://a.example/?q=a,b&c="d"' },
                { type: "email", value: "a@b.example" },
                { type: "dn", value: "CN=URI:x" },
                { type: "id", value: "1.2.3" },
                { type: "upn", value: "someone@shop.example" },
              ],
              true,
            ),
          ],
        },
        webcrypto as never,
      );
      const der = Buffer.from(certificate.rawData);
      t.ok(read(der), `${algorithm.name}: ${JSON.stringify(name)}`);
      t.same(read(der), expectedCertificate(der));
      t.equal(keyOf(der), expectedKey(der));
    }
  }
});

function publicKey(type: string, options: object = {}): Buffer {
  const pair = generateKeyPairSync(
    type as "ec",
    { publicKeyEncoding: { type: "spki", format: "der" }, ...options } as never,
  );
  return pair.publicKey as never as Buffer;
}

t.test("kinds of keys", async (t) => {
  const kinds: readonly (readonly [type: string, options: object, key: string])[] = [
    ["rsa", { modulusLength: 1024 }, "RSA 1024"],
    ["rsa", { modulusLength: 2047 }, "RSA 2047"],
    ["rsa-pss", { modulusLength: 1024 }, "rsa-pss"],
    ["rsa-pss", { modulusLength: 1024, hashAlgorithm: "sha256", mgf1HashAlgorithm: "sha256" }, "rsa-pss"],
    ["dsa", { modulusLength: 1024, divisorLength: 160 }, "dsa"],
    ["ed25519", {}, "Ed25519"],
    ["ed448", {}, "ed448"],
    ["x25519", {}, "x25519"],
    ["x448", {}, "x448"],
    ["ec", { namedCurve: "P-256" }, "EC P-256"],
    ["ec", { namedCurve: "P-384" }, "EC P-384"],
    ["ec", { namedCurve: "P-521" }, "EC P-521"],
    ["ec", { namedCurve: "secp256k1" }, "EC secp256k1"],
    ["ec", { namedCurve: "brainpoolP512r1" }, "EC brainpoolP512r1"],
  ];
  for (const [type, options, key] of kinds) {
    const der = certificateOf({ key: publicKey(type, options) });
    t.equal(keyOf(der), key);
    t.equal(expectedKey(der), key, "as node:crypto has it");
  }
});

t.test("curves that TLS does not know are named as node:crypto names them, or not at all", async (t) => {
  for (const namedCurve of getCurves()) {
    let key: Buffer;
    try {
      key = publicKey("ec", { namedCurve });
    } catch {
      continue; // OpenSSL lists curves that it cannot make keys for
    }
    const der = certificateOf({ key });
    if (new X509Certificate(der).publicKey.asymmetricKeyType !== "ec") continue;
    const named = keyOf(der);
    if (named !== "EC unknown curve") t.equal(named, expectedKey(der));
  }
  const explicit = certificateOf({ key: publicKey("ec", { namedCurve: "P-256", paramEncoding: "explicit" }) });
  t.equal(keyOf(explicit), "EC unknown curve", "RFC 5480, section 2.1.1, forbids curves that are spelt out");
});

const EC = objectIdentifier("1.2.840.10045.2.1");
const P256 = objectIdentifier("1.2.840.10045.3.1.7");
const RSA = sequence(objectIdentifier("1.2.840.113549.1.1.1"), hex("0500"));
const keyWith = (algorithm: Uint8Array, ...key: readonly Uint8Array[]) =>
  sequence(algorithm, element(0x03, hex("00"), ...key));

t.test("a key that is none leaves the certificate as it is", async (t) => {
  const numbers = (modulus: string, ...more: readonly Uint8Array[]) =>
    keyWith(RSA, sequence(element(0x02, hex(modulus)), hex("020103"), ...more));
  const keys = {
    "a point at infinity": keyWith(sequence(EC, P256), hex("00")),
    "no point": keyWith(sequence(EC, P256)),
    "a point that is too short": keyWith(sequence(EC, P256), hex("04"), Buffer.alloc(63, 1)),
    "a compressed point that is too long": keyWith(sequence(EC, P256), hex("02"), Buffer.alloc(33, 1)),
    "a negative modulus": numbers("ff01"),
    "a modulus that is longer than it need be": numbers("0001"),
    "three numbers for RSA": numbers("0f", hex("0500")),
    "something after an RSA key": keyWith(RSA, sequence(hex("02010f"), hex("020103")), hex("00")),
    "no numbers": keyWith(RSA),
    "Ed25519 with parameters": keyWith(sequence(objectIdentifier("1.3.101.112"), hex("0500")), Buffer.alloc(32)),
    "Ed25519 of 31 bytes": keyWith(sequence(objectIdentifier("1.3.101.112")), Buffer.alloc(31)),
    "RSA-PSS with null for parameters": keyWith(
      sequence(objectIdentifier("1.2.840.113549.1.1.10"), hex("0500")),
      sequence(hex("02010f"), hex("020103")),
    ),
    "an unknown kind": keyWith(sequence(objectIdentifier("1.2.3.4")), hex("00")),
  };
  for (const [name, key] of Object.entries(keys)) {
    t.equal(keyOf(certificateOf({ key })), undefined, name);
    t.ok(read(certificateOf({ key })), name);
  }
  t.equal(keyOf(certificateOf({ key: numbers("0f") })), "RSA 4");
  t.equal(keyOf(certificateOf({ key: numbers("0080") })), "RSA 8");
  t.equal(keyOf(certificateOf({ key: numbers("00") })), "RSA 0");
  t.equal(keyOf(certificateOf({ key: keyWith(sequence(EC, P256), hex("03"), Buffer.alloc(32, 1)) })), "EC P-256");
  t.equal(keyOf(certificateOf({ key: keyWith(sequence(EC), hex("04")) })), "EC unknown curve");
});

const SPIFFE = alternativeNames(uri("spiffe://td/a"));
const withExtensions = (...extensions: readonly Uint8Array[]): CertificateParts => ({ extensions });
const inName = (value: string | Uint8Array, tag?: number, type = COMMON_NAME): CertificateParts => ({
  subject: nameOf(attribute(type, value, tag)),
});
const digits = (count: number, last = "01"): CertificateParts => ({
  serial: Buffer.concat([hex("01".repeat(count - 1)), hex(last)]),
});

/** Read by both, and alike. */
const accepted: Readonly<Record<string, CertificateParts>> = {
  "an ordinary certificate": withExtensions(SPIFFE),
  "the first version": { version: hex("") },
  "the second version with unique identifiers": {
    version: element(0xa0, hex("020101")),
    uniqueIds: Buffer.concat([element(0x81, hex("00aa")), element(0x82, hex("04f0"))]),
  },
  "extensions after unique identifiers": { uniqueIds: element(0x82, hex("00aa")), extensions: [SPIFFE] },
  "an empty list of extensions": withExtensions(),
  "no name": { subject: sequence(), issuer: sequence() },
  "several attributes at once": {
    subject: sequence(
      set(attribute(COMMON_NAME, "b"), attribute("2.5.4.10", "a")),
      set(attribute("2.5.4.6", "DE", 0x13)),
      set(attribute("2.5.4.11", "c"), attribute("2.5.4.11", "d"), attribute("1.2.3", "e")),
    ),
  },
  "an empty attribute": inName(""),
  "characters that are escaped": inName("a,b+c\"d\\e<f>g;h=i'j/k#l "),
  "spaces at both ends": inName("  x  "),
  "a space alone": inName(" "),
  "number signs": inName("## "),
  "a number sign alone": inName("#"),
  "control characters": inName("a\nb\0c\x7f\x1f\t, CN=forged"),
  "a line break that looks like another attribute": inName("a\nCN=b"),
  "UTF-8": inName("é € \u{1F600} \uFEFF \uFFFF"),
  "a mark of byte order at the beginning": inName("\uFEFFa"),
  "the space of a character of two octets": inName(hex("0020 0061 0020"), 0x1e),
  "Latin-1": inName(hex("61 e9 ff 80 00"), 0x14),
  "what no PrintableString may hold": inName(hex("61 e9 2a"), 0x13),
  "what no IA5String may hold": inName(hex("e9 00"), 0x16),
  "a NumericString": inName("12 3", 0x12),
  "a BMPString": inName(hex("0061 00e9 20ac 002c 0020"), 0x1e),
  "a UniversalString": inName(hex("00000061 0001f600"), 0x1c),
  "a BIT STRING": inName(hex("04 61 f0"), 0x03),
  "a name of 600 characters": inName("ä".repeat(600)),
  "a name that is cut within a character": inName(`${"a".repeat(508)}\u{1F600}`),
  "a type of large numbers": inName("x", 0x0c, "2.25.321250759423822762772194981682558872193"),
  "a type of many numbers": inName("x", 0x0c, `1.2${".123".repeat(60)}`),
  "a type of the second arc": inName("x", 0x0c, "1.39.0"),
  "a type of the third arc": inName("x", 0x0c, "2.999.16384"),
  "the serial number zero": { serial: hex("00") },
  "a serial number with a high bit": { serial: hex("00ff") },
  "a serial number below zero": { serial: hex("80") },
  "a serial number far below zero": { serial: hex("ff01") },
  "a serial number of two bytes, far below zero": { serial: hex("8000") },
  "a serial number of 64 bytes": digits(64),
  "times of the last century": { notBefore: utcTime("500101000000Z"), notAfter: utcTime("991231235959Z") },
  "times of this century": { notBefore: utcTime("000101000000Z"), notAfter: utcTime("491231235959Z") },
  "leap days": { notBefore: utcTime("000229000000Z"), notAfter: utcTime("240229235959Z") },
  "the last time there is": { notAfter: generalizedTime("99991231235959Z") },
  "a year that is written at length": { notBefore: generalizedTime("20250630120000Z") },
  "a year long ago": { notBefore: generalizedTime("10000101000000Z") },
  "names of every kind": withExtensions(
    alternativeNames(
      uri("spiffe://td/a"),
      text(0x81, "a@b.example"),
      text(0x82, "a.example, URI:spiffe://td/forged"),
      text(0x82, '"URI:x'),
      element(0x87, hex("0a000001")),
      element(0x87, hex("010203")),
      objectIdentifier("1.2.3", 0x88),
      element(0xa4, nameOf(attribute(COMMON_NAME, "a, URI:b"))),
      element(0xa4, sequence()),
      element(0xa0, objectIdentifier("1.2.3"), element(0xa0, text(0x0c, "x"))),
      element(0xa0, objectIdentifier("1.3.6.1.5.5.7.8.5"), element(0xa0, text(0x0c, "a, URI:b"))),
      element(0xa3, hex("3000")),
      element(0xa5, element(0xa1, text(0x0c, "p"))),
      uri("https://b.example/"),
    ),
  ),
  "URIs that are no ASCII": withExtensions(
    alternativeNames(uri("\u00e9"), uri("a\0b\n"), uri("a,b"), uri("it's"), uri('"\\')),
  ),
  "an empty URI": withExtensions(alternativeNames(uri(""))),
  "500 URIs": withExtensions(alternativeNames(...Array.from({ length: 500 }, (_, i) => uri(`spiffe://td/${i}`)))),
  "a critical extension and one that says that it is not": withExtensions(
    extension(ALTERNATIVE_NAMES, sequence(uri("spiffe://td/a")), TRUE),
    extension("1.2.3", hex(""), FALSE),
  ),
  "64 extensions": withExtensions(...Array.from({ length: 64 }, (_, i) => extension(`1.2.${i}`, hex("ff")))),
  "basic constraints that say nothing": withExtensions(extension(BASIC_CONSTRAINTS, sequence())),
  "basic constraints that say that it is no authority": withExtensions(extension(BASIC_CONSTRAINTS, sequence(FALSE))),
  "basic constraints with a length": withExtensions(extension(BASIC_CONSTRAINTS, sequence(TRUE, hex("020100")))),
  "a key usage of nothing": withExtensions(extension(KEY_USAGE, hex("030100"))),
  "a key usage of nine bits": withExtensions(extension(KEY_USAGE, hex("0303078080"))),
  "an algorithm with parameters": { algorithm: sequence(objectIdentifier("1.2.3"), sequence(hex("0500"))) },
};
for (const [name, parts] of Object.entries(accepted)) {
  t.test(`${name}: read as node:crypto reads it`, async (t) => {
    const der = certificateOf(parts);
    t.ok(read(der));
    t.same(read(der), expectedCertificate(der));
  });
}

/** Refused, although `node:crypto` may read them. */
const refused: Readonly<Record<string, Uint8Array | CertificateParts>> = {
  nothing: hex(""),
  "a first version that is stated": { version: element(0xa0, hex("020100")) },
  "a fourth version": { version: element(0xa0, hex("020103")) },
  "extensions of a second version": { version: element(0xa0, hex("020101")), extensions: [SPIFFE] },
  "extensions of a first version": { version: hex(""), extensions: [SPIFFE] },
  "unique identifiers in the wrong order": {
    uniqueIds: Buffer.concat([element(0x82, hex("00aa")), element(0x81, hex("00aa"))]),
  },
  "an empty serial number": { serial: hex("") },
  "a serial number that is longer than it need be": { serial: hex("0001") },
  "a serial number below zero that is longer than it need be": { serial: hex("ff80") },
  "a serial number of 65 bytes": digits(65),
  "two algorithms for one signature": { signatureAlgorithm: sequence(objectIdentifier("1.2.3")) },
  "an algorithm with two parameters": { algorithm: sequence(objectIdentifier("1.2.3"), hex("0500"), hex("0500")) },
  "an empty type": { subject: nameOf(sequence(hex("0600"), text(0x0c, "x"))) },
  "a type that is cut off": { subject: nameOf(sequence(hex("060181"), text(0x0c, "x"))) },
  "a type that is longer than it need be": { subject: nameOf(sequence(hex("06032a8003"), text(0x0c, "x"))) },
  "a type of 65 bytes": { subject: nameOf(sequence(element(0x06, Buffer.alloc(65, 1)), text(0x0c, "x"))) },
  "an attribute without value": { subject: nameOf(sequence(objectIdentifier(COMMON_NAME))) },
  "an attribute with two values": {
    subject: nameOf(sequence(objectIdentifier(COMMON_NAME), text(0x0c, "x"), text(0x0c, "y"))),
  },
  "a set of no attributes": { subject: sequence(set()) },
  "a name that is a set": { subject: set() },
  "a name of an OCTET STRING": inName("x", 0x04),
  "a name of a SEQUENCE": inName("", 0x30),
  "a name of a VisibleString": inName("x", 0x1a),
  "broken UTF-8": inName(hex("61ff")),
  "UTF-8 that is longer than it need be": inName(hex("c080")),
  "half a character in UTF-8": inName(hex("eda080")),
  "half a character in a BMPString": inName(hex("d83d"), 0x1e),
  "a BMPString that ends within a character": inName(hex("006100"), 0x1e),
  "a UniversalString that ends within a character": inName(hex("000061"), 0x1c),
  "what is no character": inName(hex("00110000"), 0x1c),
  "an issuer that is no name": { issuer: sequence(hex("0500")) },
  ...Object.fromEntries(
    [
      "250230000000Z",
      "250229000000Z",
      "251301000000Z",
      "250001000000Z",
      "250100000000Z",
      "250101240000Z",
      "250101006000Z",
      "250101000060Z",
      "2501010000Z",
      "250101000000+0100",
      "2501010000000",
      "25010100000aZ",
      "+50101000000Z",
      "",
    ].map((time) => [`the time "${time}"`, { notAfter: utcTime(time) }]),
  ),
  ...Object.fromEntries(
    [
      "20250101000000.5Z",
      "20250101000000",
      "20250101000000+0000",
      "250101000000Z",
      "19000229000000Z",
      "2o250101000000Z",
    ].map((time) => [`the time "${time}" at length`, { notBefore: generalizedTime(time) }]),
  ),
  "a time that is a text": { notBefore: text(0x0c, "250101000000Z") },
  "a key with bits": { key: sequence(sequence(EC, P256), element(0x03, hex("0100"))) },
  "a key without octets": { key: sequence(sequence(EC, P256), element(0x03)) },
  "a key and more": { key: sequence(sequence(EC, P256), element(0x03, hex("00")), hex("0500")) },
  "a signature with bits": { signature: element(0x03, hex("0180")) },
  "an extension that is there twice": withExtensions(SPIFFE, SPIFFE),
  "an unknown extension that is there twice": withExtensions(
    extension("1.2.3", hex("")),
    SPIFFE,
    extension("1.2.3", hex("00")),
  ),
  "65 extensions": withExtensions(...Array.from({ length: 65 }, (_, i) => extension(`1.2.${i}`, hex("")))),
  "an extension that is half critical": withExtensions(extension("1.2.3", hex(""), hex("010101"))),
  "an extension that is critical in two octets": withExtensions(extension("1.2.3", hex(""), hex("0102ffff"))),
  "an extension without value": withExtensions(sequence(objectIdentifier("1.2.3"))),
  "no names": withExtensions(alternativeNames()),
  "something after the names": withExtensions(
    extension(ALTERNATIVE_NAMES, Buffer.concat([sequence(uri("x")), hex("0500")])),
  ),
  "names that are cut off": withExtensions(extension(ALTERNATIVE_NAMES, hex("3003 8601"))),
  "a URI in pieces": withExtensions(alternativeNames(element(0xa6, text(0x16, "spiffe://td/a")))),
  "a name of an unknown kind": withExtensions(alternativeNames(uri("x"), text(0x89, "y"))),
  "a directory name that is none": withExtensions(alternativeNames(uri("x"), element(0xa4, hex("0500")))),
  "another name without value": withExtensions(alternativeNames(uri("x"), element(0xa0, objectIdentifier("1.2.3")))),
  "a number that is none": withExtensions(alternativeNames(uri("x"), element(0x88, hex("80")))),
  "basic constraints that are none": withExtensions(extension(BASIC_CONSTRAINTS, TRUE)),
  "basic constraints that are half true": withExtensions(extension(BASIC_CONSTRAINTS, sequence(hex("010101")))),
  "a key usage that is none": withExtensions(extension(KEY_USAGE, hex("0500"))),
  "an empty key usage": withExtensions(extension(KEY_USAGE, hex("0300"))),
  "a key usage with bits that are not used": withExtensions(extension(KEY_USAGE, hex("0302078f"))),
  "a key usage with nine unused bits": withExtensions(extension(KEY_USAGE, hex("03020900"))),
  "something after the certificate": Buffer.concat([certificateOf(), hex("00")]),
  "a certificate without its last octet": certificateOf().subarray(0, -1),
  "a certificate in a certificate": sequence(certificateOf()),
};
for (const [name, given] of Object.entries(refused)) {
  t.test(`${name}: refused`, async (t) => {
    const der = given instanceof Uint8Array ? given : certificateOf(given);
    t.same(parsePeerCertificate(pemOf(der)), { ok: false, why: "not a PEM certificate" });
  });
}

t.test("a year before the first thousand is that year, where Date.parse sees one of ours", async (t) => {
  const der = certificateOf({ notBefore: generalizedTime("00500301000000Z") });
  t.equal(read(der)?.notBefore, Date.parse("0050-03-01T00:00:00Z"));
  t.equal(expectedCertificate(der)?.notBefore, Date.parse("1950-03-01T00:00:00Z"));
});

const octets = (maxLength: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ maxLength });
const types = fc.oneof(
  fc.constantFrom(COMMON_NAME, "2.5.4.10", "2.5.4.100", "0.9.2342.19200300.100.1.25", "1.2.840.113549.1.9.1", "1.2.3"),
  fc.integer({ min: 3, max: 54 }).map((last) => `2.5.4.${last}`),
  fc.bigInt({ min: 0n, max: 2n ** 130n }).map((last) => `2.25.${last}`),
);
const readable = fc.string({ unit: fc.constantFrom(...'aB \\",+;<>#=/é€\u{1F600}\0\n\x7f'), maxLength: 6 });
const units = fc.array(fc.nat(0xd7ff), { maxLength: 4 });
const values: fc.Arbitrary<readonly [content: Uint8Array, tag: number]> = fc.oneof(
  { weight: 4, arbitrary: readable.map((value) => [Buffer.from(value), 0x0c] as const) },
  { weight: 4, arbitrary: fc.tuple(octets(6), fc.constantFrom(0x12, 0x13, 0x14, 0x16)) },
  { weight: 2, arbitrary: units.map((all) => [Buffer.concat(all.map((unit) => hex(padded(unit, 4)))), 0x1e] as const) },
  { weight: 2, arbitrary: units.map((all) => [Buffer.concat(all.map((unit) => hex(padded(unit, 8)))), 0x1c] as const) },
  { weight: 1, arbitrary: octets(3).map((content) => [Buffer.concat([hex("00"), content]), 0x03] as const) },
  { weight: 1, arbitrary: fc.tuple(octets(6), fc.constantFrom(0x0c, 0x1a, 0x1c, 0x1e)) },
);
const padded = (number: number, length: number): string => number.toString(16).padStart(length, "0");
const attributes = fc.tuple(types, values).map(([type, [value, tag]]) => attribute(type, value, tag));
const names = fc
  .array(fc.array(attributes, { minLength: 1, maxLength: 2 }), { maxLength: 3 })
  .map((sets) => sequence(...sets.map((all) => set(...all))));
const spiffe = fc.constantFrom("spiffe://td/a", "spiffe://td/b", "SPIFFE://td/a", "https://a.example/", "");
const generalNames = fc.oneof(
  spiffe.map(uri),
  octets(8).map((content) => element(0x86, content)),
  fc.tuple(fc.constantFrom(0x81, 0x82, 0x87), octets(8)).map(([tag, content]) => element(tag, content)),
  names.map((name) => element(0xa4, name)),
  readable.map((value) =>
    element(0xa0, objectIdentifier("1.3.6.1.5.5.7.8.5"), element(0xa0, element(0x0c, Buffer.from(value)))),
  ),
);
const extensions = fc
  .tuple(
    fc.array(generalNames, { minLength: 1, maxLength: 4 }),
    fc.array(fc.tuple(fc.nat(40), octets(8)), { maxLength: 3 }),
    fc.constantFrom(undefined, TRUE, FALSE),
  )
  .map(([named, others, critical]) => [
    extension(ALTERNATIVE_NAMES, sequence(...named), critical),
    ...others.map(([number, value]) => extension(`1.3.${number}`, value)),
  ]);
const times = fc
  .date({ min: new Date("1950-01-01T00:00:00Z"), max: new Date("9999-12-31T23:59:59Z"), noInvalidDate: true })
  .map((date) => {
    const all = date.toISOString().replace(/\.\d+|[-:T]/g, "");
    return date.getUTCFullYear() < 2050 ? utcTime(all.slice(2)) : generalizedTime(all);
  });
const keys = fc.constantFrom(P256_KEY, publicKey("ed25519"), publicKey("rsa", { modulusLength: 1024 }));
const made: fc.Arbitrary<Buffer> = fc
  .record(
    {
      serial: fc.uint8Array({ minLength: 1, maxLength: 21 }),
      issuer: names,
      subject: names,
      notBefore: times,
      notAfter: times,
      key: keys,
      extensions: fc.option(extensions, { nil: undefined }),
      version: fc.constantFrom(...Array(9).fill(element(0xa0, hex("020102"))), hex("")),
    },
    { requiredKeys: [] },
  )
  .map(certificateOf);

t.test("any certificate that both read they read alike, and what we read they read", async (t) => {
  let alike = 0;
  fc.assert(
    fc.property(made, (der) => {
      const [ours, theirs] = [read(der), expectedCertificate(der)];
      if (ours === undefined) return;
      assert.deepEqual(ours, theirs);
      assert.equal(keyOf(der), expectedKey(der));
      alike++;
    }),
    { numRuns: 2_000, interruptAfterTimeLimit: 20_000 },
  );
  t.ok(alike > 100, `${alike} were read`);
});

/** Octets are changed where they stand, which mostly leaves no certificate at all. */
const changes = fc.record({
  kind: fc.constantFrom("change", "insert", "remove", "repeat", "cut"),
  at: fc.nat(),
  length: fc.integer({ min: 1, max: 12 }),
  octet: fc.oneof(fc.nat(255), fc.constantFrom(0x00, 0x04, 0x06, 0x0c, 0x30, 0x31, 0x80, 0x81, 0x86, 0xa3, 0xff)),
});

interface Change {
  readonly kind: string;
  readonly at: number;
  readonly length: number;
  readonly octet: number;
}

function changed(der: Buffer, { kind, at: anywhere, length, octet }: Change): Buffer {
  const at = der.length === 0 ? 0 : anywhere % der.length;
  const [before, after] = [der.subarray(0, at), der.subarray(at)];
  switch (kind) {
    case "change":
      return Buffer.concat([before, Uint8Array.of(octet), after.subarray(1)]);
    case "insert":
      return Buffer.concat([before, Uint8Array.of(octet), after]);
    case "remove":
      return Buffer.concat([before, after.subarray(length)]);
    case "repeat":
      return Buffer.concat([before, after.subarray(0, length), after]);
    default:
      return before;
  }
}

/** Elements are changed and put together anew, which leaves the lengths of all others as they should be. */
const regrowths = fc.record({
  kind: fc.constantFrom("tag", "content", "octet", "remove", "repeat", "empty", "move"),
  at: fc.nat(),
  from: fc.nat(),
  tag: fc.constantFrom(
    0x01,
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x0c,
    0x13,
    0x14,
    0x16,
    0x17,
    0x18,
    0x1c,
    0x1e,
    0x30,
    0x31,
    0x81,
    0x82,
    0x86,
    0xa0,
    0xa3,
    0xa4,
  ),
  content: octets(6),
});

interface Tree {
  tag: number;
  /** Elements within, or octets. */
  content: Tree[] | Uint8Array;
}

/** The elements that follow one another; `undefined` for what is none. */
function trees(der: Uint8Array): Tree[] | undefined {
  const found: Tree[] = [];
  let at = 0;
  while (at < der.length) {
    const [tag = 0, first = 0, second = 0, third = 0] = der.subarray(at, at + 4);
    const [head, length] = first < 0x80 ? [2, first] : first === 0x81 ? [3, second] : [4, second * 256 + third];
    const end = at + head + length;
    if (first > 0x82 || first === 0x80 || end > der.length) return undefined;
    const content = der.subarray(at + head, end);
    const within = (tag & 0x20) !== 0 || (tag === 0x04 && length > 0) ? trees(content) : undefined;
    found.push({ tag, content: within ?? content });
    at = end;
  }
  return found;
}

function written({ tag, content }: Tree): Buffer {
  return content instanceof Uint8Array ? element(tag, content) : element(tag, ...content.map(written));
}

function regrown(
  der: Buffer,
  { kind, at, from, tag, content }: typeof regrowths extends fc.Arbitrary<infer T> ? T : never,
): Buffer {
  const top = trees(der) ?? [];
  const all: { readonly tree: Tree; readonly siblings: Tree[] }[] = [];
  const visit = (siblings: Tree[]): void => {
    for (const tree of siblings) {
      all.push({ tree, siblings });
      if (!(tree.content instanceof Uint8Array)) visit(tree.content);
    }
  };
  visit(top);
  const [chosen, other] = [all[at % all.length], all[from % all.length]];
  if (chosen === undefined || other === undefined) return der;
  const { tree, siblings } = chosen;
  switch (kind) {
    case "tag":
      tree.tag = tag;
      break;
    case "content":
      tree.content = content;
      break;
    case "octet":
      if (tree.content instanceof Uint8Array && tree.content.length > 0) {
        tree.content = Uint8Array.from(tree.content);
        tree.content[from % tree.content.length] = content[0] ?? 0;
      }
      break;
    case "empty":
      tree.content = [];
      break;
    case "remove":
      siblings.splice(siblings.indexOf(tree), 1);
      break;
    case "repeat":
      siblings.splice(siblings.indexOf(tree), 0, { ...tree });
      break;
    default:
      // A copy: moved into itself, an element would have no end.
      siblings[siblings.indexOf(tree)] = structuredClone(other.tree);
  }
  return Buffer.concat(top.map(written));
}

const anyOctets = fc.oneof(
  fc.tuple(made, fc.array(changes, { minLength: 1, maxLength: 2 })).map(([der, all]) => all.reduce(changed, der)),
  {
    arbitrary: fc
      .tuple(made, fc.array(regrowths, { minLength: 1, maxLength: 3 }))
      .map(([der, all]) => all.reduce(regrown, der)),
    weight: 3,
  },
);

/** OpenSSL has short names for all that it knows, also for what is no attribute's type: those we tell by their numbers. */
function withNumbers(theirs: string | undefined, ours: string | undefined): string | undefined {
  const types = [...(ours ?? "").matchAll(TYPE)].map(([, , type = ""]) => type);
  return theirs?.replace(TYPE, (whole, separator: string, type: string) => {
    const own = types.shift() ?? "";
    return /^[\d.]+$/.test(own) && !/^\d/.test(type) ? `${separator}${own}=` : whole;
  });
}
const TYPE = /(^|, | \+ )([^=,+]*)=/g;

t.test("whatever the octets, what we read they read, and alike", async (t) => {
  let [alike, refused] = [0, 0];
  fc.assert(
    fc.property(anyOctets, (der) => {
      const ours = read(der);
      if (ours === undefined) {
        refused++;
        return;
      }
      const theirs = expectedCertificate(der);
      const subject = withNumbers(theirs?.subject, ours.subject);
      const issuer = withNumbers(theirs?.issuer, ours.issuer);
      assert.deepEqual(ours, { ...theirs, subject, issuer });
      alike++;
    }),
    { numRuns: 5_000, interruptAfterTimeLimit: 20_000 },
  );
  t.ok(alike > 100, `${alike} were read`);
  t.ok(refused > 100, `${refused} were refused`);
});
