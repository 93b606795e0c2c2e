import fc from "fast-check";
import t from "tap";
import type { ShadowVerdict } from "../../src/model/verdict.ts";
import { type DecisionLogLabels, decisionLine } from "../../src/telemetry/decision-line.ts";
import type { DecisionRecord } from "../../src/telemetry/decision-record.ts";
import { anyText, decisionRecord } from "../support/decision-records.ts";

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

t.test("a line is what the standard library would write of it, whatever callers call themselves", async (t) => {
  const labels = fc.record({ id: anyText, version: anyText, region: anyText });
  fc.assert(
    fc.property(fc.array(decisionRecord, { minLength: 1, maxLength: 3 }), labels, (records, given) => {
      // The same labels for several lines: what is remembered of one must fit the next.
      for (const one of records) t.equal(decisionLine(one, given), expectedLine(one, given));
    }),
    { numRuns: 1_500 },
  );
});
