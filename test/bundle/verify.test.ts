/** Tests what a verifier takes and refuses: signatures, roots, revisions, times and damage. */

import { createPublicKey, verify as verifyBytes } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { flattenedVerify, GeneralSign, importJWK } from "jose";
import t from "tap";
import { readBundle, writeBundle } from "../../src/bundle/bundle-file.ts";
import { addSignature, readJws, signersOf, unsignedJws, writeJws } from "../../src/bundle/jws.ts";
import { signBundle, signRoot, unsignedRoot } from "../../src/bundle/sign.ts";
import { verifyBundle } from "../../src/bundle/verify.ts";
import { type Bundle, BundleSchema } from "../../src/gen/sallyport/bundle/v1/bundle_pb.ts";
import type { Trust, TrustRoot } from "../../src/model/bundle.ts";
import { OperatingError } from "../../src/model/errors.ts";
import { alice, bob, carol, DAY_MS, ISSUED_MS, rootOf, signedRoot, testBundle } from "../support/bundles.ts";

const NOW = ISSUED_MS + DAY_MS;
const trustIn = (root: TrustRoot): Trust => ({ root, accepted: undefined });
const one = trustIn(rootOf(1, 1, [alice]));
const twoOfThree = trustIn(rootOf(1, 2, [alice, bob, carol]));
const take = (bundle: Bundle, trust: Trust = one, now = NOW) => verifyBundle(bundle, trust, now, { label: "b" });
/** What comes of a bundle: its revision, or the code of its refusal. */
const outcome = async (bundle: Bundle, trust: Trust = one, now = NOW): Promise<number | string> => {
  try {
    return (await take(bundle, trust, now)).facts.revision;
  } catch (error) {
    if (error instanceof OperatingError) return error.code;
    throw error;
  }
};

t.test("a good bundle gives its files, its facts and what to remember", async (t) => {
  const verified = await take(await testBundle({ revision: 42, files: { "policy.yaml": "policy", "l.txt": "x" } }));
  t.match(verified.facts, { name: "shop", revision: 42, issuedAtMs: ISSUED_MS, expiresAtMs: ISSUED_MS + 30 * DAY_MS });
  t.match(verified.facts.digest, /^[0-9a-f]{64}$/);
  t.equal(Buffer.from(verified.files.get("l.txt")!).toString(), "x");
  t.same(verified.trust.accepted, verified.facts);
  t.same(verified.signers, [alice.kid]);
  t.same(verified.warnings, []);
});

t.test(
  "the Ed25519 JWS of RFC 8037, appendix A.4, verifies; but names no key and no type, so counts for nothing",
  async (t) => {
    const header = "eyJhbGciOiJFZERTQSJ9";
    const payload = "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    const signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    const key = await importJWK({ kty: "OKP", crv: "Ed25519", x: alice.x }, "EdDSA");
    await t.resolves(flattenedVerify({ payload, protected: header, signature }, key));
    const jws = readJws(JSON.stringify({ payload, signatures: [{ protected: header, signature }] }), "b");
    const { kids, warnings } = await signersOf(jws, "sallyport-manifest+jws", [alice], "b");
    t.equal(kids.size, 0);
    t.match(warnings, [/alg, kid and typ and nothing else/]);
  },
);

t.test("a signature is plain Ed25519 over the two parts, as any other program verifies it", async (t) => {
  const jws = await addSignature(unsignedJws(Buffer.from("content")), "sallyport-manifest+jws", bob);
  const [{ protected: header, signature }] = jws.signatures as [{ protected: string; signature: string }];
  t.same(JSON.parse(Buffer.from(header, "base64url").toString()), {
    alg: "EdDSA",
    kid: bob.kid,
    typ: "sallyport-manifest+jws",
  });
  const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x: bob.x }, format: "jwk" });
  t.ok(verifyBytes(null, Buffer.from(`${header}.${jws.payload}`), key, Buffer.from(signature, "base64url")));
});

/** A bundle of which one signature is as given. */
async function withSignatures(
  change: (signatures: Record<string, unknown>[]) => unknown[],
  by = [alice],
): Promise<Bundle> {
  const bundle = await testBundle({ by });
  const { payload, signatures } = readJws(bundle.manifest, "b");
  return create(BundleSchema, {
    ...bundle,
    manifest: writeJws({ payload, signatures: change(structuredClone(signatures) as Record<string, unknown>[]) }),
  });
}
const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
/** Signs with any header. */
async function signedAs(header: Record<string, unknown>): Promise<Bundle> {
  const bundle = await testBundle({ by: [] });
  const jws = readJws(bundle.manifest, "b");
  const key = await importJWK({ kty: "OKP", crv: "Ed25519", x: alice.x, d: alice.d }, "EdDSA");
  const { signatures } = await new GeneralSign(jws.bytes)
    .addSignature(key, { crit: { "x-new": true } })
    .setProtectedHeader(header as { alg: string })
    .sign();
  return create(BundleSchema, { ...bundle, manifest: writeJws({ payload: jws.payload, signatures }) });
}

const header = { alg: "EdDSA", kid: alice.kid, typ: "sallyport-manifest+jws" };
const headers = [
  { name: "as this program writes it", header, want: 1 },
  { name: "alg by its newer name", header: { ...header, alg: "Ed25519" }, want: 1 },
  { name: "no kid", header: { alg: "EdDSA", typ: header.typ }, want: "ERR_BUNDLE_SIGNATURE" },
  { name: "the kid of another key", header: { ...header, kid: bob.kid }, want: "ERR_BUNDLE_SIGNATURE" },
  { name: "the type of a root", header: { ...header, typ: "sallyport-root+jws" }, want: "ERR_BUNDLE_SIGNATURE" },
  { name: "no type", header: { alg: "EdDSA", kid: alice.kid }, want: "ERR_BUNDLE_SIGNATURE" },
  { name: "a key of its own", header: { ...header, jwk: { kty: "OKP" } }, want: "ERR_BUNDLE_SIGNATURE" },
  { name: "certificates of its own", header: { ...header, x5c: ["AA"] }, want: "ERR_BUNDLE_SIGNATURE" },
  { name: "an address of keys", header: { ...header, jku: "https://x.example" }, want: "ERR_BUNDLE_SIGNATURE" },
  {
    name: "something critical",
    header: { ...header, crit: ["x-new"], "x-new": 1 },
    want: "ERR_BUNDLE_SIGNATURE",
  },
];
for (const { name, header, want } of headers) {
  t.test(`a signature whose header has ${name}: ${want}`, async (t) => {
    t.equal(await outcome(await signedAs(header)), want);
  });
}

const signatures = [
  { name: "none at all", change: () => [], want: "ERR_BUNDLE_SIGNATURE" },
  { name: "an unprotected header beside", change: ([own]: Record<string, unknown>[]) => [{ ...own, header: {} }] },
  {
    name: "alg none",
    change: ([own]: Record<string, unknown>[]) => [{ ...own, protected: encode({ ...header, alg: "none" }) }],
  },
  {
    name: "alg HS256",
    change: ([own]: Record<string, unknown>[]) => [{ ...own, protected: encode({ ...header, alg: "HS256" }) }],
  },
  { name: "zeros", change: ([own]: Record<string, unknown>[]) => [{ ...own, signature: "A".repeat(86) }] },
  { name: "a foreign value", change: () => [7, null, "x", [], {}] },
  {
    name: "a good one among malformed and unknown ones",
    change: ([own]: Record<string, unknown>[]) => [
      7,
      { protected: "?", signature: "?" },
      { ...own, signature: "AA" },
      own,
    ],
    want: 1,
  },
];
for (const { name, change, want = "ERR_BUNDLE_SIGNATURE" } of signatures) {
  t.test(`signatures: ${name}: ${want}`, async (t) => {
    t.equal(await outcome(await withSignatures(change as never)), want);
  });
}

t.test("what does not count is told, and takes nothing from what does", async (t) => {
  const { warnings } = await take(await testBundle({ by: [alice, bob] }));
  t.match(warnings, [/^b: manifest: signature \d does not count: key .* is not among those that are trusted$/]);
});

t.test("a threshold counts different keys, not signatures", async (t) => {
  t.equal(await outcome(await testBundle({ by: [alice] }), twoOfThree), "ERR_BUNDLE_SIGNATURE");
  t.equal(await outcome(await withSignatures(([own]) => [own, own]), twoOfThree), "ERR_BUNDLE_SIGNATURE");
  t.equal(await outcome(await testBundle({ by: [carol, alice] }), twoOfThree), 1);
  const again = await signBundle(await testBundle({ by: [carol, alice] }), alice);
  t.equal(readJws(again.manifest, "b").signatures.length, 2, "signing again replaces");
});

t.test("the signature of a manifest is none of a root, nor of another manifest", async (t) => {
  const first = await testBundle({ revision: 1 });
  const second = await testBundle({ revision: 2, by: [] });
  const { signatures } = readJws(first.manifest, "b");
  const { payload } = readJws(second.manifest, "b");
  t.equal(
    await outcome(create(BundleSchema, { ...second, manifest: writeJws({ payload, signatures }) })),
    "ERR_BUNDLE_SIGNATURE",
  );
  const root = await addSignature(readJws(unsignedRoot(rootOf(2, 1, [bob])), "r"), "sallyport-manifest+jws", alice);
  const roots = [await signRoot(writeJws(root), bob)];
  t.equal(await outcome(await testBundle({ roots, rootVersion: 2, by: [bob] })), "ERR_BUNDLE_SIGNATURE");
});

const second = rootOf(2, 2, [bob, carol]);
const third = rootOf(3, 1, [carol]);
const toSecond = await signedRoot(second, [alice, bob, carol]);
const toThird = await signedRoot(third, [bob, carol]);
const chains = [
  { name: "one step", roots: [toSecond], by: [bob, carol], version: 2, trust: one, want: 1 },
  {
    name: "several steps, after a long time offline",
    roots: [toSecond, toThird],
    by: [carol],
    version: 3,
    trust: one,
    want: 1,
  },
  {
    name: "roots that the verifier knows already",
    roots: [toSecond, toThird],
    by: [carol],
    version: 3,
    trust: trustIn(third),
    want: 1,
  },
  { name: "no roots for who has the last", roots: [], by: [carol], version: 3, trust: trustIn(third), want: 1 },
  {
    name: "a root in between is missing",
    roots: [toThird],
    by: [carol],
    version: 3,
    trust: one,
    want: "ERR_BUNDLE_SIGNATURE",
  },
  {
    name: "roots out of order",
    roots: [toThird, toSecond],
    by: [carol],
    version: 3,
    trust: one,
    want: "ERR_BUNDLE_SIGNATURE",
  },
  {
    name: "the same root twice",
    roots: [toSecond, toSecond],
    by: [bob, carol],
    version: 2,
    trust: one,
    want: "ERR_BUNDLE_INVALID",
  },
  {
    name: "signed by the keys of the old root only",
    roots: [toSecond],
    by: [alice],
    version: 2,
    trust: one,
    want: "ERR_BUNDLE_SIGNATURE",
  },
  {
    name: "made for an older root than the verifier's",
    roots: [],
    by: [alice],
    version: 1,
    trust: trustIn(second),
    want: "ERR_BUNDLE_SIGNATURE",
  },
  {
    name: "made for an older root, by keys that are still trusted",
    roots: [],
    by: [bob, carol],
    version: 1,
    trust: trustIn(second),
    want: "ERR_BUNDLE_SIGNATURE",
  },
  {
    name: "made for a newer root that is not there",
    roots: [],
    by: [alice],
    version: 2,
    trust: one,
    want: "ERR_BUNDLE_SIGNATURE",
  },
  {
    name: "a root that too few of the old keys signed",
    roots: [await signedRoot(second, [bob, carol])],
    by: [bob, carol],
    version: 2,
    trust: one,
    want: "ERR_BUNDLE_SIGNATURE",
  },
  {
    name: "a root that too few of the new keys signed",
    roots: [await signedRoot(second, [alice, bob])],
    by: [bob, carol],
    version: 2,
    trust: one,
    want: "ERR_BUNDLE_SIGNATURE",
  },
  {
    name: "another root of the version that the verifier has",
    roots: [await signedRoot(rootOf(2, 1, [alice]), [alice])],
    by: [alice],
    version: 2,
    trust: trustIn(second),
    want: "ERR_BUNDLE_SIGNATURE",
  },
] as const;
for (const { name, roots, by, version, trust, want } of chains) {
  t.test(`roots: ${name}: ${want}`, async (t) => {
    t.equal(await outcome(await testBundle({ roots, rootVersion: version, by }), trust), want);
  });
}

t.test("who walked up remembers the root, and no longer takes what the old keys sign", async (t) => {
  const { trust, warnings } = await take(await testBundle({ roots: [toSecond], rootVersion: 2, by: [bob, carol] }));
  t.same(trust.root, second);
  t.same(warnings, []);
  t.equal(await outcome(await testBundle({ revision: 2 }), trust), "ERR_BUNDLE_SIGNATURE");
  await t.rejects(take(await testBundle({ revision: 2 }), trust), {
    message: /it says that it is for root 1, and this verifier has root 2/,
  });
});

const accepted = (await take(await testBundle({ revision: 5 }))).trust;
const revisions = [
  { name: "the same again", bundle: { revision: 5 }, want: 5 },
  { name: "a later one", bundle: { revision: 6 }, want: 6 },
  { name: "the highest that there is", bundle: { revision: Number.MAX_SAFE_INTEGER }, want: Number.MAX_SAFE_INTEGER },
  { name: "an earlier one", bundle: { revision: 4 }, want: "ERR_BUNDLE_ROLLBACK" },
  {
    name: "the same number with other content",
    bundle: { revision: 5, files: { "policy.yaml": "other" } },
    want: "ERR_BUNDLE_ROLLBACK",
  },
  { name: "another name", bundle: { name: "bank", revision: 6 }, want: "ERR_BUNDLE_ROLLBACK" },
];
for (const { name, bundle, want } of revisions) {
  t.test(`after revision 5, ${name}: ${want}`, async (t) => {
    t.equal(await outcome(await testBundle(bundle), accepted), want);
  });
}

t.test("another signature on the same manifest makes no other bundle of it", async (t) => {
  t.equal(await outcome(await testBundle({ revision: 5, by: [alice, bob] }), accepted), 5);
});

t.test("a stolen key's sky-high revision is undone by a root that restarts revisions, and only by that", async (t) => {
  const stolen = (await take(await testBundle({ revision: Number.MAX_SAFE_INTEGER }))).trust;
  const plain = await signedRoot(rootOf(2, 1, [bob]), [alice, bob]);
  const restarting = await signedRoot({ ...rootOf(2, 1, [bob]), restartsRevisions: true }, [alice, bob]);
  const back = { revision: 6, rootVersion: 2, by: [bob] };
  t.equal(await outcome(await testBundle({ ...back, roots: [plain] }), stolen), "ERR_BUNDLE_ROLLBACK");
  const { trust } = await take(await testBundle({ ...back, roots: [restarting] }), stolen);
  t.equal(trust.accepted?.revision, 6);
  t.equal(await outcome(await testBundle({ ...back, revision: 5, roots: [restarting] }), trust), "ERR_BUNDLE_ROLLBACK");
});

const EXPIRES = ISSUED_MS + 30 * DAY_MS;
const times = [
  { name: "the last millisecond", now: EXPIRES - 1, want: 1, warned: false },
  { name: "the time of its expiry", now: EXPIRES, want: "ERR_BUNDLE_EXPIRED", warned: false },
  { name: "ten minutes before its issue", now: ISSUED_MS - 600_000, want: 1, warned: false },
  { name: "more than ten minutes before its issue", now: ISSUED_MS - 600_001, want: 1, warned: true },
  { name: "a clock that is a day behind", now: ISSUED_MS - DAY_MS, want: 1, warned: true },
];
for (const { name, now, want, warned } of times) {
  t.test(`at ${name}: ${want}${warned ? ", with a word on the clocks" : ""}`, async (t) => {
    const bundle = await testBundle();
    t.equal(await outcome(bundle, one, now), want);
    if (want === 1) t.equal((await take(bundle, one, now)).warnings.length, warned ? 1 : 0);
  });
}

t.test(
  "the refusal of an expired bundle tells clock, issue and expiry; the last good one is taken all the same",
  async (t) => {
    const bundle = await testBundle();
    const says =
      /clock, which says 2026-04-01T12:00:00.000Z, got one issued at 2026-03-01T12:00:00.000Z and expired at 2026-03-31T12:00:00.000Z/;
    await t.rejects(take(bundle, one, EXPIRES + DAY_MS), { code: "ERR_BUNDLE_EXPIRED", message: says });
    const late = await verifyBundle(bundle, one, EXPIRES + DAY_MS, { acceptExpired: true });
    t.match(late.warnings, [says]);
  },
);

const rich = writeBundle(
  await testBundle({
    files: { "policy.yaml": "policy", "list.txt": "192.0.2.0/24\n" },
    roots: [toSecond],
    rootVersion: 2,
    by: [bob, carol],
  }),
);
const contentOf = async (bytes: Uint8Array): Promise<string> => {
  const { facts, files, trust } = await take(readBundle(bytes, "b"));
  return JSON.stringify([
    facts,
    [...files].map(([name, data]) => [name, Buffer.from(data).toString("hex")]),
    trust.root,
  ]);
};
const want = await contentOf(rich);

t.test("any byte changed, any bytes cut off or put in: refused with a code, or the same content", async (t) => {
  const edit = fc.oneof(
    fc.record({ kind: fc.constant("set" as const), at: fc.nat(rich.byteLength - 1), byte: fc.nat(255) }),
    fc.record({ kind: fc.constant("cut" as const), at: fc.nat(rich.byteLength - 1), byte: fc.nat(40) }),
    fc.record({ kind: fc.constant("put" as const), at: fc.nat(rich.byteLength), byte: fc.nat(255) }),
  );
  await fc.assert(
    fc.asyncProperty(edit, async ({ kind, at, byte }) => {
      const [before, after] = [
        rich.subarray(0, at),
        rich.subarray(kind === "put" ? at : at + (kind === "set" ? 1 : byte)),
      ];
      const bytes = Buffer.concat([before, Buffer.from(kind === "cut" ? [] : [byte]), after]);
      try {
        const got = await contentOf(bytes);
        return got === want;
      } catch (error) {
        if (error instanceof OperatingError) return true;
        throw error;
      }
    }),
    { numRuns: 1_500, interruptAfterTimeLimit: 20_000 },
  );
  t.pass();
});

t.test("every truncation of a bundle is refused", async (t) => {
  for (let length = 0; length < rich.byteLength; length += 7) {
    await t.rejects(async () => contentOf(rich.subarray(0, length)), { code: /^ERR_BUNDLE_/ });
  }
});
