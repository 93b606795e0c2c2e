import t from "tap";
import { OperatingError } from "../../src/model/errors.ts";
import type { DecisionRecord } from "../../src/telemetry/decision-record.ts";
import { errorFields } from "../../src/telemetry/log.ts";
import { RecentDecisions } from "../../src/telemetry/recent.ts";

t.test("our own errors are told whole, others by their kind and place only", async (t) => {
  t.same(errorFields(new OperatingError("ERR_JWKS", "keys from https://x: refused")), {
    code: "ERR_JWKS",
    error: "keys from https://x: refused",
  });
  const foreign = errorFields(new TypeError("unexpected token sk-live-1 in header"));
  t.match(foreign, { code: "TypeError", at: /log\.test\.ts/ });
  t.notOk(JSON.stringify(foreign).includes("sk-live-1"));
  t.same(errorFields("text"), { code: "string" });
  t.same(errorFields(undefined), { code: "undefined" });
});

const record = (decisionId: string): DecisionRecord => ({ decisionId }) as DecisionRecord;

t.test("the latest decisions are kept, up to their number", async (t) => {
  const recent = new RecentDecisions(3);
  for (const id of ["a", "b", "c", "d"]) recent.add(record(id));
  t.equal(recent.get("a"), undefined);
  t.match(recent.get("b"), { decisionId: "b" });
  t.match(recent.latest(2), [{ decisionId: "c" }, { decisionId: "d" }]);
  t.equal(recent.latest(10).length, 3);
  t.same(recent.latest(0), []);
});

t.test("listeners hear every decision until they leave", async (t) => {
  const recent = new RecentDecisions(1);
  const heard: string[] = [];
  const leave = recent.subscribe(({ decisionId }) => heard.push(decisionId));
  recent.add(record("a"));
  recent.add(record("b"));
  leave();
  recent.add(record("c"));
  t.same(heard, ["a", "b"]);
});
