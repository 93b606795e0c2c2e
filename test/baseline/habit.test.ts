import fc from "fast-check";
import t from "tap";
import { Habit, KnownValues, SETTLE_WINDOW_MS } from "../../src/baseline/habit.ts";
import { toEpochMs } from "../../src/model/units.ts";

const at = (windows: number) => toEpochMs(windows * SETTLE_WINDOW_MS);

t.test("a value settles in its third separate hour, however often it is used before", async (t) => {
  const habit = new Habit(4);
  t.equal(habit.learn("a", at(0), false), "new");
  for (let i = 0; i < 100; i++) habit.learn("a", at(0), false);
  t.equal(habit.familiarity("a"), "pending");
  habit.learn("a", at(1), false);
  t.equal(habit.familiarity("a"), "pending");
  habit.learn("a", at(2), false);
  t.equal(habit.familiarity("a"), "settled");
});

t.test("a clock that steps back settles nothing", async (t) => {
  const habit = new Habit(4);
  habit.learn("a", at(5), false);
  for (const hour of [4, 3, 2, 1]) habit.learn("a", at(hour), false);
  t.equal(habit.familiarity("a"), "pending");
});

t.test("old use weighs half after a week", async (t) => {
  const habit = new Habit(4);
  for (let i = 0; i < 100; i++) habit.learn("old", at(0), true);
  for (let i = 0; i < 60; i++) habit.learn("young", at(7 * 24), true);
  habit.learn("old", at(7 * 24), true);
  t.same(habit.top(2), ["young", "old"]);
});

t.test("no flood of new values pushes out a settled one, and none exceeds the bound", async () => {
  fc.assert(
    fc.property(fc.array(fc.string({ maxLength: 3 }), { maxLength: 200 }), (flood) => {
      const habit = new Habit(4);
      habit.learn("settled value", at(0), true);
      for (const value of flood) habit.learn(value, at(1), false);
      return habit.familiarity("settled value") === "settled" && habit.entries.length <= 4;
    }),
  );
});

t.test("known values are bounded, and what is asked for again outlives what is not", async (t) => {
  const known = new KnownValues(3);
  t.equal(known.learn("a"), true);
  t.equal(known.learn("a"), false);
  for (const value of ["b", "c"]) known.learn(value);
  for (let i = 0; i < 50; i++) {
    known.learn("a");
    known.learn(`scan ${i}`);
  }
  t.equal(known.has("a"), true);
  t.equal(known.has("b"), false);
  t.equal(known.values().length, 3);
});

t.test("what a habit tells of each value is what another takes over, as many as it has room for", async (t) => {
  const habit = new Habit(6);
  for (let i = 0; i < 6; i++) habit.learn(`value ${i}`, toEpochMs(i * SETTLE_WINDOW_MS), i % 2 === 0);
  const told: (string | number)[] = [];
  habit.each((...entry) => told.push(...entry));
  const [same, smaller, empty] = [new Habit(6), new Habit(2), new Habit(6)];
  same.restore([...told]);
  smaller.restore([...told]);
  empty.restore([]);
  t.same(same.entries, habit.entries);
  t.same(smaller.entries, habit.entries.slice(0, 2));
  t.equal(empty.size, 0);
});
