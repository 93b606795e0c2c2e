import fc from "fast-check";
import t from "tap";
import { CENTRE_FIGURES, centreMean, learnCentre, Tail, tailBits } from "../../src/baseline/tail.ts";
import { zeros } from "../../src/model/numbers.ts";
import { MINUTE_MS, toEpochMs } from "../../src/model/units.ts";
import { NOON } from "../support/requests.ts";

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
  const centre = zeros(CENTRE_FIGURES);
  for (let i = 0; i < 500; i++) learnCentre(centre, 0, 4, toEpochMs(NOON + i));
  learnCentre(centre, 0, 24, toEpochMs(NOON + 500));
  t.equal(centreMean(centre, 0).toFixed(3), "4.100");
});

t.test("after its first day a centre rises by one doubling a day, however hard it is driven", async (t) => {
  const centre = zeros(CENTRE_FIGURES);
  const drive = (fromHour: number, toHour: number, value: number): void => {
    for (let minute = fromHour * 60; minute < toHour * 60; minute++) {
      learnCentre(centre, 0, value, toEpochMs(NOON + minute * MINUTE_MS));
    }
  };
  drive(0, 24, 10);
  drive(24, 48, 30);
  t.ok(centreMean(centre, 0) <= 12.01, `${centreMean(centre, 0)} after one day of driving`);
  drive(48, 72, 30);
  t.ok(centreMean(centre, 0) <= 13.01, `${centreMean(centre, 0)} after two`);
  drive(72, 96, 4);
  t.ok(centreMean(centre, 0) < 4.5, "falling is free");
});
