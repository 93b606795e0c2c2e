import t from "tap";
import { NaiveRules } from "../scripts/evaluate/naive.ts";
import { type Labels, report, Tally } from "../scripts/evaluate/tally.ts";
import { createReplay } from "../src/check/replay.ts";
import { simulate } from "../src/simulate/mesh.ts";
import { POLICY } from "./support/requests.ts";

const WORLD = { seed: 5, days: 2, services: 5, thefts: 1 } as const;
const RANKS = { allow: 0, challenge: 1, deny: 2, terminate: 3 } as const;
const rows = simulate(WORLD);

t.test("the same seed gives the same rows, another seed others", async (t) => {
  t.equal(JSON.stringify(simulate(WORLD)), JSON.stringify(rows));
  t.not(JSON.stringify(simulate({ ...WORLD, seed: 6 }).slice(0, 50)), JSON.stringify(rows.slice(0, 50)));
});

t.test("rows are in order of time, thefts only on the last day, one of each kind", async (t) => {
  t.ok(rows.every((row, i) => i === 0 || row.time >= (rows[i - 1]?.time ?? "")));
  const attacks = rows.filter(({ label }) => label === "attack");
  t.ok(attacks.every(({ phase }) => phase === "test"));
  t.equal(new Set(attacks.map(({ episode }) => episode)).size, 7);
  t.ok(rows.some(({ phase }) => phase === "warmup"));
});

t.test("thefts from elsewhere are challenged at the first request, and honest traffic is left alone", async (t) => {
  const replay = createReplay({ policy: POLICY, answers: "rows", observe: false, view: "callee" });
  const tally = new Tally();
  tally.begin("simulated");
  for (const row of rows) {
    const { score, decision } = replay.row(row);
    tally.add(row, { score, rank: RANKS[decision] });
  }
  const result = report(tally, 20);
  for (const attack of ["replay-internet", "replay-other-pod"]) {
    t.match(
      result.recall.find((one) => one.attack === attack),
      { challenged: [1, 1, 1], denied: [0, 1, 1] },
      attack,
    );
  }
  t.ok(result.challenged <= 0.001, `${result.challenged} challenged`);
  t.equal(result.denied, 0);
});

const honest: Labels = { principal: "p", credential: "c", label: "benign", attack: null, episode: null, phase: "test" };
const stolen: Labels = { ...honest, credential: "s", label: "attack", attack: "a", episode: "e" };

t.test("what a tally counts", async (t) => {
  const tally = new Tally();
  tally.begin("one");
  tally.add({ ...honest, phase: "warmup" }, { score: 99, rank: 3 });
  for (const rank of [0, 0, 1, 2]) tally.add(honest, { score: rank * 30, rank });
  for (const rank of [0, 1, 2]) tally.add(stolen, { score: rank * 30, rank });
  tally.add({ ...honest, credential: "s" }, { score: 50, rank: 2 });
  const result = report(tally, 10);
  t.match(result, {
    benignRequests: 4,
    challenged: 0.5,
    denied: 0.25,
    principalsChallenged: 1,
    collateral: 1,
    collateralBlocked: 1,
    recall: [
      { attack: "all", episodes: 1, challenged: [0, 1, 1], denied: [0, 1, 1], medianChallenged: 2 },
      { attack: "a", episodes: 1 },
    ],
  });
});

t.test("naive rules flag what is new, but never a principal's first row", async (t) => {
  const rules = new NaiveRules();
  const row = { ...rows[0]!, principal: "p", source_address: "10.0.0.1", user_agent: "a" };
  const flags = (change: Partial<typeof row>) => rules.judge({ ...row, ...change }).map(({ rank }) => rank > 0);
  t.same(flags({}), [false, false, false, false]);
  t.same(flags({}), [false, false, false, false]);
  t.same(flags({ source_address: "10.0.0.2" }), [true, false, false, false]);
  t.same(flags({ source_address: "10.0.9.2", user_agent: "b" }), [true, true, true, true]);
});
