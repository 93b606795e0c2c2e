import fc from "fast-check";
import t from "tap";
import { FairShares, LoadWatch } from "../../src/server/load-watch.ts";

/** Keeps the event loop busy until the clock has moved on by so much. */
function hold(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

t.test("a held-up event loop shows as pressed, then as overloaded, and is forgiven once it is free", async (t) => {
  const watch = new LoadWatch(50, () => performance.now());
  t.equal(watch.level(performance.now()), "calm", "nothing was asked yet");
  const begin = performance.now();
  watch.seen(begin);
  t.equal(watch.level(begin), "calm");
  t.equal(watch.level(begin + 10 + 49), "calm", "a timer that is due is late by less than the limit");
  t.equal(watch.level(begin + 10 + 50), "pressed");
  t.equal(watch.level(begin + 10 + 100), "overloaded");
  hold(130);
  t.equal(watch.level(performance.now()), "overloaded", "while it is held");
  await new Promise((resolve) => setTimeout(resolve, 0));
  await turn();
  t.equal(watch.level(performance.now()), "overloaded", "what is read in this turn waited so long");
  for (let turns = 0; turns < 100_000 && watch.level(performance.now()) !== "calm"; turns++) await turn();
  t.equal(watch.level(performance.now()), "calm");
  watch.close();
});

t.test(
  "a caller is heavy when it asks for more than twice its share, and no caller is when all ask alike",
  async (t) => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 40 }), (callers, each) => {
        const shares = new FairShares();
        for (let i = 0; i < callers * each; i++) shares.note(`caller-${i % callers}`, 100);
        for (let who = 0; who < callers; who++) t.notOk(shares.isHeavy(`caller-${who}`));
        const others = callers * each;
        // Alone it would have asked for all there is: nobody is deprived by it.
        for (let i = 0; i < others * 3; i++) shares.note("greedy", 100);
        const share = (3 * (callers + 1)) / 4;
        t.equal(shares.isHeavy("greedy"), share > 2);
      }),
      { numRuns: 50 },
    );
  },
);

t.test("a caller is heavy no longer than two windows, and one never seen is not", async (t) => {
  const shares = new FairShares();
  for (let i = 0; i < 100; i++) shares.note("greedy", 0);
  for (let i = 0; i < 10; i++) shares.note(`other-${i}`, 0);
  t.ok(shares.isHeavy("greedy"));
  t.notOk(shares.isHeavy("stranger"));
  shares.note("other-1", 1_000);
  t.ok(shares.isHeavy("greedy"), "the window before still counts");
  shares.note("other-1", 2_000);
  t.notOk(shares.isHeavy("greedy"));
});

t.test("more callers than are told apart neither grow memory nor make an ordinary one heavy", async (t) => {
  const shares = new FairShares();
  for (let i = 0; i < 20_000; i++) shares.note(`caller-${i}`, 0);
  t.notOk(shares.isHeavy("caller-1"));
  t.notOk(shares.isHeavy("caller-19999"));
});
