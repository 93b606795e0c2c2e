import fc from "fast-check";
import t from "tap";
import { Packer, Unpacker } from "../../src/check/packing.ts";

type Part = number | string | { readonly own: string } | { readonly sparse: readonly number[] };

const number = fc.oneof(fc.nat(), fc.double(), fc.integer(), fc.constantFrom(2 ** 31 - 1, 2 ** 31, 2 ** 32, 1.5));
// Texts come from UTF-8, which cannot hold half of a surrogate pair.
const text = fc.oneof(fc.string(), fc.string({ unit: "binary" }), fc.constantFrom("a", "b", "é".repeat(64)));
const part: fc.Arbitrary<Part> = fc.oneof(
  number.map((value) => (Object.is(value, -0) ? 0 : value)),
  text,
  text.map((own) => ({ own })),
  fc.array(fc.constantFrom(0, 0, 1, 0.5), { maxLength: 32 }).map((sparse) => ({ sparse })),
);

function pack(packer: Packer, one: Part): void {
  if (typeof one === "number") packer.number(one);
  else if (typeof one === "string") packer.text(one);
  else if ("own" in one) packer.ownText(one.own);
  else packer.sparse([7, ...one.sparse, 8], 1, 1 + one.sparse.length);
}

function unpackLike(unpacker: Unpacker, one: Part): Part {
  if (typeof one === "number") return unpacker.number();
  if (typeof one === "string") return unpacker.text();
  if ("own" in one) return { own: unpacker.ownText() };
  const into = [7, ...one.sparse.map(() => 0), 8];
  const last = unpacker.sparse(into, 1, 1 + one.sparse.length);
  // What lies around it stays as it was, and where it ends is told.
  if (into[0] !== 7 || into.at(-1) !== 8 || last !== 1 + one.sparse.findLastIndex((value) => value !== 0)) return "";
  return { sparse: into.slice(1, -1) };
}

t.test("whatever is packed, in slices of any size, is unpacked the same", async (t) => {
  const packed = fc.property(fc.array(part), fc.nat({ max: 50 }), (parts, sliceBytes) => {
    const packer = new Packer(sliceBytes);
    const slices: Uint8Array[] = [];
    for (const one of parts) {
      pack(packer, one);
      if (packer.size < sliceBytes) continue;
      slices.push(Buffer.from(packer.written()));
      packer.reset();
    }
    const bytes = Buffer.concat([...slices, packer.written()]);
    const unpacker = new Unpacker(bytes, 0, bytes.length);
    t.same(
      parts.map((one) => unpackLike(unpacker, one)),
      parts,
    );
    return unpacker.done;
  });
  fc.assert(packed, { numRuns: 300 });
});

t.test(
  "more different texts than are remembered come back the same, and a repeated one takes two bytes at most",
  async (t) => {
    const packer = new Packer(0);
    const texts = Array.from({ length: 10_000 }, (_, i) => `text ${i % 6_000}`);
    for (const one of texts) packer.text(one);
    const before = packer.size;
    packer.text(texts.at(-1) as string);
    t.ok(packer.size - before <= 2);
    const bytes = Buffer.from(packer.written());
    const unpacker = new Unpacker(bytes, 0, bytes.length);
    t.same(
      texts.map(() => unpacker.text()),
      texts,
    );
  },
);

t.test("bytes that nobody packed are refused with a RangeError, and nothing larger than they are is made", async () => {
  const anyBytes = fc.property(
    fc.uint8Array({ maxLength: 60 }),
    fc.constantFrom("text", "ownText", "number"),
    (bytes, read) => {
      const unpacker = new Unpacker(Buffer.from(bytes), 0, bytes.length);
      try {
        for (let i = 0; i <= bytes.length; i++) {
          const value = unpacker[read]();
          if (typeof value === "string" && value.length > bytes.length) return false;
        }
      } catch (error) {
        return error instanceof RangeError;
      }
      return false; // every part takes a byte: so many there cannot be
    },
  );
  fc.assert(anyBytes, { numRuns: 500 });
});
