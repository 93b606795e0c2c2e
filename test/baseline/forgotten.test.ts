import fc from "fast-check";
import t from "tap";
import { ForgottenNames } from "../../src/baseline/forgotten.ts";

t.test("a name that was added is known, and others are not", async (t) => {
  const names = new ForgottenNames(1_000);
  t.notOk(names.has("a"));
  for (let i = 0; i < 200; i++) names.add(`spiffe://td/ns/a/sa/${i}`);
  for (let i = 0; i < 200; i++) t.ok(names.has(`spiffe://td/ns/a/sa/${i}`));
  for (let i = 200; i < 10_000; i++) if (names.has(`spiffe://td/ns/a/sa/${i}`)) t.fail(`${i} is taken for another`);
});

t.test("memory is bounded, and the latest names stay", async (t) => {
  const names = new ForgottenNames(256);
  for (let i = 0; i < 100_000; i++) names.add(`caller-${i}`);
  t.ok([...names.entries()].length <= 256);
  t.ok(names.has("caller-99999"));
  const latest = Array.from({ length: 64 }, (_, i) => `caller-${99_999 - i}`).filter((name) => names.has(name));
  t.ok(latest.length > 50, `of the latest 64, ${latest.length} are known`);
});

t.test("what was told of a table makes another like it", async (t) => {
  fc.assert(
    fc.property(fc.array(fc.string(), { maxLength: 60 }), fc.string(), (added, other) => {
      const names = new ForgottenNames(64);
      for (const name of added) names.add(name);
      const copy = new ForgottenNames(64);
      for (const [bucket, mark] of names.entries()) copy.restore(bucket, mark);
      t.same([...copy.entries()], [...names.entries()]);
      t.equal(copy.has(other), names.has(other));
    }),
  );
});
