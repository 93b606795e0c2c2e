/** Tests how far an automatic lock reaches: no farther than what separates the thief from the owner, unless policy widens it. */

import t from "tap";
import { createLine } from "../../src/check/line.ts";
import type { Policy } from "../../src/model/policy.ts";
import { MINUTE_MS, SECOND_MS, toEpochMs } from "../../src/model/units.ts";
import { countingBytes, NOON, POLICY, type RequestOptions, request } from "../support/requests.ts";

const OWNER: RequestOptions = { principal: "spiffe://td/billing", credential: "stolen" };
const THIEF: RequestOptions = {
  ...OWNER,
  address: "203.0.113.9",
  agent: "curl/8.5.0",
  ja4: "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6",
};

for (const { autoLockScope, scope, owner, otherToken } of [
  {
    autoLockScope: "origin",
    scope: { credential: "token:stolen", address: "203.0.113.9", fingerprint: "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6" },
    owner: "allow",
    otherToken: "allow",
  },
  { autoLockScope: "credential", scope: { credential: "token:stolen" }, owner: "terminate", otherToken: "allow" },
  {
    autoLockScope: "principal",
    scope: { principal: "spiffe://td/billing" },
    owner: "terminate",
    otherToken: "terminate",
  },
] as const) {
  t.test(`with ${autoLockScope} the owner is ${owner === "allow" ? "left alone" : "cut off"}`, async (t) => {
    const policy: Policy = { ...POLICY, autoLockScope };
    const line = createLine({ principalsMax: 10, sessionsMax: 10, random: countingBytes() });
    for (let i = 0; i < 400; i++) {
      const facts = request({ ...OWNER, at: NOON + i * SECOND_MS });
      line.learn(facts, line.check(facts, policy));
    }
    const later = NOON + 30 * MINUTE_MS;
    let last = "";
    for (let i = 0; i < 10 && last !== "terminate"; i++) {
      const facts = request({ ...THIEF, at: later + i * 10 * SECOND_MS });
      const verdict = line.check(facts, policy);
      line.learn(facts, verdict);
      last = verdict.decision.kind;
    }
    t.equal(last, "terminate");
    const [lock] = line.locks.list(toEpochMs(later + 2 * MINUTE_MS));
    t.same(lock?.scope, scope);
    const after = later + 2 * MINUTE_MS;
    t.equal(line.check(request({ ...OWNER, at: after }), policy).decision.kind, owner);
    t.equal(line.check(request({ ...OWNER, at: after, credential: "another" }), policy).decision.kind, otherToken);
  });
}
