import fc from "fast-check";
import t from "tap";
import { learnCentre, Tail, tailBits } from "../../src/baseline/tail.ts";

t.test("before data the tail halves with every doubling", async (t) => {
  const tail = new Tail();
  t.equal(tail.atLeast(-3), 1);
  t.equal(tail.atLeast(1), 0.5);
  t.equal(tail.atLeast(4), 0.0625);
});

t.test("what was never reached among many is rare, and never impossible", async (t) => {
  const tail = new Tail();
  for (let i = 0; i < 980; i++) tail.learn(0);
  t.equal(tail.atLeast(5), 20 / 32 / 1_000);
});

t.test("bits rise as the tail gets thinner, and ordinary values reassure by at most one bit", async () => {
  fc.assert(
    fc.property(
      fc.double({ min: 1e-12, max: 1, noNaN: true }),
      fc.double({ min: 0.01, max: 1, noNaN: true }),
      (p, f) => {
        const bits = tailBits(p);
        return bits >= -1 - 1e-9 && tailBits(p * f) >= bits - 1e-6;
      },
    ),
  );
});

t.test("the expected worth of an ordinary value is one: no drift accuses honest callers", async (t) => {
  let sum = 0;
  const steps = 1_000_000;
  for (let i = 0; i < steps; i++) sum += 2 ** tailBits((i + 0.5) / steps);
  t.ok(sum / steps < 1.01, String(sum / steps));
});

t.test("one burst moves a settled centre by at most a two-hundredth of its distance", async (t) => {
  const centre = { mean: 0, count: 0 };
  for (let i = 0; i < 500; i++) learnCentre(centre, 4);
  learnCentre(centre, 24);
  t.equal(centre.mean.toFixed(3), "4.100");
});
