import fc from "fast-check";
import t from "tap";
import { BytesMemo } from "../../src/identity/bytes-memo.ts";

t.test("what was made of bytes is found by the same bytes only, wherever they lie", async (t) => {
  const memo = new BytesMemo<string>({ entriesMax: 4, bytesMax: 1_024 });
  memo.add(Buffer.from("--abc--"), 2, 5, "made");
  t.equal(memo.find(Buffer.from("abc"), 0, 3), "made");
  t.equal(memo.find(Buffer.from("-abcd"), 1, 4), "made");
  for (const other of ["abd", "ab", "abcd", ""]) t.equal(memo.find(Buffer.from(other), 0, other.length), undefined);
});

t.test("the first entry goes once there are too many, and bytes too long are never kept", async (t) => {
  const memo = new BytesMemo<number>({ entriesMax: 2, bytesMax: 1_024 });
  const add = (text: string, value: number) => memo.add(Buffer.from(text), 0, text.length, value);
  add("a", 1);
  add("b", 2);
  add("c", 3);
  t.same(
    ["a", "b", "c"].map((text) => memo.find(Buffer.from(text), 0, 1)),
    [undefined, 2, 3],
  );
  add("x".repeat(257), 4);
  t.equal(memo.size, 2);
  t.equal(memo.find(Buffer.alloc(257, "x"), 0, 257), undefined);
});

t.test("however much is added, what is found is right, and the newest is found", async (t) => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 200 }), (texts) => {
      const memo = new BytesMemo<string>({ entriesMax: 16, bytesMax: 160 });
      for (const text of texts) {
        const bytes = Buffer.from(text);
        const hex = bytes.toString("hex");
        const known = memo.find(bytes, 0, bytes.length);
        if (known !== undefined && known !== hex) return false;
        if (known === undefined) memo.add(bytes, 0, bytes.length, hex);
        if (memo.find(bytes, 0, bytes.length) !== hex || memo.size > 16) return false;
        for (const earlier of texts) {
          const found = memo.find(Buffer.from(earlier), 0, earlier.length);
          if (found !== undefined && found !== Buffer.from(earlier).toString("hex")) return false;
        }
      }
      return true;
    }),
    { numRuns: 100, interruptAfterTimeLimit: 10_000 },
  );
  t.pass();
});

t.test("beyond its bytes the oldest go by the piece, and the newest stay", async (t) => {
  const memo = new BytesMemo<number>({ entriesMax: 1_000, bytesMax: 4 * 256 * 1024 });
  const text = (i: number) => Buffer.alloc(10_000, `${i}|`);
  for (let i = 0; i < 300; i++) memo.add(text(i), 0, 10_000, i);
  // Three full pieces of 26 at least, and not more than four hold.
  t.ok(memo.size > 3 * 26 && memo.size <= 4 * 26, String(memo.size));
  for (let i = 0; i < 300; i++) {
    const found = memo.find(text(i), 0, 10_000);
    t.equal(found, i >= 300 - memo.size ? i : undefined);
  }
  memo.add(Buffer.alloc(256 * 1024 + 1), 0, 256 * 1024 + 1, -1);
  t.equal(memo.find(Buffer.alloc(256 * 1024 + 1), 0, 256 * 1024 + 1), undefined, "longer than a piece");
});
