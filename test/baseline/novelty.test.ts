import fc from "fast-check";
import t from "tap";
import { NOVELTY_FIGURES, NoveltyCurve, Runs, Share } from "../../src/baseline/novelty.ts";
import { zeros } from "../../src/model/numbers.ts";

t.test("before anything was seen, novelty is expected first and less with every doubling", async (t) => {
  const curve = new NoveltyCurve();
  t.equal(curve.hazard(0), 0.9);
  t.equal(curve.hazard(1).toFixed(3), "0.636");
  t.equal(curve.hazard(2), curve.hazard(3), "one bucket from 2 to 3");
  t.ok(curve.hazard(4) < curve.hazard(3));
});

t.test(
  "however many requests brought nothing new, the claim is never sharper than half a novelty in them",
  async (t) => {
    const curve = new NoveltyCurve();
    const own = zeros(NOVELTY_FIGURES);
    for (let i = 0; i < 1_000; i++) curve.learn(own, 0, false);
    t.ok(curve.hazard(1_000) >= 0.5 / 1_040, String(curve.hazard(1_000)));
    t.ok(curve.hazard(1_000) < 0.01, String(curve.hazard(1_000)));
  },
);

t.test("who brings more news than the others is expected to go on", async (t) => {
  const curve = new NoveltyCurve();
  const steady = zeros(NOVELTY_FIGURES);
  const restless = zeros(NOVELTY_FIGURES);
  for (let i = 0; i < 200; i++) {
    curve.learn(steady, 0, false);
    curve.learn(restless, 0, i % 10 === 0);
  }
  t.ok(curve.chance(restless, 0) > 5 * curve.chance(steady, 0));
});

t.test("a chance stays a chance whatever was learned, and survives its own counts", async () => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 300 }), (novelties) => {
      const curve = new NoveltyCurve();
      const own = zeros(NOVELTY_FIGURES);
      for (const novel of novelties) curve.learn(own, 0, novel);
      const copy = new NoveltyCurve();
      curve.refresh();
      copy.restore([...curve.requests], [...curve.novelties]);
      const chance = curve.chance(own, 0);
      return chance > 0 && chance <= 0.98 && copy.chance(own, 0) === chance;
    }),
  );
});

t.test("a share begins at its prior and follows what it sees", async (t) => {
  const share = new Share(0.5, 4);
  t.equal(share.value(), 0.5);
  for (let i = 0; i < 4; i++) share.learn(true);
  t.equal(share.value(), 0.75);
});

t.test("before data a run is as likely to go on at any length", async (t) => {
  const runs = new Runs();
  for (const length of [1, 2, 5, 20]) t.equal(runs.again(length).toFixed(6), "0.300000");
});

t.test("long runs seen make long runs likelier to go on, and short ones only a little", async (t) => {
  const runs = new Runs();
  for (let run = 0; run < 10; run++) {
    for (let length = 1; length <= 16; length++) runs.learnGrown(length);
    runs.learnEnded(16);
  }
  t.ok(runs.again(8) > 0.9, String(runs.again(8)));
  t.ok(runs.again(1) < runs.again(8));
});

t.test("one endless run teaches each doubling once", async (t) => {
  const runs = new Runs();
  for (let length = 1; length <= 1_000; length++) runs.learnGrown(length);
  t.same([...runs.trials], [1, 1, 1, 1, 1, 1, 1, 1]);
});
