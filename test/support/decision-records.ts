/** Decisions of every form, for properties. */

import fc from "fast-check";
import type { DecisionRecord } from "../../src/telemetry/decision-record.ts";

export const anyText = fc.oneof(
  fc.string(),
  fc.string({ unit: "binary" }),
  fc.constantFrom("spiffe://td/web", 'a "b"\\\n', "\ud800", "ä"),
);
const maybe = fc.option(anyText, { nil: undefined });
const number = fc.oneof(fc.double(), fc.integer(), fc.constantFrom(0, -0, Number.NaN, 1e21, 42.5));
const kind = fc.constantFrom("allow", "challenge", "deny", "terminate");
export const decisionRecord: fc.Arbitrary<DecisionRecord> = fc.record({
  decisionId: anyText,
  timeMs: fc.integer({ min: 0, max: 4e12 }),
  decision: kind,
  enforced: kind,
  because: maybe,
  score: number,
  reasons: fc.array(fc.record({ signal: anyText, bits: number, points: number, seen: anyText, expected: anyText }), {
    maxLength: 4,
  }),
  mode: fc.constantFrom("observe", "enforce"),
  basis: fc.constantFrom("standing", undefined),
  rule: anyText,
  thresholds: fc.record({ challenge: number, deny: number, terminate: number }),
  ruleThresholds: fc.subarray(["challenge", "deny", "terminate"]),
  policyName: anyText,
  conditionErrors: fc.option(fc.array(anyText, { maxLength: 3 }), { nil: undefined }),
  policyRevision: anyText,
  principal: anyText,
  peerGroup: maybe,
  credential: anyText,
  protocol: fc.constantFrom("http", "grpc", "tcp"),
  method: anyText,
  destination: anyText,
  route: anyText,
  sourceAddress: maybe,
  userAgent: maybe,
  ja4: maybe,
  requestId: maybe,
  answered: fc.boolean(),
  latencyUs: number,
  shadow: fc.option(
    fc.record({
      policyName: anyText,
      policyRevision: anyText,
      decision: kind,
      score: number,
      rule: anyText,
      reasons: fc.constant([]),
    }),
    { nil: undefined },
  ),
  policyFreshness: fc.constantFrom("fresh", "stale", "expired", undefined),
  bundle: fc.option(fc.record({ name: anyText, revision: fc.nat() }), { nil: undefined }),
}) as fc.Arbitrary<DecisionRecord>;
