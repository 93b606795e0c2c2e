/** Tests how files are cut into pieces and put together. */

import { createCipheriv, createHash } from "node:crypto";
import fc from "fast-check";
import t from "tap";
import { writeBundle } from "../../src/bundle/bundle-file.ts";
import {
  CHUNK_MAX,
  CHUNK_MIN,
  chunkId,
  chunkIds,
  completeDelta,
  cut,
  deltaOf,
  joinFiles,
} from "../../src/bundle/chunks.ts";
import { claimedManifest } from "../../src/bundle/verify.ts";
import { testBundle } from "../support/bundles.ts";

/** Bytes that look random and are always the same. */
function noise(seed: number, length: number): Buffer {
  const key = createHash("sha256").update(String(seed)).digest();
  return createCipheriv("aes-256-ctr", key, Buffer.alloc(16)).update(Buffer.alloc(length));
}

/** A list of ranges as operators keep them. */
const list = Array.from(
  { length: 100_000 },
  (_, i) => `10.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}/32 ${i % 9}`,
);

t.test("cuts stand where they always stood: other places would make all chunks new at an upgrade", async (t) => {
  t.same(
    cut(noise(1, 500_000)).map(({ byteLength }) => byteLength),
    [72514, 77230, 108274, 72432, 65665, 76827, 27058],
  );
});

t.test("pieces put together are the content, each within its bounds", async (t) => {
  fc.assert(
    fc.property(fc.nat(1_000), fc.nat(1_000_000), fc.boolean(), (seed, length, flat) => {
      const content = flat ? Buffer.alloc(length, seed) : noise(seed, length);
      const pieces = cut(content);
      const sizes = pieces.map(({ byteLength }) => byteLength);
      return (
        Buffer.concat(pieces).equals(content) &&
        sizes.every((size) => size <= CHUNK_MAX && size > 0) &&
        sizes.slice(0, -1).every((size) => size >= CHUNK_MIN)
      );
    }),
    { numRuns: 25 },
  );
  t.same(cut(Buffer.alloc(0)), []);
});

t.test("the mean is about 64 KiB", async (t) => {
  const pieces = cut(noise(2, 16 * 1024 * 1024));
  const mean = (16 * 1024 * 1024) / pieces.length;
  t.ok(mean > 48 * 1024 && mean < 96 * 1024, String(mean));
});

t.test("a line added, removed or changed in a big list makes at most three new chunks", async (t) => {
  const before = new Set(cut(Buffer.from(list.join("\n"))).map(chunkId));
  t.ok(before.size > 10);
  fc.assert(
    fc.property(fc.nat(list.length - 1), fc.constantFrom("add", "remove", "change"), (at, how) => {
      const next = [...list];
      if (how === "add") next.splice(at, 0, "192.0.2.0/24 5");
      else if (how === "remove") next.splice(at, 1);
      else next[at] = "198.51.100.0/24 64";
      const fresh = cut(Buffer.from(next.join("\n"))).filter((piece) => !before.has(chunkId(piece)));
      return fresh.length <= 3;
    }),
    { numRuns: 40 },
  );
  t.pass();
});

t.test("a delta holds what its receiver lacks, and gives the same bundle again", async (t) => {
  const old = await testBundle({ files: { "policy.yaml": "p", "list.txt": list.join("\n") } });
  const next = await testBundle({
    revision: 2,
    files: { "policy.yaml": "p", "list.txt": list.with(50_000, "192.0.2.1/32 9").join("\n") },
  });
  const store = new Map(old.chunks.map(({ data }) => [chunkId(data), data]));
  const delta = deltaOf(next, new Set(store.keys()));
  t.ok(writeBundle(delta).byteLength < writeBundle(next).byteLength / 5);
  const { manifest } = claimedManifest(delta, "delta");
  t.same(writeBundle(completeDelta(delta, manifest, (id) => store.get(id), "delta")), writeBundle(next));
  t.equal(chunkIds(manifest).size, next.chunks.length);
  t.throws(() => completeDelta(delta, manifest, () => undefined, "delta"), { code: "ERR_BUNDLE_INVALID" });
});

t.test("files are put together only from what the manifest names, whole and once", async (t) => {
  const bundle = await testBundle({
    files: { "policy.yaml": "p", "a.bin": noise(3, 200_000), "b.bin": noise(3, 200_000), empty: "" },
  });
  const { manifest } = claimedManifest(bundle, "b");
  const files = joinFiles(manifest, bundle.chunks, 1_000_000, "b");
  t.same([...files.keys()], ["a.bin", "b.bin", "empty", "policy.yaml"]);
  t.ok(noise(3, 200_000).equals(files.get("b.bin")!));
  t.equal(files.get("empty")?.byteLength, 0);
  const [first, ...rest] = bundle.chunks;
  const cases = [
    { name: "a chunk is missing", chunks: rest, code: "ERR_BUNDLE_INVALID" },
    { name: "a chunk stands twice", chunks: [...bundle.chunks, first!], code: "ERR_BUNDLE_INVALID" },
    {
      name: "a chunk is foreign",
      chunks: [...bundle.chunks, { ...first!, data: Buffer.from("x") }],
      code: "ERR_BUNDLE_INVALID",
    },
  ];
  for (const { name, chunks, code } of cases)
    t.throws(() => joinFiles(manifest, chunks, 1_000_000, "b"), { code }, name);
  t.throws(() => joinFiles(manifest, bundle.chunks, 400_000, "b"), { code: "ERR_BUNDLE_TOO_LARGE" });
  const lies = structuredClone(manifest);
  lies.files[0]!.size += 1n;
  t.throws(() => joinFiles(lies, bundle.chunks, 1_000_000, "b"), { code: "ERR_BUNDLE_INVALID" });
});
