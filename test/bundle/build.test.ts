/** Tests that bundles are built the same way every time, and never such that no verifier would take them. */

import t from "tap";
import { type BundleInput, buildBundle } from "../../src/bundle/build.ts";
import { writeBundle } from "../../src/bundle/bundle-file.ts";
import { chunkId } from "../../src/bundle/chunks.ts";
import { fileNameFault } from "../../src/bundle/manifest.ts";
import { readRootChain, writeRootChain } from "../../src/bundle/sign.ts";
import { writeTrustRoot } from "../../src/bundle/trust.ts";
import { alice, bob, DAY_MS, ISSUED_MS, rootOf, signedRoot, testBundle } from "../support/bundles.ts";

const input: BundleInput = {
  name: "shop",
  revision: 1,
  issuedAtMs: ISSUED_MS,
  expiresAtMs: ISSUED_MS + DAY_MS,
  policy: "policy.yaml",
  files: new Map([["policy.yaml", Buffer.from("policy")]]),
  roots: [],
  rootVersion: 1,
};

t.test("the same inputs give the same bytes, in whatever order files come; the bytes of today", async (t) => {
  const files = { "policy.yaml": "policy", "b.txt": "b", "a.txt": "a", "ä.txt": "a" };
  const bytes = writeBundle(await testBundle({ files, by: [alice, bob] }));
  const reversed = Object.fromEntries(Object.entries(files).reverse());
  t.same(writeBundle(await testBundle({ files: reversed, by: [bob, alice] })), bytes);
  t.equal(
    chunkId(bytes),
    "87a46c934743165e5f6ee331a464e06cb05269d2ff8dad1bbd64b73b697bad18",
    "other bytes would make every bundle new at an upgrade",
  );
});

t.test("content that stands in several files is held once", async (t) => {
  const files = new Map([...input.files, ["a", Buffer.from("same")], ["b", Buffer.from("same")]]);
  t.equal(buildBundle({ ...input, files }).chunks.length, 2);
});

const bad = [
  { name: "a name in capitals", change: { name: "Shop" } },
  { name: "an empty name", change: { name: "" } },
  { name: "revision 0", change: { revision: 0 } },
  { name: "root version 0", change: { rootVersion: 0 } },
  { name: "expiry at the issue time", change: { expiresAtMs: ISSUED_MS } },
  { name: "no files", change: { files: new Map() } },
  { name: "a policy that is not among the files", change: { policy: "other.yaml" } },
  { name: "a file outside", change: { files: new Map([...input.files, ["../x", Buffer.from("x")]]) } },
];
for (const { name, change } of bad) {
  t.test(`not built: ${name}`, async (t) => {
    t.throws(() => buildBundle({ ...input, ...change }), { code: "ERR_BUNDLE_INVALID" });
  });
}

const names = [
  { name: "lists/a.txt", good: true },
  { name: "./lists/a.txt", good: true },
  { name: "a..b", good: true },
  { name: "", good: false },
  { name: "/etc/passwd", good: false },
  { name: "C:/x", good: false },
  { name: "..", good: false },
  { name: "a/../../b", good: false },
  { name: "a\\..\\b", good: false },
  { name: "a\u0000b", good: false },
];
for (const { name, good } of names) {
  t.test(`the file name ${JSON.stringify(name)} is ${good ? "taken" : "refused"}`, async (t) => {
    t.equal(fileNameFault(name) === undefined, good);
  });
}

t.test("a roots file reads back as it was written; a key file is a chain of one", async (t) => {
  const first = rootOf(1, 1, [alice]);
  const chain = { first, roots: [await signedRoot(rootOf(2, 1, [bob]), [alice, bob])] };
  t.same(readRootChain(writeRootChain(chain), "r"), chain);
  t.same(readRootChain(writeTrustRoot(first), "r"), { first, roots: [] });
  for (const text of ["", "{}", '{"first": 1, "roots": []}', '{"first": {}, "roots": [], "more": 1}']) {
    t.throws(() => readRootChain(text, "r"), { code: "ERR_KEY_INVALID" });
  }
});
