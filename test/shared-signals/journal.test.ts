import { appendFileSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { Journal } from "../../src/shared-signals/journal.ts";
import { scratch } from "./world.ts";

function list(path: string | undefined) {
  const kept: unknown[] = [];
  const damage: (readonly [string, number])[] = [];
  const journal = new Journal({
    path,
    replay: (record) => kept.push(record),
    snapshot: () => kept,
    onDamage: (where, records) => damage.push([where, records]),
  });
  const add = (record: unknown): Promise<void> =>
    journal.append(record, () => {
      kept.push(record);
    });
  return { journal, kept, damage, add };
}

t.test("what was kept is there after a restart, in order, without a close", async (t) => {
  const path = join(scratch(t), "a.journal");
  const first = list(path);
  await first.journal.open();
  await Promise.all([first.add({ n: 1 }), first.add({ n: 2 }), first.add({ n: 3 })]);
  const second = list(path);
  await second.journal.open();
  t.same(second.kept, [{ n: 1 }, { n: 2 }, { n: 3 }]);
  t.same(second.damage, []);
  t.equal(statSync(path).mode & 0o777, 0o600);
});

t.test("a record that was torn by a crash is left out, and what follows it is not", async (t) => {
  const path = join(scratch(t), "a.journal");
  const first = list(path);
  await first.journal.open();
  await first.add({ n: 1 });
  await first.add({ n: 2 });
  await first.journal.close();
  const text = readFileSync(path, "utf8");
  writeFileSync(path, text.slice(0, -5));
  const second = list(path);
  await second.journal.open();
  await second.add({ n: 3 });
  await second.journal.close();
  t.same(second.damage, [[path, 1]]);
  const third = list(path);
  await third.journal.open();
  t.same(third.kept, [{ n: 1 }, { n: 3 }]);
});

t.test("wherever a file is cut or changed, the records that are whole count and nothing throws", async (t) => {
  const path = join(scratch(t), "a.journal");
  const first = list(path);
  await first.journal.open();
  for (let n = 0; n < 5; n++) await first.add({ n });
  await first.journal.close();
  const bytes = readFileSync(path);
  const start = bytes.indexOf("\n") + 1;
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: start, max: bytes.length - 1 }), fc.boolean(), async (at, cut) => {
      const damaged = Buffer.from(cut ? bytes.subarray(0, at) : bytes);
      if (!cut) damaged[at] = damaged[at]! ^ 1;
      writeFileSync(path, damaged);
      const again = list(path);
      await again.journal.open();
      await again.journal.close();
      const numbers = again.kept.map((record) => (record as { n: number }).n);
      return numbers.every((n, index) => Number.isInteger(n) && (index === 0 || n > numbers[index - 1]!));
    }),
    { numRuns: 40 },
  );
  t.pass();
});

t.test("a file of another kind is set aside, not believed and not overwritten", async (t) => {
  const folder = scratch(t);
  const path = join(folder, "a.journal");
  writeFileSync(path, "something else\n");
  const one = list(path);
  await one.journal.open();
  await one.add({ n: 1 });
  t.match(one.damage, [[`${path}.unusable`]]);
  t.equal(readFileSync(`${path}.unusable`, "utf8"), "something else\n");
});

t.test("a journal does not grow for ever: what no longer counts goes", async (t) => {
  const folder = scratch(t);
  const path = join(folder, "a.journal");
  let current: unknown = 0;
  const journal = new Journal({
    path,
    replay: (record) => {
      current = record;
    },
    snapshot: () => [current],
    onDamage: () => {},
  });
  await journal.open();
  for (let batch = 0; batch < 30; batch++) {
    const records = Array.from({ length: 100 }, (_, i) => batch * 100 + i);
    const keep = (n: number): Promise<void> =>
      journal.append(n, () => {
        current = n;
      });
    await Promise.all(records.map(keep));
  }
  await journal.close();
  t.ok(readFileSync(path, "utf8").split("\n").length < 1_200);
  t.same(readdirSync(folder), ["a.journal"]);
  await journal.open();
  t.equal(current, 2_999);
});

t.test("nothing is kept before the journal is open, or after it is closed", async (t) => {
  const path = join(scratch(t), "a.journal");
  const one = list(path);
  await t.rejects(one.add({ n: 1 }), { code: "ERR_STATE_UNWRITABLE" });
  t.same(one.kept, []);
  await one.journal.open();
  await one.journal.close();
  await t.rejects(one.add({ n: 1 }), { code: "ERR_STATE_UNWRITABLE" });
});

t.test("left-over files of a process that died while writing are removed", async (t) => {
  const folder = scratch(t);
  const path = join(folder, "a.journal");
  appendFileSync(`${path}.0badc0de.new`, "half");
  await list(path).journal.open();
  t.same(readdirSync(folder), ["a.journal"]);
});

t.test("without a path nothing outlives the process, and all else is the same", async (t) => {
  const one = list(undefined);
  await one.journal.open();
  await one.add({ n: 1 });
  t.same(one.kept, [{ n: 1 }]);
  await one.journal.close();
});
