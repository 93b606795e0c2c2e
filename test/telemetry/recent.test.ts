import fc from "fast-check";
import t from "tap";
import type { DecisionRecord } from "../../src/telemetry/decision-record.ts";
import { RecentDecisions } from "../../src/telemetry/recent.ts";
import { decisionRecord } from "../support/decision-records.ts";

const LABELS = { id: "sidecar", version: "1.0.0" };
const [SAMPLE] = fc.sample(decisionRecord, { numRuns: 1, seed: 1 }) as [DecisionRecord];

function record(decisionId: string, more: Partial<DecisionRecord> = {}): DecisionRecord {
  return { ...SAMPLE, score: 1, latencyUs: 1, ...more, decisionId };
}

t.test("the latest decisions are kept, up to their number", async (t) => {
  const recent = new RecentDecisions(3, LABELS);
  for (const id of ["a", "b", "c", "d"]) recent.add(record(id));
  t.equal(recent.get("a"), undefined);
  t.match(recent.get("b"), { decisionId: "b" });
  t.match(recent.latest(2), [{ decisionId: "c" }, { decisionId: "d" }]);
  t.equal(recent.latest(10).length, 3);
  t.same(recent.latest(0), []);
});

t.test("listeners hear every decision until they leave", async (t) => {
  const recent = new RecentDecisions(1, LABELS);
  const heard: string[] = [];
  const leave = recent.subscribe(({ decisionId }) => heard.push(decisionId));
  recent.add(record("a"));
  recent.add(record("b"));
  leave();
  recent.add(record("c"));
  t.same(heard, ["a", "b"]);
});

/** As JSON has it: what is no number is none, and what is absent is not there. */
function plain(one: DecisionRecord): unknown {
  return JSON.parse(JSON.stringify(one), (_key, value) => value ?? undefined);
}

const timed = fc.tuple(decisionRecord, fc.nat()).map(([one, latencyUs]) => ({ ...one, latencyUs }));

t.test("a decision is shown as it was, whatever callers call themselves", async (t) => {
  fc.assert(
    fc.property(fc.array(timed, { minLength: 1, maxLength: 6 }), (records) => {
      const recent = new RecentDecisions(4, LABELS);
      for (const one of records) recent.add(one);
      t.same(recent.latest(10).map(plain), records.slice(-4).map(plain));
    }),
    { numRuns: 500 },
  );
});

t.test("as many are kept as were asked for, however long their lines are", async (t) => {
  fc.assert(
    fc.property(fc.array(fc.nat(40_000), { minLength: 1, maxLength: 60 }), (lengths) => {
      const recent = new RecentDecisions(16, LABELS);
      lengths.forEach((length, i) => {
        recent.add(record(`d-${i}`, { userAgent: "x".repeat(length) }));
        const kept = recent.latest(100);
        t.equal(kept.length, Math.min(16, i + 1));
        kept.forEach((one, k) => {
          const number = i + 1 - kept.length + k;
          t.equal(one.decisionId, `d-${number}`);
          t.equal(one.userAgent?.length, lengths[number]);
        });
      });
    }),
    { numRuns: 60 },
  );
});

t.test("lines that are too long for all to be kept cost the oldest, not memory", async (t) => {
  const recent = new RecentDecisions(100, LABELS);
  const long = "x".repeat(3 * 1024 * 1024);
  for (let i = 0; i < 20; i++) recent.add(record(`d-${i}`, { userAgent: long }));
  t.same(
    recent.latest(100).map(({ decisionId }) => decisionId),
    ["d-15", "d-16", "d-17", "d-18", "d-19"],
  );
  recent.add(record("endless", { userAgent: "x".repeat(9 * 1024 * 1024) }));
  t.equal(recent.get("endless"), undefined, "one line never takes most of the room");
  t.match(recent.get("d-19"), { decisionId: "d-19" });
});
