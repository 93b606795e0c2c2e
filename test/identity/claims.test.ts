import fc from "fast-check";
import t from "tap";
import { canonicalAddress } from "../../src/identity/address.ts";
import { readApiKey } from "../../src/identity/api-key.ts";
import { tokenFromClaims } from "../../src/identity/jwt-claims.ts";
import { keyedHash } from "../../src/identity/keyed-hash.ts";

const key = new Uint8Array(32).fill(7);

t.test("claims become facts, times in milliseconds", async (t) => {
  const claims = {
    iss: "https://issuer",
    sub: "billing",
    iat: 1_700_000_000,
    exp: 1_700_000_300.5,
    auth_time: 1_699_999_000,
    acr: "urn:gold",
    jti: "abc",
    cnf: { "x5t#S256": "thumb", jkt: "key" },
    act: { sub: "one", act: { sub: "two" } },
  };
  t.match(tokenFromClaims(claims, key, "raw"), {
    kind: "verified",
    issuer: "https://issuer",
    subject: "billing",
    issuedAt: 1_700_000_000_000,
    expiresAt: 1_700_000_300_500,
    authenticatedAt: 1_699_999_000_000,
    acr: "urn:gold",
    boundCertificate: "thumb",
    boundKey: "key",
    actors: ["one", "two"],
    hasJti: true,
  });
});

t.test("a token keeps its id over re-encodings when it has a jti, else by its text", async (t) => {
  const id = (claims: Record<string, unknown>, raw: string) =>
    tokenFromClaims({ iss: "i", sub: "s", ...claims }, key, raw).kind === "verified"
      ? (tokenFromClaims({ iss: "i", sub: "s", ...claims }, key, raw) as { id: string }).id
      : "";
  t.equal(id({ jti: "a" }, "one"), id({ jti: "a" }, "two"));
  t.not(id({ jti: "a" }, "one"), id({ jti: "b" }, "one"));
  t.not(id({}, "one"), id({}, "two"));
});

for (const [claims, why] of [
  [{ sub: "s" }, "token without issuer"],
  [{ iss: "i" }, "token without subject"],
  [{ iss: "i", sub: "" }, "token without subject"],
  [{ iss: "i", sub: 7 }, "token without subject"],
  [{ iss: "i", sub: "line\nbreak" }, "token without subject"],
  [{ iss: "i", sub: "half \ud800" }, "token without subject"],
  [{ iss: "i", sub: "x".repeat(513) }, "token without subject"],
] as const) {
  t.test(`${JSON.stringify(claims).slice(0, 40)} names nobody`, async (t) => {
    t.match(tokenFromClaims(claims, key, "raw"), { kind: "unverified", why, forged: false });
  });
}

t.test("absurd times are absent, and no claims make it throw", async (t) => {
  t.match(tokenFromClaims({ iss: "i", sub: "s", iat: -1, exp: 1e300 }, key, "r"), {
    issuedAt: undefined,
    expiresAt: undefined,
  });
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), fc.anything()),
      (claims) => tokenFromClaims(claims, key, "r").kind !== "absent",
    ),
  );
});

t.test("an API key is known by its SHA-256 and shown only as a keyed hash", async (t) => {
  const known = new Map([["2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", "partner"]]); // of "secret"
  t.match(readApiKey("secret", known, key), { kind: "known", name: "partner" });
  t.match(readApiKey("ApiKey secret", known, key), { kind: "known", name: "partner" });
  t.match(readApiKey("other", known, key), { kind: "unknown" });
  t.same(readApiKey(undefined, known, key), { kind: "absent" });
  t.same(readApiKey("  ", known, key), { kind: "absent" });
  t.notMatch(JSON.stringify(readApiKey("hunter2", known, key)), /hunter2/);
});

t.test("a keyed hash depends on its key", async (t) => {
  t.equal(keyedHash(key, "a"), keyedHash(key, "a"));
  t.not(keyedHash(key, "a"), keyedHash(new Uint8Array(32), "a"));
  t.match(keyedHash(key, "a"), /^[0-9a-f]{16}$/);
});

for (const [text, want] of [
  ["192.0.2.7", "192.0.2.7"],
  ["::ffff:192.0.2.7", "192.0.2.7"],
  ["::ffff:c000:207", "192.0.2.7"],
  ["2001:DB8:0:0:0:0:0:1", "2001:db8::1"],
  ["fe80::1%eth0", "fe80::1"],
  ["::1", "::1"],
  ["192.0.2.256", undefined],
  ["192.0.2.7:80", undefined],
  ["not an address", undefined],
  ["", undefined],
  ["1".repeat(100), undefined],
] as const) {
  t.test(`${JSON.stringify(text.slice(0, 30))} is ${want ?? "no address"}`, async (t) => {
    t.equal(canonicalAddress(text), want);
  });
}
