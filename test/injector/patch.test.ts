import fc from "fast-check";
import t from "tap";
import type { Json, JsonObject } from "../../src/injector/json.ts";
import { applyPatch, patchBetween } from "../../src/injector/patch.ts";

const named = fc.record(
  { name: fc.constantFrom("a", "b", "c", "d"), value: fc.nat(3), "x/y~z": fc.constant(1) },
  { requiredKeys: ["name"] },
);
const { document } = fc.letrec<{ document: JsonObject; value: Json }>((tie) => ({
  document: fc.dictionary(fc.constantFrom("a", "b/c", "d~e", "list"), tie("value"), {
    maxKeys: 4,
  }) as fc.Arbitrary<JsonObject>,
  value: fc.oneof(
    { maxDepth: 4 },
    fc.nat(3),
    fc.constantFrom("", "text", null, true),
    fc.array(named, { maxLength: 5 }) as fc.Arbitrary<Json>,
    fc.array(tie("value"), { maxLength: 4 }) as fc.Arbitrary<Json>,
    tie("document"),
  ),
}));

t.test("a patch makes of the one document the other, and changes neither", async (t) => {
  fc.assert(
    fc.property(document, document, (before, after) => {
      const kept = [structuredClone(before), structuredClone(after)];
      const made = applyPatch(before, patchBetween(before, after));
      t.same(made, after) || fail();
      t.same([before, after], kept) || fail();
    }),
    { numRuns: 1_000 },
  );
});

t.test("there is nothing to do between like documents, whatever the order of their members", async (t) => {
  t.same(patchBetween({ a: 1, b: { c: [1], d: null } }, { b: { d: null, c: [1] }, a: 1 }), []);
});

t.test("entries with names are added where they belong, and the others stay untouched", async (t) => {
  t.same(
    patchBetween({ list: [{ name: "app", image: "x" }] }, { list: [{ name: "ours" }, { name: "app", image: "y" }] }),
    [
      { op: "add", path: "/list/0", value: { name: "ours" } },
      { op: "replace", path: "/list/1/image", value: "y" },
    ],
  );
});

t.test("names with slashes and tildes are escaped (RFC 6901)", async (t) => {
  t.same(patchBetween({ "a/b": { "c~d": 1 } }, { "a/b": { "c~d": 2 } }), [
    { op: "replace", path: "/a~1b/c~0d", value: 2 },
  ]);
});

for (const path of ["/missing", "/list/3", "/text/member", "/list/-1/x"]) {
  t.test(`removing ${path}, which is not there, is a bug in whoever asks`, async (t) => {
    t.throws(() => applyPatch({ list: [1], text: "x" }, [{ op: "remove", path }]), RangeError);
  });
}

t.test("a test that does not hold stops the patch", async (t) => {
  t.throws(() => applyPatch({ a: 1 }, [{ op: "test", path: "/a", value: 2 }]), RangeError);
  t.same(applyPatch({ a: 1 }, [{ op: "test", path: "/a", value: 1 }]), { a: 1 });
});

function fail(): never {
  throw new Error("not the same");
}
