import fc from "fast-check";
import t from "tap";
import { toEpochMs } from "../../src/model/units.ts";
import { Calibration, newOwnTotals } from "../../src/score/calibration.ts";
import { gather } from "../../src/score/gather.ts";
import { score } from "../../src/score/score.ts";
import { newSession, newStanding } from "../../src/sessions/session.ts";

const part = (signal: string, bits: number, counted = true) => ({ signal, bits, seen: "", expected: "", counted });
const tripled = (bits: number) => Math.min(99, bits * 3);

t.test("points are shared out by evidence, heaviest first, and sum to the score", async (t) => {
  t.same(score([part("a", 2), part("b", 6)], tripled, undefined), {
    bits: 8,
    score: 24,
    reasons: [
      { signal: "b", bits: 6, points: 18, seen: "", expected: "" },
      { signal: "a", bits: 2, points: 6, seen: "", expected: "" },
    ],
  });
});

t.test("a signal that is only observed is shown and does not count", async (t) => {
  t.match(score([part("a", 4), part("b", 10, false)], tripled, undefined), {
    score: 12,
    reasons: [{ signal: "a" }, { signal: "b", points: 0 }],
  });
});

t.test("a certain signal takes all hundred points", async (t) => {
  t.match(score([part("a", 4), part("lock", 64)], tripled, "lock"), {
    score: 100,
    reasons: [
      { signal: "lock", points: 100 },
      { signal: "a", points: 0 },
    ],
  });
});

t.test("reassurance alone scores nothing", async (t) => {
  t.equal(score([part("a", -3)], tripled, undefined).score, 0);
});

t.test("points sum to the score whatever the evidence", async () => {
  const evidence = fc.array(fc.record({ bits: fc.double({ min: -8, max: 30, noNaN: true }), counted: fc.boolean() }));
  fc.assert(
    fc.property(evidence, (parts) => {
      const scored = score(
        parts.map(({ bits, counted }, i) => part(`s${i}`, bits, counted)),
        tripled,
        undefined,
      );
      const sum = scored.reasons.reduce((total, { points }) => total + points, 0);
      return Math.abs(sum - scored.score) < 0.05 && scored.score >= 0 && scored.score <= 100;
    }),
  );
});

for (const [bits, want] of [
  [0, 0],
  [-5, 0],
  [1, 3.01],
  [10, 30.1],
  [1_000, 99],
] as const) {
  t.test(`before anything was measured ${bits} bits are ${want} points`, async (t) => {
    t.equal(Math.round(new Calibration().score(bits, undefined) * 100) / 100, want);
  });
}

t.test("a level that ordinary traffic reaches too often is worth only what was measured", async (t) => {
  const calibration = new Calibration();
  for (let principal = 0; principal < 200; principal++) {
    const own = { totals: newOwnTotals() };
    // One request in ten reaches 6 bits, where theory promises one in sixty-four.
    for (let i = 0; i < 20; i++) calibration.learn(i % 10 === 0 ? 6.5 : 0, own, 1);
  }
  const points = calibration.score(6, undefined);
  t.ok(points > 9.5 && points < 10.5, `${points} points for one in ten`);
  t.ok(calibration.score(10, undefined) > points + 8, "beyond what was seen each bit counts in full again");
});

t.test("a principal's own totals lower its own points and nobody else's", async (t) => {
  const calibration = new Calibration();
  const restless = { totals: newOwnTotals() };
  for (let i = 0; i < 2_000; i++) calibration.learn(i % 5 === 0 ? 12 : 0, restless, 1);
  const calm = { totals: newOwnTotals() };
  for (let i = 0; i < 2_000; i++) calibration.learn(0, calm, 1);
  t.ok(calibration.score(12, restless.totals) < 12, "one in five is worth about seven points");
  t.ok(calibration.score(12, calm.totals) > 20);
});

t.test("points never fall as evidence rises, and never promise more than theory", async () => {
  const learned = fc.array(fc.double({ min: 0, max: 25, noNaN: true }), { maxLength: 400 });
  fc.assert(
    fc.property(learned, (totals) => {
      const calibration = new Calibration();
      const own = { totals: newOwnTotals() };
      for (const bits of totals) calibration.learn(bits, own, 1);
      let previous = 0;
      for (let bits = 0; bits <= 40; bits += 0.5) {
        const points = calibration.score(bits, own.totals);
        if (points < previous - 1e-9 || points > bits * 3.0103 + 1e-6) return false;
        previous = points;
      }
      return true;
    }),
  );
});

const SUM = { name: "usage.route", gathering: "sum", halfLifeMs: 60_000, capBits: 12 } as const;
const HOLD = { name: "origin.address", gathering: "hold", halfLifeMs: 60_000, capBits: 12 } as const;
const reading = (bits: number) => ({ bits, seen: "s", expected: "e" });
const PLACE = { address: "10.1.0.5", cipher: undefined, product: undefined };
const session = () => newSession("c", newStanding(PLACE, "p", toEpochMs(0)), toEpochMs(0));

t.test("held evidence keeps its highest and halves with its half-life", async (t) => {
  const one = session();
  t.equal(gather(one, HOLD, reading(8), 0, 1), 8);
  t.equal(gather(one, HOLD, reading(2), 0, 1), 8);
  t.equal(gather(one, HOLD, undefined, 60_000, 1), 4);
});

t.test("summed evidence grows with every strange request and is worn down by ordinary ones", async (t) => {
  const one = session();
  const first = gather(one, SUM, reading(4), 0, 1);
  const second = gather(one, SUM, reading(4), 0, 1);
  t.ok(second > first + 3, `${first} then ${second}`);
  let worn = second;
  for (let i = 0; i < 40; i++) worn = gather(one, SUM, reading(-0.7), 0, 1);
  t.ok(worn < second, `${worn} after forty ordinary requests`);
});

t.test("summed evidence stays within the cap, so that it can fade again", async (t) => {
  const one = session();
  for (let i = 0; i < 100; i++) gather(one, SUM, reading(8), 0, 1);
  t.ok(gather(one, SUM, undefined, 0, 1) <= 12);
  t.ok(gather(one, SUM, undefined, 120_000, 1) <= 3.5, "two half-lives later");
});

t.test("a clock that steps back neither fades nor adds", async (t) => {
  const one = session();
  gather(one, HOLD, reading(8), 100_000, 1);
  t.equal(gather(one, HOLD, undefined, 0, 1), 8);
});
