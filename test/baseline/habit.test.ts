import fc from "fast-check";
import t from "tap";
import { HabitLimits, Habits, HabitsReader, KnownValues, SETTLE_WINDOW_MS } from "../../src/baseline/habit.ts";
import { toEpochMs } from "../../src/model/units.ts";

/** The habit that is tried, between others that hold something. */
const HABIT = 1;

/** One habit of so many values, between two others. */
function habitOf(valuesMax: number): Habits {
  const habits = new Habits(new HabitLimits([2, valuesMax, 2]));
  for (const neighbour of [0, 2]) habits.learn(neighbour, "neighbour", at(0), true);
  return habits;
}

const at = (windows: number) => toEpochMs(windows * SETTLE_WINDOW_MS);

t.test("a value settles in its third separate hour, however often it is used before", async (t) => {
  const habit = habitOf(4);
  t.equal(habit.learn(HABIT, "a", at(0), false), "new");
  for (let i = 0; i < 100; i++) habit.learn(HABIT, "a", at(0), false);
  t.equal(habit.familiarity(HABIT, "a"), "pending");
  habit.learn(HABIT, "a", at(1), false);
  t.equal(habit.familiarity(HABIT, "a"), "pending");
  habit.learn(HABIT, "a", at(2), false);
  t.equal(habit.familiarity(HABIT, "a"), "settled");
});

t.test("a clock that steps back settles nothing", async (t) => {
  const habit = habitOf(4);
  habit.learn(HABIT, "a", at(5), false);
  for (const hour of [4, 3, 2, 1]) habit.learn(HABIT, "a", at(hour), false);
  t.equal(habit.familiarity(HABIT, "a"), "pending");
});

t.test("old use weighs half after a week", async (t) => {
  const habit = habitOf(4);
  for (let i = 0; i < 100; i++) habit.learn(HABIT, "old", at(0), true);
  for (let i = 0; i < 60; i++) habit.learn(HABIT, "young", at(7 * 24), true);
  habit.learn(HABIT, "old", at(7 * 24), true);
  t.same(habit.top(HABIT, 2), ["young", "old"]);
});

t.test("no flood of new values pushes out a settled one, and none exceeds the bound", async () => {
  fc.assert(
    fc.property(fc.array(fc.string({ maxLength: 3 }), { maxLength: 200 }), (flood) => {
      const habit = habitOf(4);
      habit.learn(HABIT, "settled value", at(0), true);
      for (const value of flood) habit.learn(HABIT, value, at(1), false);
      return habit.familiarity(HABIT, "settled value") === "settled" && habit.entries(HABIT).length <= 4;
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

const fromTold = (limits: HabitLimits, told: readonly (readonly [string, number, number, number])[][]): Habits => {
  const reader = new HabitsReader(limits);
  // What was read before is none of the next one's.
  reader.add("another principal's", 64, 1, 0);
  reader.begin();
  for (const habit of told) {
    for (const entry of habit) reader.add(...entry);
    reader.next();
  }
  const habits = new Habits(limits);
  habits.restore(reader.read());
  return habits;
};

t.test("what habits tell of each value is what others take over, as many as they have room for", async (t) => {
  const habits = new Habits(new HabitLimits([6, 6, 6]));
  for (let i = 0; i < 12; i++) habits.learn(i % 2, `value ${i}`, toEpochMs(i * SETTLE_WINDOW_MS), i % 3 === 0);
  const told = [0, 1, 2].map((habit) => {
    const entries: [string, number, number, number][] = [];
    habits.each(habit, (...entry) => entries.push(entry));
    return entries;
  });
  const same = fromTold(new HabitLimits([6, 6, 6]), told);
  const smaller = fromTold(new HabitLimits([6, 2, 6]), told);
  const empty = fromTold(new HabitLimits([6, 6, 6]), [[], [], []]);
  for (const habit of [0, 1, 2]) {
    t.same(same.entries(habit), habits.entries(habit));
    t.same(smaller.entries(habit), habits.entries(habit).slice(0, habit === 1 ? 2 : 6));
    t.equal(empty.size(habit), 0);
  }
});

t.test("habits of one principal do not meet, whatever each of them learns", async () => {
  const uses = fc.array(
    fc.record({
      habit: fc.nat(5),
      value: fc.constantFrom("a", "b", "c", "d", "e"),
      hour: fc.nat(400),
      settle: fc.boolean(),
    }),
    { maxLength: 120 },
  );
  const sizes = [3, 1, 4, 2, 5, 3];
  fc.assert(
    fc.property(uses, (all) => {
      const together = new Habits(new HabitLimits(sizes));
      const apart = sizes.map((size) => new Habits(new HabitLimits([size])));
      for (const { habit, value, hour, settle } of all) {
        const one = apart[habit] as Habits;
        if (together.learn(habit, value, at(hour), settle) !== one.learn(0, value, at(hour), settle)) return false;
      }
      return sizes.every(
        (_, habit) => JSON.stringify(together.entries(habit)) === JSON.stringify(apart[habit]?.entries(0)),
      );
    }),
  );
});

t.test("a value used without end weighs at most what its slot holds, and stays settled", async (t) => {
  const told: [string, number, number, number][] = [["a", 2 ** 29 - 1, 3, 5]];
  const habits = fromTold(new HabitLimits([2]), [told]);
  habits.learn(0, "a", at(5), false);
  t.same(habits.entries(0), [{ value: "a", weight: 2 ** 29, windows: 3, lastWindow: 5 }]);
});

t.test("one byte tells where a habit ends: more values together are refused", async (t) => {
  t.doesNotThrow(() => new HabitLimits([200, 55]));
  t.throws(() => new HabitLimits([200, 56]), RangeError);
});

t.test(
  "of one day so many new values are remembered of the habit that is limited, and all of the others",
  async (t) => {
    const habits = new Habits(new HabitLimits([9, 9], { habit: 1, newMax: 2 }));
    for (const habit of [0, 1]) for (const value of ["a", "b", "c"]) habits.learn(habit, value, at(0), false);
    t.same([habits.size(0), habits.size(1)], [3, 2]);
    habits.learn(1, "c", at(24), false);
    t.equal(habits.has(1, "c"), true, "another day");
  },
);
