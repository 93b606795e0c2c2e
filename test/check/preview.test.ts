import fc from "fast-check";
import t from "tap";
import { createLine } from "../../src/check/line.ts";
import type { RequestFacts } from "../../src/model/facts.ts";
import type { Line } from "../../src/model/line.ts";
import type { Policy } from "../../src/model/policy.ts";
import { HOUR_MS, MINUTE_MS, SECOND_MS, toEpochMs } from "../../src/model/units.ts";
import type { Verdict } from "../../src/model/verdict.ts";
import { countingBytes, NOON, POLICY, request } from "../support/requests.ts";

const STRICT: Policy = {
  ...POLICY,
  name: "strict",
  revision: "2",
  thresholds: { challenge: 5, deny: 10, terminate: 20 },
  locks: [
    {
      id: "c",
      scope: { principal: "spiffe://td/c" },
      reason: "r",
      setBy: "policy",
      setAtMs: 0,
      expiresAtMs: undefined,
    },
  ],
  signal: POLICY.signal,
};
const OTHERS: readonly Policy[] = [POLICY, STRICT, { ...POLICY, mode: "observe", signal: () => undefined }];

const newLine = (): Line => createLine({ principalsMax: 50, sessionsMax: 60, random: countingBytes() });

const drawn = fc.record({
  principal: fc.constantFrom("a", "b", "c", "d", "e", "f"),
  credential: fc.constantFrom("t1", "t2", "t3"),
  address: fc.constantFrom("10.0.0.1", "10.0.0.2", "203.0.113.9", "198.51.100.7"),
  agent: fc.constantFrom("a/1.0", "b/2.0", "curl/8.0"),
  ja4: fc.constantFrom("t13d1312h2_f57a46bbacb6_ab7e3b40a677", "other"),
  path: fc.constantFrom("/", "/orders", "/orders/17", "/admin", "/v1/secrets/9"),
  status: fc.constantFrom(200, 404, 500),
  stepMs: fc.constantFrom(SECOND_MS, MINUTE_MS, 20 * MINUTE_MS, 2 * HOUR_MS),
  /** Which policy is previewed, and how far from the request's own time. */
  other: fc.nat(OTHERS.length - 1),
  offMs: fc.constantFrom(0, -HOUR_MS, HOUR_MS, 30 * 24 * HOUR_MS),
});
type Drawn = typeof drawn extends fc.Arbitrary<infer Value> ? Value : never;

function factsOf({ principal, credential, address, agent, ja4, path }: Drawn, at: number): RequestFacts {
  return request({ at, principal: `spiffe://td/${principal}`, credential, address, agent, ja4, path });
}

/** Everything that happens after a check: learning, and the outcome. */
function goOn(line: Line, facts: RequestFacts, verdict: Verdict, status: number): void {
  line.learn(facts, verdict);
  if (verdict.enforced !== "allow") return;
  line.outcome({
    time: facts.time,
    decisionId: verdict.decisionId,
    requestId: undefined,
    status,
    grpcStatus: undefined,
    responseBytes: status * 10,
    requestBytes: undefined,
    durationMs: undefined,
    stage: "end",
  });
}

t.test("previews, of whatever time and policy, change no verdict, no memory and no random byte", async () => {
  fc.assert(
    fc.property(fc.array(drawn, { minLength: 1, maxLength: 80 }), fc.boolean(), (steps, warm) => {
      const [plain, previewed] = [newLine(), newLine()];
      let now = NOON;
      if (warm) {
        // Past the hundred requests after which the calibration is brought up to date.
        for (let i = 0; i < 130; i++) {
          now += MINUTE_MS;
          const facts = request({ at: now, path: i % 7 === 0 ? `/new/${i}x` : "/orders" });
          for (const line of [plain, previewed]) goOn(line, facts, line.check(facts, POLICY), 200);
        }
      }
      for (const step of steps) {
        now += step.stepMs;
        const facts = factsOf(step, now);
        const other = OTHERS[step.other] as Policy;
        previewed.preview({ ...facts, time: toEpochMs(now + step.offMs) }, other);
        const one = plain.check(facts, POLICY);
        const two = previewed.check(facts, POLICY);
        previewed.preview(facts, other);
        if (JSON.stringify(one) !== JSON.stringify(two)) return false;
        goOn(plain, facts, one, step.status);
        goOn(previewed, facts, two, step.status);
      }
      const at = toEpochMs(now);
      return (
        JSON.stringify(plain.stats()) === JSON.stringify(previewed.stats()) &&
        Buffer.from(plain.snapshot(at)).equals(previewed.snapshot(at))
      );
    }),
    { numRuns: 60 },
  );
});

t.test("right before a check, a preview under the same policy says the same", async () => {
  fc.assert(
    fc.property(fc.array(drawn, { minLength: 1, maxLength: 80 }), (steps) => {
      const line = newLine();
      let now = NOON;
      return steps.every((step) => {
        now += step.stepMs;
        const facts = factsOf(step, now);
        const preview = line.preview(facts, POLICY);
        const verdict = line.check(facts, POLICY);
        goOn(line, facts, verdict, step.status);
        return JSON.stringify({ ...preview, decisionId: "" }) === JSON.stringify({ ...verdict, decisionId: "" });
      });
    }),
    { numRuns: 60 },
  );
});

t.test("a preview says what the other policy would decide, and names it", async (t) => {
  const line = newLine();
  const facts = request({ principal: "spiffe://td/c" });
  t.match(line.preview(facts, STRICT), {
    decisionId: "00000000-0000-0000-0000-000000000000",
    decision: { kind: "terminate", because: "lock" },
    policyName: "strict",
    policyRevision: "2",
    thresholds: { challenge: 5 },
  });
  t.match(line.check(facts, POLICY), { decision: { kind: "allow" } }, "and the lock of the other is in nobody's way");
  t.same(line.locks.list(facts.time), [], "a previewed termination locks nobody");
  t.equal(line.stats().sessions, 1);
});
