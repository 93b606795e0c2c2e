import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import { type KeyPair, readKeyPair, validityOf } from "../../src/webhook/key-pair.ts";

const NAMES = { cert: "tls.crt", key: "tls.key" };
const DAY_MS = 86_400_000;
const pki = await createPki();
const notBefore = new Date("2026-01-01T00:00:00Z");
const issued = await pki.issue({ dns: ["webhook.example"], notBefore, ttlMs: 90 * DAY_MS });
const other = await pki.issue({ dns: ["webhook.example"], notBefore, ttlMs: 10 * DAY_MS });
const read = (cert: string, key: string): KeyPair => readKeyPair(Buffer.from(cert), Buffer.from(key), NAMES);

t.test("a pair says when it is good and by which fingerprint it is known", async (t) => {
  const pair = read(issued.certPem, issued.keyPem);
  t.equal(pair.notBeforeMs, Date.parse("2026-01-01T00:00:00Z"));
  t.equal(pair.notAfterMs, Date.parse("2026-04-01T00:00:00Z"));
  t.equal(pair.fingerprint, issued.sha256);
});

t.test("a chain ends with the first of its certificates that ends", async (t) => {
  const pair = read(`${issued.certPem}${other.certPem}`, issued.keyPem);
  t.equal(pair.notAfterMs, Date.parse("2026-01-11T00:00:00Z"));
  t.equal(pair.fingerprint, issued.sha256, "the leaf is the first");
});

const refused = [
  {
    name: "a certificate with another's key",
    cert: issued.certPem,
    key: other.keyPem,
    why: /tls\.key: .*the key of another/,
  },
  { name: "no certificate", cert: "", key: issued.keyPem, why: /tls\.crt: expected a PEM certificate, got none/ },
  {
    name: "half a certificate",
    cert: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    key: issued.keyPem,
    why: /tls\.crt: expected PEM certificates/,
  },
  { name: "no key", cert: issued.certPem, key: issued.certPem, why: /tls\.key: expected a PEM private key/ },
  { name: "half a key", cert: issued.certPem, key: issued.keyPem.slice(0, 100), why: /tls\.key: expected a PEM/ },
];
for (const { name, cert, key, why } of refused) {
  t.test(`${name} is refused, and the key is not shown`, async (t) => {
    try {
      read(cert, key);
      t.fail("expected a refusal");
    } catch (error) {
      t.match(error, { code: "ERR_CONFIG_INVALID", message: why });
      const body = issued.keyPem.split("\n")[1] ?? "";
      t.notOk(String((error as Error).stack).includes(body.slice(0, 40)));
    }
  });
}

const atDays = (days: number): number => notBefore.getTime() + days * DAY_MS;
const lives = [
  { name: "a millisecond before its time", ttl: 90, at: atDays(0) - 1, want: "not yet valid" },
  { name: "from its first moment on", ttl: 90, at: atDays(0), want: "valid" },
  { name: "just before its last quarter", ttl: 90, at: atDays(67.5) - 1, want: "valid" },
  { name: "in its last quarter", ttl: 90, at: atDays(67.5), want: "ending" },
  { name: "a millisecond before its end", ttl: 90, at: atDays(90) - 1, want: "ending" },
  { name: "at its end", ttl: 90, at: atDays(90), want: "expired" },
  { name: "of ten years, 31 days before its end", ttl: 3_650, at: atDays(3_619), want: "valid" },
  { name: "of ten years, 30 days before its end", ttl: 3_650, at: atDays(3_620), want: "ending" },
] as const;
for (const { name, ttl, at, want } of lives) {
  t.test(`a certificate ${name} is ${want}`, async (t) => {
    const pair = { ...read(issued.certPem, issued.keyPem), notAfterMs: atDays(ttl) };
    t.equal(validityOf(pair, at), want);
  });
}
