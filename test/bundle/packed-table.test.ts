/** Tests packed look-ups against a Map, and a message in pieces against the whole. */

import { create, equals } from "@bufbuild/protobuf";
import fc from "fast-check";
import t from "tap";
import { HitsBuilder } from "../../src/bundle/list-hits.ts";
import { TableBuilder, TextLookup, TextsBuilder, textAt } from "../../src/bundle/packed-table.ts";
import { cut, join } from "../../src/bundle/pieces.ts";
import { transferable } from "../../src/bundle/prepare.ts";
import { finish } from "../../src/bundle/steps.ts";
import { PolicyFileSchema } from "../../src/gen/sallyport/policy/v1/policy_pb.ts";

/** Few distinct texts, so that some come again; some beyond one byte, some beyond one unit. */
const text = fc.oneof(
  fc.string({ unit: fc.constantFrom("a", "b", "\u{e9}", "\u{20ac}", "\u{1f600}"), maxLength: 3 }),
  fc.string({ unit: "binary", maxLength: 40 }),
);

t.test("a table finds exactly what a Map finds", async () => {
  fc.assert(
    fc.property(fc.array(text), fc.array(text), (texts, asked) => {
      const builder = new TableBuilder();
      const map = new Map<string, number>();
      for (const one of texts) {
        const number = builder.add(one);
        if (!map.has(one)) map.set(one, map.size);
        if (number !== map.get(one)) return false;
      }
      const table = structuredClone(builder.pack());
      const lookup = new TextLookup(table, (number) => number);
      return (
        lookup.size === map.size &&
        [...texts, ...asked].every((one) => lookup.get(one) === map.get(one)) &&
        [...map].every(([one, number]) => textAt(table, number) === one)
      );
    }),
    { numRuns: 2_000, interruptAfterTimeLimit: 15_000 },
  );
});

t.test("texts of any length come back", async (t) => {
  const builder = new TextsBuilder();
  const long = "\u{1f600}x".repeat(10_000);
  for (const one of ["", long, "a"]) builder.add(one);
  const packed = builder.pack();
  t.same(
    [0, 1, 2].map((number) => textAt(packed, number)),
    ["", long, "a"],
  );
});

t.test("entries of a list with the same bits share a hit", async (t) => {
  const hits = new HitsBuilder();
  const [one, two] = ["one", "two"].map((list) => hits.list({ list, action: "score", reason: list }));
  t.same([one!(5), one!(6), two!(5), one!(5)], [0, 1, 2, 0]);
});

t.test("a message in pieces is the whole message again", async (t) => {
  const names = (count: number): string[] => Array.from({ length: count }, (_, i) => `spiffe://td/${i}`);
  const policy = create(PolicyFileSchema, {
    metadata: { name: "a" },
    spec: {
      rules: names(100).map((name) => ({ name, match: { principals: names(3) } })),
      locks: names(33).map((id) => ({ id, scope: { principal: id } })),
      identity: { trustedSpiffe: names(50), apiKeys: { header: "x" }, delegations: [{ caller: "a", subject: "b" }] },
      posture: { required: names(17), missingBits: 2 },
      signals: { origin: { capBits: 3 } },
    },
  });
  const pieces = cut(policy);
  t.ok(pieces.ends.length > 10);
  t.ok(equals(PolicyFileSchema, finish(join(structuredClone(pieces))), policy));
});

t.test("only whole buffers are handed over, and each once", async (t) => {
  const whole = new Uint32Array(4);
  const part = new Uint8Array(8).subarray(2);
  t.same(transferable({ a: whole, b: [whole, part], c: "x", d: undefined, e: null }), [whole.buffer]);
});
