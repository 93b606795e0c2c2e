import { createHmac, createPrivateKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import fc from "fast-check";
import t from "tap";
import { acceptSignature, demandedComponents, parseAcceptSignature } from "../../src/challenge/accept-signature.ts";
import type { BoundKey } from "../../src/challenge/bound.ts";
import { contentDigest, judgeDigest } from "../../src/challenge/content-digest.ts";
import { type SignatureContext, verifyHttpSignature, verifySignature } from "../../src/challenge/http-signature.ts";
import { Nonces } from "../../src/challenge/nonce.ts";
import { type ProofKey, parseJwk } from "../../src/challenge/proof-key.ts";
import { ReplayMemory } from "../../src/challenge/replay.ts";
import { type SignedRequest, signatureBase } from "../../src/challenge/signature-base.ts";
import { type InnerList, parseDictionary, serialiseMember } from "../../src/challenge/structured-fields.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { ED25519_JWK, ED25519_PRIVATE_JWK, RSA_PSS_JWK, TEST_REQUEST, VECTORS } from "../support/rfc9421.ts";

type Parts = typeof TEST_REQUEST;

function requestOf(parts: Partial<Parts> = {}, added: Record<string, readonly string[]> = {}): SignedRequest {
  const { method, scheme, authority, target, headers } = { ...TEST_REQUEST, ...parts };
  const all: Record<string, readonly string[]> = { ...headers, ...added };
  return { method, scheme, authority, target, values: (name) => (Object.hasOwn(all, name) ? (all[name] ?? []) : []) };
}

function keyOf(jwk: unknown): ProofKey {
  const parsed = parseJwk(jwk);
  if (!parsed.ok) throw new Error(parsed.why);
  return parsed.key;
}

function coveredOf(input: string): InnerList {
  const member = parseDictionary(`sig=${input}`)?.get("sig");
  if (member?.kind !== "inner_list") throw new Error("no inner list");
  return member;
}

for (const { section, input, signature, base, jwk, algorithm, request } of VECTORS) {
  t.test(`RFC 9421, ${section}: base and signature are those of the RFC`, async (t) => {
    const made = signatureBase(requestOf(request), coveredOf(input));
    t.same(made, { ok: true, base });
    t.equal(serialiseMember(coveredOf(input)), input);
    t.equal(verifySignature(algorithm, keyOf(jwk), Buffer.from(base), Buffer.from(signature, "base64")), true);
    t.equal(verifySignature(algorithm, keyOf(jwk), Buffer.from(`${base} `), Buffer.from(signature, "base64")), false);
  });
}

t.test("RFC 9421, B.2.4: a response's status is no component of a request", async (t) => {
  t.same(signatureBase(requestOf(), coveredOf('("@status");created=1')), { ok: false, why: "component_unsupported" });
});

t.test("RFC 9421, B.4: what a proxy may change leaves the signature good, and what it may not does not", async (t) => {
  const { input, base, request } = VECTORS.find(({ section }) => section === "B.4") as (typeof VECTORS)[number];
  const baseOf = (changes: Partial<Parts>) => signatureBase(requestOf({ ...request, ...changes }), coveredOf(input));
  const accept = (...values: string[]) => ({ headers: { accept: values } });
  t.same(baseOf({ target: "/demo?name1=Value1&Name2=value2&param=added" }), { ok: true, base });
  t.same(baseOf({ authority: "EXAMPLE.org:443" }), { ok: true, base });
  t.same(baseOf(accept("application/json, */*")), { ok: true, base });
  t.not((baseOf(accept("*/*", "application/json")) as { base: string }).base, base);
  t.not((baseOf({ method: "POST" }) as { base: string }).base, base);
  t.not((baseOf({ authority: "example.com" }) as { base: string }).base, base);
});

const components = [
  ["@scheme", '"@scheme"', "https"],
  ["@target-uri", '"@target-uri"', "https://example.com/foo?param=Value&Pet=dog"],
  ["@request-target", '"@request-target"', "/foo?param=Value&Pet=dog"],
  ["@query-param", '"@query-param";name="param"', "Value"],
  ["a field's bytes", '"content-length";bs', ":MTg=:"],
  ["a strictly serialised dictionary", '"content-digest";sf', TEST_REQUEST.headers["content-digest"]?.[0]],
  [
    "a member of a dictionary",
    '"content-digest";key="sha-512"',
    ":WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
  ],
] as const;
for (const [name, identifier, value] of components) {
  t.test(`${name} is a component`, async (t) => {
    t.same(signatureBase(requestOf(), coveredOf(`(${identifier})`)), {
      ok: true,
      base: `${identifier}: ${value}\n"@signature-params": (${identifier})`,
    });
  });
}

t.test("parameters of a query are re-encoded one way (RFC 9421, section 2.2.8)", async (t) => {
  const target =
    "/path?param=value&foo=bar&baz=batman&qux=&var=this%20is%20a%20big%0Amultiline%20value&bar=with+plus+whitespace&fa%C3%A7ade%22%3A%20=something";
  const queryValue = (name: string) =>
    signatureBase(requestOf({ target }), coveredOf(`("@query-param";name="${name}")`));
  t.match(queryValue("baz"), { base: /: batman\n/ });
  t.match(queryValue("qux"), { base: /: \n/ });
  t.match(queryValue("var"), { base: /: this%20is%20a%20big%0Amultiline%20value\n/ });
  t.match(queryValue("bar"), { base: /: with%20plus%20whitespace\n/ });
  t.match(queryValue("fa%C3%A7ade%22%3A%20"), { base: /: something\n/ });
  t.same(queryValue("absent"), { ok: false, why: "component_absent" });
  t.same(signatureBase(requestOf({ target: "/?a=1&a=2" }), coveredOf('("@query-param";name="a")')), {
    ok: false,
    why: "component_absent",
  });
});

const refusedComponents = [
  ['"@unknown"', "component_unsupported"],
  ['"@method";req', "component_unsupported"],
  ['"date";tr', "component_unsupported"],
  ['"date";sf', "component_unsupported"],
  ['"Date"', "component_unsupported"],
  ['"x-absent"', "component_absent"],
  ['"content-digest";key="sha-256"', "component_absent"],
  ['"date" "date"', "component_repeated"],
  ["token", "component_unsupported"],
  [Array.from({ length: 65 }, (_, index) => `"h${index}"`).join(" "), "too_long"],
] as const;
for (const [list, why] of refusedComponents) {
  t.test(`${list.slice(0, 40)} cannot be covered: ${why}`, async (t) => {
    t.same(signatureBase(requestOf(), coveredOf(`(${list})`)), { ok: false, why });
  });
}

t.test("a value with a line break cannot forge lines of the base", async (t) => {
  const headers = { "x-evil": ['a\n"@method": GET'] };
  t.same(signatureBase(requestOf({ headers }), coveredOf('("x-evil")')), { ok: false, why: "component_absent" });
});

// What follows is about answers to our challenge.

const NOW = toEpochMs(Date.parse("2026-03-02T12:00:00Z"));
const SECONDS = NOW / 1_000;
const nonces = new Nonces(new Uint8Array(32).fill(3));
let chance = 0;
const nonceAt = (ms: number) => nonces.issue("signature", toEpochMs(ms), Buffer.alloc(8, ++chance));
const ed25519 = createPrivateKey({ key: ED25519_PRIVATE_JWK, format: "jwk" });
const bound = (...jwks: readonly unknown[]): readonly BoundKey[] =>
  jwks.map((jwk) => ({ by: "registered", thumbprint: keyOf(jwk).thumbprint, key: keyOf(jwk) }));

const context = (changes: Partial<SignatureContext> = {}): SignatureContext => ({
  now: NOW,
  keys: bound(ED25519_JWK, RSA_PSS_JWK),
  nonces,
  replays: new ReplayMemory(),
  demand: { covered: demandedComponents([]), tag: "sallyport", allowPkcs1: false },
  ...changes,
});

interface Making {
  readonly covered?: string;
  readonly parameters?: Readonly<Record<string, string | number | undefined>>;
  readonly key?: KeyObject;
  readonly hash?: string | null;
  readonly label?: string;
  readonly parts?: Partial<Parts>;
}

/** A request that is signed as asked; sound unless told otherwise. */
function signed({
  covered,
  parameters,
  key = ed25519,
  hash = null,
  label = "sig1",
  parts = {},
}: Making = {}): SignedRequest {
  const all = {
    created: SECONDS,
    nonce: nonceAt(NOW - 1_000),
    keyid: "test-key-ed25519",
    tag: "sallyport",
    ...parameters,
  };
  const text = Object.entries(all)
    .flatMap(([name, value]) => (value === undefined ? [] : [`;${name}=${JSON.stringify(value)}`]))
    .join("");
  const input = `(${covered ?? '"@method" "@authority" "@path"'})${text}`;
  const base = signatureBase(requestOf(parts), coveredOf(input));
  const data = Buffer.from(base.ok ? base.base : "nothing");
  const bytes = sign(hash, data, { key, dsaEncoding: "ieee-p1363" });
  return requestOf(parts, {
    "signature-input": [`${label}=${input}`],
    signature: [`${label}=:${bytes.toString("base64")}:`],
  });
}

t.test("a signature that answers the challenge is valid, and names its key", async (t) => {
  t.same(verifyHttpSignature(signed(), context()), {
    kind: "valid",
    thumbprint: keyOf(ED25519_JWK).thumbprint,
    label: "sig1",
    nonceIssuedAt: NOW - 1_000,
  });
});

t.test("a signature without keyid may be by any key that counts; a thumbprint names one too", async (t) => {
  t.match(verifyHttpSignature(signed({ parameters: { keyid: undefined } }), context()), { kind: "valid" });
  const keyid = keyOf(ED25519_JWK).thumbprint;
  t.match(verifyHttpSignature(signed({ parameters: { keyid } }), context()), { kind: "valid" });
});

t.test("no signature, or none with our tag, is missing", async (t) => {
  t.same(verifyHttpSignature(requestOf(), context()), { kind: "missing" });
  t.same(verifyHttpSignature(signed({ parameters: { tag: "another" } }), context()), { kind: "missing" });
  t.same(verifyHttpSignature(signed({ parameters: { tag: undefined } }), context()), { kind: "missing" });
});

t.test("a proxy's signature beside the caller's does not disturb", async (t) => {
  const own = signed({ label: "caller" });
  const other = signed({ label: "proxy", parameters: { tag: "proxy" } });
  const both = (name: string) => [...other.values(name), ...own.values(name)];
  t.match(
    verifyHttpSignature(
      requestOf({}, { "signature-input": both("signature-input"), signature: both("signature") }),
      context(),
    ),
    { kind: "valid", label: "caller" },
  );
});

const stranger = generateKeyPairSync("ed25519").privateKey;
const cases: readonly (readonly [name: string, making: Making, want: Record<string, string>])[] = [
  ["without a nonce", { parameters: { nonce: undefined } }, { kind: "wants_nonce", why: "absent" }],
  ["with a stale nonce", { parameters: { nonce: nonceAt(NOW - 300_001) } }, { kind: "wants_nonce", why: "stale" }],
  ["with a nonce of its own", { parameters: { nonce: "mine" } }, { kind: "wants_nonce", why: "unknown" }],
  [
    "with a DPoP nonce",
    { parameters: { nonce: nonces.issue("dpop", NOW, Buffer.alloc(8)) } },
    { kind: "wants_nonce", why: "unknown" },
  ],
  ["by a stranger", { key: stranger }, { kind: "invalid", why: "signature" }],
  ["by a key of another name", { parameters: { keyid: "another" } }, { kind: "invalid", why: "key_unknown" }],
  [
    "that names another key that counts",
    { parameters: { keyid: "test-key-rsa-pss" } },
    { kind: "invalid", why: "signature" },
  ],
  ["that does not cover the method", { covered: '"@authority" "@path"' }, { kind: "invalid", why: "not_covered" }],
  ["that does not cover the authority", { covered: '"@method" "@path"' }, { kind: "invalid", why: "not_covered" }],
  ["that does not cover the path", { covered: '"@method" "@authority"' }, { kind: "invalid", why: "not_covered" }],
  [
    "that covers a lookalike of the path",
    { covered: '"@method" "@authority" "@path";bs' },
    { kind: "invalid", why: "not_covered" },
  ],
  [
    "that covers what is not there",
    { covered: '"@method" "@authority" "@path" "x-absent"' },
    { kind: "invalid", why: "component_absent" },
  ],
  ["without a time", { parameters: { created: undefined } }, { kind: "invalid", why: "created" }],
  ["with a time that is text", { parameters: { created: `${SECONDS}` } }, { kind: "invalid", why: "created" }],
  ["made too long ago", { parameters: { created: SECONDS - 301 } }, { kind: "invalid", why: "created" }],
  ["made in the future", { parameters: { created: SECONDS + 11 } }, { kind: "invalid", why: "created" }],
  ["that has expired", { parameters: { expires: SECONDS - 1 } }, { kind: "invalid", why: "expired" }],
  ["with an expiry that is text", { parameters: { expires: "soon" } }, { kind: "invalid", why: "expired" }],
  ["with a nonce that is a number", { parameters: { nonce: 7 } }, { kind: "invalid", why: "malformed" }],
  ["that says another algorithm", { parameters: { alg: "ecdsa-p256-sha256" } }, { kind: "invalid", why: "algorithm" }],
  ["that says a shared secret", { parameters: { alg: "hmac-sha256" } }, { kind: "invalid", why: "algorithm" }],
];
for (const [name, making, want] of cases) {
  t.test(`a signature ${name} is ${want.kind}: ${want.why}`, async (t) => {
    t.same(verifyHttpSignature(signed(making), context()), want);
  });
}

t.test("times at the edges, and the right algorithm by name, are accepted", async (t) => {
  for (const parameters of [
    { created: SECONDS - 300 },
    { created: SECONDS + 10 },
    { expires: SECONDS },
    { alg: "ed25519" },
  ]) {
    t.match(verifyHttpSignature(signed({ parameters }), context()), { kind: "valid" });
  }
});

const changed: readonly Partial<Parts>[] = [
  { method: "DELETE" },
  { authority: "billing.example" },
  { target: "/foo/bar" },
];
for (const parts of changed) {
  t.test(`a signature does not hold for another request: ${JSON.stringify(parts)}`, async (t) => {
    const original = signed();
    const moved = requestOf(parts, {
      "signature-input": original.values("signature-input"),
      signature: original.values("signature"),
    });
    t.same(verifyHttpSignature(moved, context()), { kind: "invalid", why: "signature" });
  });
}

t.test("a nonce is answered once by one key, even by another signature", async (t) => {
  const shared = context();
  const nonce = nonceAt(NOW);
  t.match(verifyHttpSignature(signed({ parameters: { nonce } }), shared), { kind: "valid" });
  const again = signed({ parameters: { nonce, created: SECONDS - 1 } });
  t.same(verifyHttpSignature(again, shared), { kind: "invalid", why: "replayed" });
});

t.test("without keys that count, every signature fails", async (t) => {
  t.same(verifyHttpSignature(signed(), context({ keys: [] })), { kind: "invalid", why: "key_not_bound" });
  const thumbprintOnly: BoundKey = { by: "token_key", thumbprint: keyOf(ED25519_JWK).thumbprint, key: undefined };
  t.same(verifyHttpSignature(signed(), context({ keys: [thumbprintOnly] })), { kind: "invalid", why: "key_not_bound" });
});

t.test("a shared secret made of the public key proves nothing", async (t) => {
  const input = `("@method" "@authority" "@path");created=${SECONDS};nonce="${nonceAt(NOW)}";alg="hmac-sha256";tag="sallyport"`;
  const base = signatureBase(requestOf(), coveredOf(input));
  const mac = createHmac("sha256", JSON.stringify(ED25519_JWK))
    .update(base.ok ? base.base : "")
    .digest("base64");
  const request = requestOf({}, { "signature-input": [`s=${input}`], signature: [`s=:${mac}:`] });
  t.same(verifyHttpSignature(request, context()), { kind: "invalid", why: "algorithm" });
});

t.test("ECDSA over P-256 and P-384, and RSA as policy allows", async (t) => {
  for (const [curve, hash] of [
    ["P-256", "sha256"],
    ["P-384", "sha384"],
  ] as const) {
    const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: curve });
    const request = signed({ key: privateKey, hash, parameters: { keyid: undefined } });
    t.match(verifyHttpSignature(request, context({ keys: bound(publicKey.export({ format: "jwk" })) })), {
      kind: "valid",
    });
  }
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const keys = bound(publicKey.export({ format: "jwk" }));
  const pkcs1 = signed({ key: privateKey, hash: "sha256", parameters: { keyid: undefined, alg: "rsa-v1_5-sha256" } });
  t.same(verifyHttpSignature(pkcs1, context({ keys })), { kind: "invalid", why: "algorithm" });
  const demand = { ...context().demand, allowPkcs1: true };
  t.match(verifyHttpSignature(pkcs1, context({ keys, demand })), { kind: "valid" });
});

t.test("a body's digest is demanded where the challenge says so", async (t) => {
  const demand = { ...context().demand, covered: demandedComponents(["content-digest"]) };
  t.same(verifyHttpSignature(signed(), context({ demand })), { kind: "invalid", why: "not_covered" });
  const covered = '"@method" "@authority" "@path" "content-digest"';
  t.match(verifyHttpSignature(signed({ covered }), context({ demand })), { kind: "valid" });
});

t.test("a digest matches its body, and weak digests count as none", async (t) => {
  const body = Buffer.from(TEST_REQUEST.body);
  t.equal(judgeDigest(TEST_REQUEST.headers["content-digest"]?.[0] as string, body), "matched");
  t.equal(contentDigest(body), "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:");
  t.equal(judgeDigest(contentDigest(body), Buffer.from("another")), "mismatched");
  t.equal(judgeDigest("md5=:AAAAAAAAAAAAAAAAAAAAAA==:", body), "weak");
  t.equal(judgeDigest("sha-256=1", body), "malformed");
  t.equal(judgeDigest("sha-256=:AAAA", body), "malformed");
});

t.test("the challenge is written as RFC 9421 has it, and read back", async (t) => {
  const field = acceptSignature({ nonce: "n-1", fields: ["content-digest"] });
  t.equal(field, 'sallyport=("@method" "@authority" "@path" "content-digest");created;nonce="n-1";tag="sallyport"');
  const [read] = parseAcceptSignature(field);
  t.match(read, { label: "sallyport", nonce: "n-1", tag: "sallyport", keyId: undefined, expires: false });
  t.equal(read?.components.length, 4);
  t.same(parseAcceptSignature("not a dictionary ("), []);
});

t.test("no change of a header leaves an answer valid, and none makes verification throw", async () => {
  const request = signed();
  const input = request.values("signature-input")[0] as string;
  const signature = request.values("signature")[0] as string;
  const verify = (newInput: string, newSignature: string) =>
    verifyHttpSignature(requestOf({}, { "signature-input": [newInput], signature: [newSignature] }), context()).kind;
  const character = fc.constantFrom(...'abcXYZ019+/=:;()" ,@-');
  fc.assert(
    fc.property(fc.nat(input.length - 1), character, (at, to) => {
      const mutated = input.slice(0, at) + to + input.slice(at + 1);
      return mutated === input || verify(mutated, signature) !== "valid" || canonical(mutated) === canonical(input);
    }),
    { numRuns: 1_000 },
  );
  fc.assert(
    fc.property(fc.nat(signature.length - 1), character, (at, to) => {
      const mutated = signature.slice(0, at) + to + signature.slice(at + 1);
      return mutated === signature || verify(input, mutated) !== "valid" || canonical(mutated) === canonical(signature);
    }),
    { numRuns: 1_000 },
  );
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), (a, b) => verify(a, b) !== "valid"),
  );
});

/** Two spellings of one dictionary say the same. */
function canonical(field: string): string | undefined {
  const members = parseDictionary(field);
  return members === undefined ? undefined : [...members.values()].map(serialiseMember).join();
}
