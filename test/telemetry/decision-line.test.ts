import fc from "fast-check";
import t from "tap";
import type { ShadowVerdict } from "../../src/model/verdict.ts";
import { type DecisionLogLabels, decisionLine } from "../../src/telemetry/decision-line.ts";
import type { DecisionRecord } from "../../src/telemetry/decision-record.ts";

/** The line as the standard library writes it: what writing it by hand is held to. */
function expectedLine(record: DecisionRecord, labels: DecisionLogLabels): string {
  return JSON.stringify({
    decision_id: record.decisionId,
    labels,
    timestamp: new Date(record.timeMs).toISOString(),
    input: {
      principal: record.principal,
      peer_group: record.peerGroup,
      credential: record.credential,
      protocol: record.protocol,
      method: record.method,
      destination: record.destination,
      route: record.route,
      source_address: record.sourceAddress,
      user_agent: record.userAgent,
      ja4: record.ja4,
      request_id: record.requestId,
    },
    result: {
      allowed: record.enforced === "allow",
      risk: {
        score: record.score,
        decision: record.decision,
        enforced: record.enforced,
        because: record.because,
        mode: record.mode,
        basis: record.basis,
        rule: record.rule,
        thresholds: record.thresholds,
        ...(record.ruleThresholds.length === 0 ? {} : { rule_thresholds: record.ruleThresholds }),
        condition_errors: record.conditionErrors,
        answered: record.answered,
        reasons: record.reasons,
      },
    },
    ...(record.shadow === undefined ? {} : { shadow: shadowOf(record.shadow) }),
    bundles: {
      [record.bundle?.name ?? "policy"]: {
        name: record.policyName,
        revision: record.bundle === undefined ? record.policyRevision : String(record.bundle.revision),
        freshness: record.policyFreshness,
      },
    },
    metrics: { timer_check_ns: record.latencyUs * 1_000 },
  });
}

/** Reasons are left out: the log says that the candidate differs, `sallyport shadow` and `replay` why. */
function shadowOf({ policyRevision, decision, score, rule }: ShadowVerdict): Record<string, unknown> {
  return { revision: policyRevision, decision, score, rule };
}

const text = fc.oneof(
  fc.string(),
  fc.string({ unit: "binary" }),
  fc.constantFrom("spiffe://td/web", 'a "b"\\\n', "\ud800", "ä"),
);
const maybe = fc.option(text, { nil: undefined });
const number = fc.oneof(fc.double(), fc.integer(), fc.constantFrom(0, -0, Number.NaN, 1e21, 42.5));
const kind = fc.constantFrom("allow", "challenge", "deny", "terminate");
const record: fc.Arbitrary<DecisionRecord> = fc.record({
  decisionId: text,
  timeMs: fc.integer({ min: 0, max: 4e12 }),
  decision: kind,
  enforced: kind,
  because: maybe,
  score: number,
  reasons: fc.array(fc.record({ signal: text, bits: number, points: number, seen: text, expected: text }), {
    maxLength: 4,
  }),
  mode: fc.constantFrom("observe", "enforce"),
  basis: fc.constantFrom("standing", undefined),
  rule: text,
  thresholds: fc.record({ challenge: number, deny: number, terminate: number }),
  ruleThresholds: fc.subarray(["challenge", "deny", "terminate"]),
  policyName: text,
  conditionErrors: fc.option(fc.array(text, { maxLength: 3 }), { nil: undefined }),
  policyRevision: text,
  principal: text,
  peerGroup: maybe,
  credential: text,
  protocol: fc.constantFrom("http", "grpc", "tcp"),
  method: text,
  destination: text,
  route: text,
  sourceAddress: maybe,
  userAgent: maybe,
  ja4: maybe,
  requestId: maybe,
  answered: fc.boolean(),
  latencyUs: number,
  shadow: fc.option(
    fc.record({
      policyName: text,
      policyRevision: text,
      decision: kind,
      score: number,
      rule: text,
      reasons: fc.constant([]),
    }),
    { nil: undefined },
  ),
  policyFreshness: fc.constantFrom("fresh", "stale", "expired", undefined),
  bundle: fc.option(fc.record({ name: text, revision: fc.nat() }), { nil: undefined }),
}) as fc.Arbitrary<DecisionRecord>;

t.test("a line is what the standard library would write of it, whatever callers call themselves", async (t) => {
  const labels = fc.record({ id: text, version: text, region: text });
  fc.assert(
    fc.property(fc.array(record, { minLength: 1, maxLength: 3 }), labels, (records, given) => {
      // The same labels for several lines: what is remembered of one must fit the next.
      for (const one of records) t.equal(decisionLine(one, given), expectedLine(one, given));
    }),
    { numRuns: 1_500 },
  );
});
