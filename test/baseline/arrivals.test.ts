/** Tests that arrivals by others' addresses become rare or ordinary as they are seen to be. */

import t from "tap";
import { Arrivals } from "../../src/baseline/arrivals.ts";

function taught(principal: string, own: number, others: number, arrivals = new Arrivals(100)): Arrivals {
  for (let i = 0; i < own; i++) arrivals.learn(principal, false);
  for (let i = 0; i < others; i++) arrivals.learn(principal, true);
  return arrivals;
}

t.test("before anything was seen, one in twenty", async (t) => {
  t.equal(new Arrivals(10).chance("a"), 0.05);
});

t.test("where pods call by themselves it becomes rare, for newcomers too", async (t) => {
  const arrivals = taught("a", 1_000, 0);
  t.ok(arrivals.chance("a") < 1 / 1_000);
  t.ok(arrivals.chance("b") <= 1 / 1_000);
});

t.test("a caller behind a proxy comes to say nothing, and the others still do", async (t) => {
  const arrivals = taught("a", 1_000, 0);
  taught("behind", 0, 30, arrivals);
  t.ok(arrivals.chance("behind") > 0.4, String(arrivals.chance("behind")));
  t.ok(arrivals.chance("a") < 0.01, String(arrivals.chance("a")));
});

t.test("where everybody is behind one, nobody is accused", async (t) => {
  t.ok(taught("a", 0, 60).chance("b") > 0.7);
  t.ok(taught("a", 0, 60).chance("a") <= 0.98);
});

t.test("memory is bounded: who taught longest ago is forgotten", async (t) => {
  const arrivals = new Arrivals(2);
  for (const name of ["a", "b", "a", "c"]) taught(name, 0, 5, arrivals);
  t.equal(arrivals.chance("b"), arrivals.chance("never seen"));
  t.ok(arrivals.chance("a") > arrivals.chance("b"));
  arrivals.forget("a");
  t.equal(arrivals.chance("a"), arrivals.chance("b"));
});
