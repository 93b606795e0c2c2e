import fc from "fast-check";
import t from "tap";
import { createLine } from "../../src/check/line.ts";
import type { RequestFacts } from "../../src/model/facts.ts";
import type { Line } from "../../src/model/line.ts";
import { MINUTE_MS, SECOND_MS } from "../../src/model/units.ts";
import { countingBytes, NOON, POLICY, request } from "../support/requests.ts";

const newLine = (): Line => createLine({ principalsMax: 50, sessionsMax: 60, random: countingBytes() });

function pass(line: Line, facts: RequestFacts): void {
  line.learn(facts, line.check(facts, POLICY));
}

t.test("a session that was just judged stands by that; nothing is learned of what it does meanwhile", async (t) => {
  const line = newLine();
  const at = (seconds: number, path = "/orders") =>
    request({ principal: "spiffe://td/web", at: NOON + seconds * SECOND_MS, path });
  for (let i = 0; i < 50; i++) pass(line, at(i));
  const before = [line.principals(), line.stats()];
  const facts = at(55, "/never/seen");
  const verdict = line.standing(facts, POLICY);
  t.match(verdict, { basis: "standing", enforced: "allow", mode: "enforce", policyRevision: POLICY.revision });
  if (verdict !== undefined) line.learn(facts, verdict);
  t.same([line.principals(), line.stats()], before);
});

t.test("a session that is new, or was judged a minute ago, is not answered so, and nothing is changed", async (t) => {
  const [asked, unasked] = [newLine(), newLine()];
  const first = request({ principal: "spiffe://td/web" });
  t.equal(asked.standing(first, POLICY), undefined);
  pass(asked, first);
  pass(unasked, first);
  const elsewhere = request({ principal: "spiffe://td/web", address: "203.0.113.9", at: NOON + SECOND_MS });
  t.equal(asked.standing(elsewhere, POLICY), undefined, "a thief is a new session");
  const later = request({ principal: "spiffe://td/web", at: NOON + MINUTE_MS });
  t.equal(asked.standing(later, POLICY), undefined);
  t.same(asked.check(later, POLICY), unasked.check(later, POLICY));
});

t.test("locks end a session that stands well", async (t) => {
  const line = newLine();
  pass(line, request({ principal: "spiffe://td/web" }));
  line.locks.add({
    id: "l",
    scope: { principal: "spiffe://td/web" },
    reason: "stolen",
    setBy: "operator",
    setAtMs: NOON,
    expiresAtMs: undefined,
  });
  const verdict = line.standing(request({ principal: "spiffe://td/web", at: NOON + SECOND_MS }), POLICY);
  t.match(verdict, { basis: "standing", decision: { kind: "terminate" }, enforced: "terminate", score: 100 });
});

t.test("what was gathered counts on: the score is that of a review", async (t) => {
  const drawn = fc.record({
    principal: fc.constantFrom("a", "b", "c"),
    address: fc.constantFrom("10.0.0.1", "203.0.113.9"),
    agent: fc.constantFrom("a/1.0", "curl/8.0"),
    path: fc.constantFrom("/", "/orders", "/admin", "/v1/secrets/9"),
  });
  let compared = 0;
  fc.assert(
    fc.property(fc.array(drawn, { minLength: 30, maxLength: 80 }), (steps) => {
      const line = newLine();
      for (const [i, step] of steps.entries()) {
        const facts = request({ ...step, principal: `spiffe://td/${step.principal}`, at: NOON + i * SECOND_MS });
        const review = line.review(facts, POLICY);
        const verdict = i % 3 === 2 ? line.standing(facts, POLICY) : undefined;
        if (verdict === undefined) {
          pass(line, facts);
          continue;
        }
        // A challenge may be ignored by a request that is answered, never by one that is only looked at.
        if (verdict.decision.kind !== "allow" || review.decision.kind !== "allow") continue;
        compared++;
        t.same([verdict.score, verdict.reasons], [review.score, review.reasons]);
      }
    }),
    { numRuns: 60 },
  );
  t.ok(compared > 50, "enough was compared");
});

t.test("what decides by itself does so for a session that stands well, too", async (t) => {
  const line = newLine();
  pass(line, request({ principal: "spiffe://td/web" }));
  const other = { ...POLICY, identity: { ...POLICY.identity, trustedSpiffe: [/^spiffe:\/\/other\//] } };
  const verdict = line.standing(request({ principal: "spiffe://td/web", at: NOON + SECOND_MS }), other);
  t.match(verdict, { basis: "standing", decision: { kind: "deny", because: "identity.untrusted" } });
});
