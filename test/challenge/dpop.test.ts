import { createHmac } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import t, { type Test } from "tap";
import type { BoundKey } from "../../src/challenge/bound.ts";
import { type DpopContext, type DpopRequest, tokenHash, verifyDpop } from "../../src/challenge/dpop.ts";
import { Nonces } from "../../src/challenge/nonce.ts";
import { JWS_ALGORITHMS, parseJwk } from "../../src/challenge/proof-key.ts";
import { ReplayMemory } from "../../src/challenge/replay.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { encode, jws, proofOf, type TestKey, testKey } from "../support/proofs.ts";
import { skipUnless } from "../support/skip.ts";

const NOW = toEpochMs(Date.parse("2026-03-02T12:00:00Z"));
const IAT = NOW / 1_000;
const TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
const nonces = new Nonces(new Uint8Array(32).fill(3));
const chance = new Uint8Array(8);

const keys = Object.fromEntries(JWS_ALGORITHMS.map((alg) => [alg, testKey(alg)])) as Record<string, TestKey>;
const key = keys.ES256 as TestKey;
const stranger = testKey("ES256");

const boundTo = (...bound: readonly TestKey[]): readonly BoundKey[] =>
  bound.map(({ jkt }) => ({ by: "token_key", thumbprint: jkt, key: undefined }));

const request = (proof: string | readonly string[], changes: Partial<DpopRequest> = {}): DpopRequest => ({
  proofs: [proof].flat() as string[],
  method: "GET",
  origins: ["https://orders.example"],
  path: "/orders/7?full=1",
  accessToken: TOKEN,
  ...changes,
});

const context = (changes: Partial<DpopContext> = {}): DpopContext => ({
  now: NOW,
  keys: boundTo(...Object.values(keys)),
  nonces,
  replays: new ReplayMemory(),
  ...changes,
});

const nonceAt = (ms: number) => nonces.issue("dpop", toEpochMs(ms), chance);
const claims = (changes: Record<string, unknown> = {}) => ({
  jti: "one",
  htm: "GET",
  htu: "https://orders.example/orders/7",
  iat: IAT,
  ath: tokenHash(TOKEN),
  nonce: nonceAt(NOW - 1_000),
  ...changes,
});

t.test("a sound proof is valid, whatever its algorithm, and names its key", async (t) => {
  for (const alg of JWS_ALGORITHMS) {
    const made = keys[alg] as TestKey;
    t.same(
      verifyDpop(request(proofOf(made, claims())), context()),
      { kind: "valid", jkt: made.jkt, jti: "one", nonceIssuedAt: NOW - 1_000 },
      alg,
    );
  }
});

t.test("no proof is missing", async (t) => {
  t.same(verifyDpop(request([]), context()), { kind: "missing" });
});

const nonceCases = [
  { name: "without a nonce", nonce: undefined, why: "absent" },
  { name: "with a stale nonce", nonce: nonceAt(NOW - 5 * 60_000 - 1), why: "stale" },
  { name: "with somebody's own nonce", nonce: "made-up", why: "unknown" },
  { name: "with a signature's nonce", nonce: nonces.issue("signature", NOW, chance), why: "unknown" },
];
for (const { name, nonce, why } of nonceCases) {
  t.test(`a proof ${name} is asked for one of ours`, async (t) => {
    const replays = new ReplayMemory();
    t.same(verifyDpop(request(proofOf(key, claims({ nonce }))), context({ replays })), { kind: "wants_nonce", why });
    t.equal(replays.size, 0, "and its jti is not spent");
  });
}

t.test("where no nonce is asked for, a proof without one is valid for a minute", async (t) => {
  const without = (iat: number) =>
    verifyDpop(request(proofOf(key, claims({ nonce: undefined, iat }))), context({ nonces: undefined }));
  t.match(without(IAT - 60), { kind: "valid", nonceIssuedAt: undefined });
  t.same(without(IAT - 61), { kind: "invalid", why: "time" });
});

const invalidClaims = [
  ["another method", { htm: "POST" }, "method"],
  ["a method in lower case", { htm: "get" }, "method"],
  ["another host", { htu: "https://billing.example/orders/7" }, "uri"],
  ["another scheme", { htu: "http://orders.example/orders/7" }, "uri"],
  ["another port", { htu: "https://orders.example:8443/orders/7" }, "uri"],
  ["another path", { htu: "https://orders.example/orders/8" }, "uri"],
  ["a relative URI", { htu: "/orders/7" }, "uri"],
  ["a URI that names a user", { htu: "https://orders.example@orders.example/orders/7" }, "uri"],
  ["a time too far back", { iat: IAT - 301 }, "time"],
  ["a time too far ahead", { iat: IAT + 11 }, "time"],
  ["a time as text", { iat: String(IAT) }, "claims"],
  ["a time below zero", { iat: -1 }, "claims"],
  ["no time", { iat: undefined }, "claims"],
  ["no jti", { jti: undefined }, "claims"],
  ["an empty jti", { jti: "" }, "claims"],
  ["a jti that is too long", { jti: "j".repeat(257) }, "claims"],
  ["no method", { htm: undefined }, "claims"],
  ["no URI", { htu: undefined }, "claims"],
  ["a nonce that is no text", { nonce: 7 }, "claims"],
  ["no token hash", { ath: undefined }, "token_hash"],
  ["another token's hash", { ath: tokenHash("another") }, "token_hash"],
] as const;
for (const [name, changes, why] of invalidClaims) {
  t.test(`a proof with ${name} is invalid`, async (t) => {
    t.same(verifyDpop(request(proofOf(key, claims(changes))), context()), { kind: "invalid", why });
  });
}

t.test("times at the edges are accepted", async (t) => {
  for (const iat of [IAT - 300, IAT + 10]) {
    t.match(verifyDpop(request(proofOf(key, claims({ iat }))), context()), { kind: "valid" });
  }
});

t.test("the URI is compared in normal form, and any of the service's origins will do", async (t) => {
  const origins = ["http://10.0.0.7:8080", "https://orders.example"];
  const proof = proofOf(key, claims({ htu: "HTTPS://ORDERS.example:443/a/../orders/%37#x" }));
  t.match(verifyDpop(request(proof, { origins }), context()), { kind: "valid" });
});

t.test("without an access token no hash is needed", async (t) => {
  const proof = proofOf(key, claims({ ath: undefined }));
  t.match(verifyDpop(request(proof, { accessToken: undefined }), context()), { kind: "valid" });
});

t.test("a proof by a key that was not bound beforehand is invalid, however sound", async (t) => {
  t.same(verifyDpop(request(proofOf(stranger, claims())), context()), { kind: "invalid", why: "key_not_bound" });
  t.same(verifyDpop(request(proofOf(key, claims())), context({ keys: [] })), { kind: "invalid", why: "key_not_bound" });
  t.match(verifyDpop(request(proofOf(stranger, claims())), context({ keys: "any" })), { kind: "valid" });
});

t.test("a proof is good once", async (t) => {
  const shared = context();
  const proof = proofOf(key, claims());
  t.match(verifyDpop(request(proof), shared), { kind: "valid" });
  t.same(verifyDpop(request(proof), shared), { kind: "invalid", why: "replayed" });
  t.same(
    verifyDpop(request(proofOf(key, claims({ iat: IAT - 1 }))), shared),
    { kind: "invalid", why: "replayed" },
    "a new signature over the same jti is the same proof",
  );
});

t.test(
  "a proof that came where no nonce was asked for does not come again where one is, for as long as its nonce lives",
  async (t) => {
    const replays = new ReplayMemory();
    const proof = proofOf(key, claims());
    t.match(verifyDpop(request(proof), context({ replays, nonces: undefined })), { kind: "valid" });
    for (let second = 1; second < 299; second++)
      replays.admit("other", `${second}`, NOW + second * 1_000, NOW + 600_000, NOW + second * 1_000);
    t.same(verifyDpop(request(proof), context({ replays, now: toEpochMs(NOW + 298_000) })), {
      kind: "invalid",
      why: "replayed",
    });
  },
);

t.test("a proof that was forgotten is asked for anew instead of being trusted", async (t) => {
  const shared = context({ replays: new ReplayMemory({ startedAtMs: NOW + 1_000 }) });
  t.same(verifyDpop(request(proofOf(key, claims())), shared), { kind: "wants_nonce", why: "forgotten" });
});

const good = proofOf(key, claims());
const [goodHeader, goodClaims, goodSignature] = good.split(".") as [string, string, string];
const header = (changes: Record<string, unknown>) => proofOf(key, claims(), changes);
const hmacOf = (secret: string | Buffer) => {
  const signed = `${encode({ typ: "dpop+jwt", alg: "HS256", jwk: key.jwk })}.${encode(claims())}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
};
const privateJwk = key.privateKey.export({ format: "jwk" });
const small = testKey("RS256", 1024);
const offCurve = { ...key.jwk, y: Buffer.alloc(32, 1).toString("base64url") };
const rsa = keys.RS256 as TestKey;

const forms = [
  ["two headers", [good, good], "several_proofs"],
  ["no JWT", "hello", "malformed"],
  ["four parts", `${good}.x`, "malformed"],
  ["a JWE's five parts", "a.b.c.d.e", "malformed"],
  ["a header that is no JSON", `${encode("{")}.${goodClaims}.${goodSignature}`, "malformed"],
  ["a header that is a list", `${encode([])}.${goodClaims}.${goodSignature}`, "malformed"],
  ["padding", `${good}=`, "malformed"],
  ["a signature spelled another way", `${good.slice(0, -1)}${nextSpelling(good.at(-1) as string)}`, "malformed"],
  ["too many characters", proofOf(key, claims({ extra: "x".repeat(8_192) })), "too_long"],
  ["another type", header({ typ: "JWT" }), "type"],
  ["no type", header({ typ: undefined }), "type"],
  ["an extension that must be understood", header({ crit: ["b64"], b64: false }), "malformed"],
  ["no algorithm", header({ alg: undefined }), "algorithm"],
  ["alg none", `${encode({ typ: "dpop+jwt", alg: "none", jwk: key.jwk })}.${goodClaims}.`, "algorithm"],
  ["a symmetric algorithm over the public key's text", hmacOf(JSON.stringify(key.jwk)), "algorithm"],
  ["a symmetric algorithm over its DER", hmacOf(key.privateKey.export({ type: "pkcs8", format: "der" })), "algorithm"],
  ["an algorithm of another curve", header({ alg: "ES384" }), "algorithm"],
  ["an algorithm of another kind of key", header({ alg: "RS256" }), "algorithm"],
  ["an algorithm in another case", header({ alg: "es256" }), "algorithm"],
  ["a key made for another algorithm", header({ jwk: { ...key.jwk, alg: "ES384" } }), "algorithm"],
  ["no key", header({ jwk: undefined }), "key_malformed"],
  ["a key by reference", header({ jwk: "https://keys.example/1" }), "key_malformed"],
  ["a private key", header({ jwk: privateJwk }), "key_private"],
  ["a symmetric key", header({ jwk: { kty: "oct", k: "AAAA" } }), "key_private"],
  ["a kind of key that is not known", header({ jwk: { kty: "AKP" } }), "key_unsupported"],
  ["a curve that is not known", header({ jwk: { ...key.jwk, crv: "secp256k1" } }), "key_unsupported"],
  ["a key for encryption", header({ jwk: { ...key.jwk, use: "enc" } }), "key_unsupported"],
  ["a key for other operations", header({ jwk: { ...key.jwk, key_ops: ["sign"] } }), "key_unsupported"],
  ["a coordinate of another length", header({ jwk: { ...key.jwk, x: "AAAA" } }), "key_malformed"],
  ["a small RSA key", proofOf(small, claims()), "key_size"],
  ["an exponent of one", proofOf(rsa, claims(), { jwk: { ...rsa.jwk, e: "AQ" } }), "key_size"],
  ["an exponent of many bytes", proofOf(rsa, claims(), { jwk: { ...rsa.jwk, e: "AQAAAAAAAQ" } }), "key_size"],
  ["an RSA key with a leading zero", proofOf(rsa, claims(), { jwk: { ...rsa.jwk, e: "AAEAAQ" } }), "key_malformed"],
  ["another's signature", jws({ typ: "dpop+jwt", alg: "ES256", jwk: key.jwk }, claims(), stranger), "signature"],
  ["a signature of zeros", `${goodHeader}.${goodClaims}.${encode("\0".repeat(64))}`, "signature"],
  ["an empty signature", `${goodHeader}.${goodClaims}.`, "signature"],
] as const;
for (const [name, proof, why] of forms) {
  t.test(`a proof with ${name} is invalid`, async (t) => {
    t.same(verifyDpop(request(proof as string | string[]), context({ keys: boundTo(key, small, rsa) })), {
      kind: "invalid",
      why,
    });
  });
}

t.test("a point off its curve is no key", async (t) => {
  const proof = header({ jwk: offCurve });
  t.same(verifyDpop(request(proof), context({ keys: "any" })), { kind: "invalid", why: "key_malformed" });
});

t.test("algorithms can be narrowed, not widened, and the proof has no say", async (t) => {
  const narrowed = context({ algorithms: ["ES384"] });
  t.same(verifyDpop(request(good), narrowed), { kind: "invalid", why: "algorithm" });
});

/** A last character with other unused bits: decodes to the same bytes in a lax decoder. */
function nextSpelling(character: string): string {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  return alphabet[alphabet.indexOf(character) ^ 1] as string;
}

t.test("no single changed character leaves a proof valid", async () => {
  const character = fc.constantFrom(..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=");
  fc.assert(
    fc.property(fc.nat(good.length - 1), character, (at, changed) => {
      const proof = good.slice(0, at) + changed + good.slice(at + 1);
      return proof === good || verifyDpop(request(proof), context()).kind !== "valid";
    }),
    { numRuns: 2_000 },
  );
});

t.test("no text, header, key or claim makes verification throw or pass", async () => {
  const anything = fc.jsonValue();
  fc.assert(
    fc.property(
      fc.string({ unit: "binary", maxLength: 200 }),
      (text) => verifyDpop(request(text), context()).kind === "invalid",
    ),
  );
  fc.assert(
    fc.property(fc.constantFrom("typ", "alg", "jwk", "crit"), anything, (name, value) => {
      const kind = verifyDpop(request(header({ [name]: value })), context({ keys: "any" })).kind;
      return kind !== "valid" || (name === "typ" && value === "dpop+jwt") || (name === "alg" && value === "ES256");
    }),
  );
  fc.assert(
    fc.property(fc.constantFrom("kty", "crv", "x", "y", "use", "key_ops", "alg"), anything, (name, value) => {
      const same = key.jwk[name] === value;
      const kind = verifyDpop(request(header({ jwk: { ...key.jwk, [name]: value } })), context()).kind;
      return same || kind !== "valid" || (name === "alg" && typeof value !== "string");
    }),
  );
});

/** Examples printed in RFC 9449, figures 2 and 13 (section 4.1 and 7.1). Copyright (c) 2023 IETF Trust and its authors. */
const RFC_KEY =
  "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19";
const RFC_JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
const RFC_EXAMPLES = [
  {
    name: "the token request",
    proof: `${RFC_KEY}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg`,
    method: "POST",
    url: "https://server.example.com/token",
    now: 1562262616,
    jkt: RFC_JKT,
    access_token: undefined as string | undefined,
  },
  {
    name: "the protected resource",
    proof: `${RFC_KEY}.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA`,
    method: "GET",
    url: "https://resource.example.org/protectedresource",
    now: 1562262618,
    jkt: RFC_JKT,
    access_token: TOKEN,
  },
];

function checkExample(t: Test, example: (typeof RFC_EXAMPLES)[number]): void {
  const url = new URL(example.url);
  const outcome = (changes: Partial<DpopRequest> = {}) =>
    verifyDpop(
      {
        proofs: [example.proof],
        method: example.method,
        origins: [url.origin],
        path: url.pathname,
        accessToken: example.access_token,
        ...changes,
      },
      {
        now: toEpochMs(example.now * 1_000),
        keys: [{ by: "token_key", thumbprint: example.jkt, key: undefined }],
        nonces: undefined,
        replays: new ReplayMemory(),
      },
    );
  t.match(outcome(), { kind: "valid", jkt: example.jkt });
  t.same(outcome({ method: "PUT" }), { kind: "invalid", why: "method" });
  t.same(outcome({ accessToken: "another" }), { kind: "invalid", why: "token_hash" });
}

for (const example of RFC_EXAMPLES) {
  t.test(`RFC 9449's example of ${example.name} is valid`, async (t) => {
    checkExample(t, example);
  });
}

/** Vector sets that are too large to be part of this repository. */
const DATA = process.env.SALLYPORT_SHARED ?? fileURLToPath(new URL("../../../shared", import.meta.url));
const DPOP = `${DATA}/data/conformance/dpop/rfc9449-vectors.json`;
const JOSE = `${DATA}/data/conformance/jose/json_web_signature_test.json`;
const KEYS = `${DATA}/data/conformance/jose/json_web_key_test.json`;
const missing = (path: string) =>
  skipUnless(existsSync(path), `${path} is not here; SALLYPORT_SHARED names the folder`, { obtainable: false });

t.test("every vector of the DPoP set is valid", missing(DPOP), async (t) => {
  for (const example of JSON.parse(readFileSync(DPOP, "utf8")) as typeof RFC_EXAMPLES) checkExample(t, example);
});

interface JwsGroup {
  readonly comment: string;
  readonly public?: {
    readonly alg?: string;
    readonly kty?: string;
    readonly keys?: readonly Record<string, unknown>[];
  };
  readonly tests: readonly { readonly tcId: number; readonly jws: unknown; readonly result: string }[];
}

t.test(
  "Wycheproof's JWS vectors verify as they should under the keys and algorithms of proofs",
  missing(JOSE),
  async (t) => {
    const { jwsVerdict } = await import("../support/jws.ts");
    const { testGroups } = JSON.parse(readFileSync(JOSE, "utf8")) as { testGroups: readonly JwsGroup[] };
    let valid = 0;
    let invalid = 0;
    for (const group of testGroups) {
      if (group.public === undefined) continue;
      for (const { tcId, jws: text, result } of group.tests) {
        const accepted = jwsVerdict(text, group.public);
        if (result === "valid") {
          // Some of RFC 7520's keys name another algorithm than the one used (PS256, ES521): such keys are refused here.
          const { alg, ...nameless } = group.public;
          const misnamed = group.comment.startsWith("rfc7520") && alg !== "RS256";
          t.equal(accepted, !misnamed, `${group.comment} ${tcId}`);
          t.equal(jwsVerdict(text, nameless), true, `${group.comment} ${tcId} by a key for any algorithm`);
          valid++;
        } else {
          t.equal(accepted, false, `${group.comment} ${tcId}`);
          invalid++;
        }
      }
    }
    t.ok(valid > 25 && invalid > 300, `${valid} valid, ${invalid} invalid`);
  },
);

t.test("Wycheproof's bad keys are not keys that proofs can be made with", missing(KEYS), async (t) => {
  const { jwsVerdict } = await import("../support/jws.ts");
  const { testGroups } = JSON.parse(readFileSync(KEYS, "utf8")) as { testGroups: readonly JwsGroup[] };
  for (const { comment, public: set, tests } of testGroups) {
    // A key from a weak generator (ROCA) is well formed; that its owner can be impersonated is found out by scanners.
    if (set?.keys === undefined || comment === "jws_rsa_roca_key") continue;
    for (const { tcId, jws: text, result } of tests) {
      const accepted = set.keys.some((jwk) => parseJwk(jwk).ok && jwsVerdict(text, jwk));
      t.equal(accepted, result === "valid", `${comment} ${tcId}`);
    }
  }
});
