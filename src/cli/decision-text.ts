/** Decisions as people read them in a terminal. */

import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { Decision } from "../gen/sallyport/local/v1/local_pb.ts";

/** One line: time, decision, score, who, what, from where. */
export function decisionLineText(decision: Decision): string {
  const time = decision.time === undefined ? "" : new Date(timestampMs(decision.time)).toISOString().slice(11, 23);
  const kind = decision.decision === decision.enforced ? decision.decision : `${decision.decision} (observed)`;
  const reasons = decision.reasons
    .filter((reason) => reason.points > 0)
    .slice(0, 3)
    .map((reason) => `${reason.signal} ${reason.points}`)
    .join(", ");
  return [
    time,
    kind.padEnd(9),
    decision.score.toFixed(1).padStart(5),
    decision.principal,
    decision.route === "" ? decision.destination : `${decision.destination} ${decision.route}`,
    `from ${decision.sourceAddress || "?"}`,
    reasons === "" ? "" : `[${reasons}]`,
  ]
    .join("  ")
    .trimEnd();
}

/** All that is known of a decision, reasons as a table. */
export function decisionText(decision: Decision): string {
  const lines = [
    `decision    ${decision.decision}${decision.decision === decision.enforced ? "" : `, carried out: ${decision.enforced}`}`,
    `score       ${decision.score}`,
    `mode        ${decision.mode}, rule ${decision.rule}, policy ${decision.policyRevision}`,
    `because     ${decision.because || (decision.score > 0 ? "score" : "nothing unusual")}`,
    `principal   ${decision.principal}`,
    `credential  ${decision.credential}`,
    `request     ${decision.protocol} ${decision.destination} ${decision.route}`.trimEnd(),
    `from        ${decision.sourceAddress || "unknown"}${decision.userAgent === "" ? "" : `, ${decision.userAgent}`}${decision.ja4 === "" ? "" : `, ${decision.ja4}`}`,
    `id          ${decision.decisionId}`,
  ];
  if (decision.answered) lines.push("answered    this request answered an open challenge");
  if (decision.reasons.length > 0) {
    lines.push("", "points   bits  signal");
    for (const reason of decision.reasons) {
      lines.push(
        `${reason.points.toFixed(1).padStart(6)} ${reason.bits.toFixed(1).padStart(6)}  ${reason.signal}: ${reason.seen}; expected ${reason.expected}`,
      );
    }
  }
  return lines.join("\n");
}
