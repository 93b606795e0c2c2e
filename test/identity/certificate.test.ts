import "reflect-metadata";
import { createHash, webcrypto, X509Certificate } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as x509 from "@peculiar/x509";
import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import { CertificateCache, parsePeerCertificate } from "../../src/identity/certificate.ts";

const pki = await createPki();

t.test("a leaf with one SPIFFE ID is read with all that is told of it", async (t) => {
  const { certPem, sha256 } = await pki.issue({ spiffeId: "spiffe://td/ns/shop/sa/billing", dns: ["billing"] });
  const parsed = parsePeerCertificate(encodeURIComponent(certPem));
  t.match(parsed, {
    ok: true,
    fault: undefined,
    certificate: {
      via: "peer",
      sha256,
      spiffeId: "spiffe://td/ns/shop/sa/billing",
      issuer: "CN=Sallyport throw-away CA",
      key: "EC P-256",
      x5tS256: Buffer.from(sha256, "hex").toString("base64url"),
    },
  });
});

t.test("a certificate's key is known by the SHA-256 of its SubjectPublicKeyInfo, whatever kind it is", async (t) => {
  const kinds = [
    { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" },
    { name: "ECDSA", namedCurve: "P-384", hash: "SHA-384" },
    {
      name: "RSASSA-PKCS1-v1_5",
      modulusLength: 2048,
      publicExponent: Uint8Array.of(1, 0, 1),
      hash: "SHA-256",
    },
    { name: "Ed25519" },
  ];
  for (const algorithm of kinds) {
    const keys = (await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"])) as webcrypto.CryptoKeyPair;
    const certificate = await x509.X509CertificateGenerator.createSelfSigned(
      { name: "CN=any", keys: keys as never, signingAlgorithm: algorithm },
      webcrypto as never,
    );
    const pem = certificate.toString("pem");
    const spki = new X509Certificate(pem).publicKey.export({ type: "spki", format: "der" });
    const wanted = createHash("sha256").update(spki).digest("hex");
    t.match(parsePeerCertificate(pem), { ok: true, certificate: { keySha256: wanted } }, algorithm.name);
  }
});

t.test("a certificate without SPIFFE ID names nobody and is no fault", async (t) => {
  const { certPem } = await pki.issue({ dns: ["a.example"] });
  t.match(parsePeerCertificate(certPem), { ok: true, fault: undefined, certificate: { spiffeId: undefined } });
});

t.test("a SPIFFE ID that breaks the rules names nobody and says why", async (t) => {
  const { certPem } = await pki.issue({ spiffeId: "spiffe://td/a//b" });
  t.match(parsePeerCertificate(certPem), {
    ok: true,
    fault: "certificate SPIFFE ID has an empty path segment",
    certificate: { spiffeId: undefined },
  });
});

t.test("the trust domain's own ID names no workload", async (t) => {
  const { certPem } = await pki.issue({ spiffeId: "spiffe://td" });
  t.match(parsePeerCertificate(certPem), { fault: "certificate names a trust domain, not a workload" });
});

t.test("an authority is no workload", async (t) => {
  t.match(parsePeerCertificate(pki.caPem), { ok: true, certificate: { spiffeId: undefined } });
});

for (const [name, text] of [
  ["empty text", ""],
  ["broken percent encoding", "%E0%A4%A"],
  ["PEM with rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
  ["a private key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"],
] as const) {
  t.test(`${name} is refused`, async (t) => {
    t.same(parsePeerCertificate(text), { ok: false, why: "not a PEM certificate" });
  });
}

t.test("100 KB are refused unread", async (t) => {
  t.same(parsePeerCertificate("x".repeat(100_000)), { ok: false, why: "longer than 65536 characters" });
});

t.test("the cache forgets the oldest certificate, not the answer", async (t) => {
  const cache = new CertificateCache(1);
  const one = await pki.issue({ spiffeId: "spiffe://td/one" });
  const two = await pki.issue({ spiffeId: "spiffe://td/two" });
  const parse = (pem: string) => cache.read(Buffer.from(pem), 0, pem.length);
  const first = parse(one.certPem);
  t.equal(parse(one.certPem), first, "the same object while remembered");
  parse(two.certPem);
  t.not(parse(one.certPem), first);
  t.same(parse(one.certPem), first);
});

const fixtures = fileURLToPath(
  new URL(
    "data/conformance/spiffe/svid/x509svid/testdata/",
    `file://${process.env.SALLYPORT_SHARED ?? fileURLToPath(new URL("../../../shared", import.meta.url))}/`,
  ),
);
const conformance = [
  { file: "good-leaf-only.pem", spiffeId: "spiffe://example.org/workload-1", fault: undefined },
  { file: "wrong-leaf-empty-id.pem", spiffeId: undefined, fault: undefined },
  { file: "wrong-leaf-ca-true.pem", spiffeId: undefined, fault: "certificate is a CA certificate, not a leaf" },
  ...["wrong-leaf-cert-sign.pem", "wrong-leaf-crl-sign.pem", "wrong-leaf-no-digital-signature.pem"].map((file) => ({
    file,
    spiffeId: undefined,
    fault: "certificate may sign certificates or revocation lists: not a leaf",
  })),
];
if (existsSync(fixtures)) {
  t.test("fixtures of the SPIFFE implementations", async (t) => {
    for (const { file, spiffeId, fault } of conformance) {
      const parsed = parsePeerCertificate(readFileSync(`${fixtures}${file}`, "utf8"));
      t.ok(parsed.ok, file);
      if (parsed.ok) t.same({ spiffeId: parsed.certificate.spiffeId, fault: parsed.fault }, { spiffeId, fault }, file);
    }
  });
}

const { digitalSignature, keyCertSign, cRLSign, keyAgreement } = x509.KeyUsageFlags;
const leaves = [
  { name: "a leaf that may sign", ca: false, usage: digitalSignature, fault: undefined },
  { name: "a CA certificate", ca: true, usage: digitalSignature, fault: "certificate is a CA certificate, not a leaf" },
  {
    name: "a leaf that may sign certificates",
    ca: false,
    usage: digitalSignature | keyCertSign,
    fault: "certificate may sign certificates or revocation lists: not a leaf",
  },
  {
    name: "a leaf that may sign revocation lists",
    ca: false,
    usage: digitalSignature | cRLSign,
    fault: "certificate may sign certificates or revocation lists: not a leaf",
  },
  {
    name: "a leaf that may not sign",
    ca: false,
    usage: keyAgreement,
    fault: "certificate may not be used for signatures",
  },
];
for (const { name, ca, usage, fault } of leaves) {
  t.test(`${name} ${fault === undefined ? "names its workload" : "names nobody"}`, async (t) => {
    const keys = await webcrypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"]);
    const certificate = await x509.X509CertificateGenerator.createSelfSigned({
      name: "CN=any",
      serialNumber: "01",
      signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
      keys,
      extensions: [
        new x509.BasicConstraintsExtension(ca, undefined, true),
        new x509.KeyUsagesExtension(usage, true),
        new x509.SubjectAlternativeNameExtension([{ type: "url", value: "spiffe://td/a" }]),
      ],
    });
    const parsed = parsePeerCertificate(certificate.toString("pem"));
    t.match(parsed, { ok: true, certificate: { spiffeId: fault === undefined ? "spiffe://td/a" : undefined } });
    if (parsed.ok) t.equal(parsed.fault, fault);
  });
}
