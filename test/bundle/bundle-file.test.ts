/** Tests the bytes of bundle files: bounds, damage, and that the same bundle gives the same bytes. */

import { gzipSync } from "node:zlib";
import fc from "fast-check";
import t from "tap";
import { isBundle, readBundle, writeBundle } from "../../src/bundle/bundle-file.ts";
import { OperatingError } from "../../src/model/errors.ts";
import { testBundle } from "../support/bundles.ts";

const good = writeBundle(await testBundle({ files: { "policy.yaml": "policy", "a.txt": "a".repeat(1_000) } }));
const MAGIC = Buffer.from("SPBUNDLE1\n");
const field = (number: number, length: number): Buffer => {
  const bytes = [number * 8 + 2];
  for (let rest = length; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest]);
    bytes.push((rest % 128) + 128);
  }
};
const body = (...parts: readonly Uint8Array[]): Buffer => Buffer.concat([MAGIC, ...parts]);

t.test("what is written reads back, and writes the same bytes again; compressed or not", async (t) => {
  t.same(writeBundle(readBundle(good, "b")), good);
  t.same(writeBundle(readBundle(gzipSync(good), "b")), good);
});

t.test("a bundle is known by how it begins, of whatever form; a policy is none", async (t) => {
  const begins = [
    { bytes: good, want: true },
    { bytes: gzipSync(good), want: true },
    { bytes: Buffer.from("SPBUNDLE2\nanything"), want: true },
    { bytes: Buffer.from("apiVersion: sallyport.dev/v1"), want: false },
    { bytes: Buffer.from("SPBUNDL"), want: false },
    { bytes: Buffer.alloc(0), want: false },
  ];
  for (const { bytes, want } of begins) t.equal(isBundle(bytes), want);
});

const refused = [
  { name: "a bundle of a later form", bytes: Buffer.from("SPBUNDLE2\n"), code: "ERR_BUNDLE_INVALID" },
  { name: "no manifest", bytes: body(), code: "ERR_BUNDLE_INVALID" },
  { name: "two manifests", bytes: body(field(2, 0), field(2, 0)), code: "ERR_BUNDLE_INVALID" },
  { name: "an unknown field", bytes: body(field(2, 0), field(4, 0)), code: "ERR_BUNDLE_INVALID" },
  { name: "a field without a length", bytes: body(Buffer.from([0x08, 1])), code: "ERR_BUNDLE_INVALID" },
  { name: "a length beyond the end", bytes: body(field(2, 1_000)), code: "ERR_BUNDLE_INVALID" },
  { name: "a manifest that is no UTF-8", bytes: body(field(2, 1), Buffer.from([0xff])), code: "ERR_BUNDLE_INVALID" },
  {
    name: "a root over its bound",
    bytes: body(field(1, 1_000_001), Buffer.alloc(1_000_001)),
    code: "ERR_BUNDLE_TOO_LARGE",
  },
  {
    name: "a manifest over its bound",
    bytes: body(field(2, 16_777_217), Buffer.alloc(16_777_217)),
    code: "ERR_BUNDLE_TOO_LARGE",
  },
  {
    name: "a chunk over its bound",
    bytes: body(field(3, 1_048_585), Buffer.alloc(1_048_585)),
    code: "ERR_BUNDLE_TOO_LARGE",
  },
  {
    name: "more roots than may be",
    bytes: body(...Array.from({ length: 1_001 }, () => field(1, 0))),
    code: "ERR_BUNDLE_TOO_LARGE",
  },
  {
    name: "millions of empty chunks in few bytes",
    bytes: gzipSync(Buffer.concat([MAGIC, Buffer.alloc(400_000, field(3, 0))])),
    code: "ERR_BUNDLE_TOO_LARGE",
  },
  { name: "gzip that is cut off", bytes: gzipSync(good).subarray(0, -9), code: "ERR_BUNDLE_INVALID" },
  { name: "gzip of something else", bytes: gzipSync("apiVersion: x"), code: "ERR_BUNDLE_INVALID" },
];
for (const { name, bytes, code } of refused) {
  t.test(`refused: ${name}`, async (t) => {
    t.throws(() => readBundle(bytes, "b"), { code });
  });
}

t.test("a bundle of just the bound is taken, one byte more is not, compressed or not", async (t) => {
  const { byteLength } = good;
  for (const bytes of [good, gzipSync(good)]) {
    t.doesNotThrow(() => readBundle(bytes, "b", byteLength));
    t.throws(() => readBundle(bytes, "b", byteLength - 1), { code: "ERR_BUNDLE_TOO_LARGE" });
  }
});

t.test("a gigabyte of zeros, compressed to a megabyte, stops at the bound", async (t) => {
  const bomb = gzipSync(Buffer.alloc(64 * 1024 * 1024), { level: 1 });
  const before = process.memoryUsage().arrayBuffers;
  // Sixteen members of 64 MiB: what a decompressor without a bound would make a gigabyte of.
  t.throws(() => readBundle(Buffer.concat(Array(16).fill(bomb)), "b", 32 * 1024 * 1024), {
    code: "ERR_BUNDLE_TOO_LARGE",
    message: /^b: expected at most 33554432 bytes, got more, compressed to \d+$/,
  });
  t.ok(process.memoryUsage().arrayBuffers - before < 256 * 1024 * 1024);
});

t.test("every truncation is refused", async (t) => {
  for (let length = 0; length < good.byteLength; length++) {
    try {
      // What is left may be whole by chance, at the end of a part; then parts are missing, which verifying finds.
      const read = readBundle(good.subarray(0, length), "b");
      t.ok(read.manifest !== "");
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error;
    }
  }
});

t.test("random bytes are refused with a code, never with a crash", async (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.boolean(), (bytes, packed) => {
      const input = Buffer.concat([MAGIC, bytes]);
      try {
        readBundle(packed ? gzipSync(input) : input, "b");
      } catch (error) {
        if (!(error instanceof OperatingError)) throw error;
      }
    }),
    { numRuns: 500 },
  );
  t.pass();
});
