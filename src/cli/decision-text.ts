/** Decisions as people read them in a terminal. */

import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { Decision, Reason, Thresholds } from "../gen/sallyport/local/v1/local_pb.ts";

/** One line: time, decision, score, who, what, from where. */
export function decisionLineText(decision: Decision): string {
  const time = decision.time === undefined ? "" : new Date(timestampMs(decision.time)).toISOString().slice(11, 23);
  const kind = decision.decision === decision.enforced ? decision.decision : `${decision.decision} (observed)`;
  return `${[
    time,
    kind.padEnd(9),
    decision.score.toFixed(1).padStart(5),
    decision.principal,
    decision.route === "" ? decision.destination : `${decision.destination} ${decision.route}`,
    `from ${decision.sourceAddress || "?"}`,
  ].join("  ")}${reasonsText(decision.reasons)}`;
}

/** The heaviest reasons in brackets, with two spaces before them; empty without any. */
export function reasonsText(reasons: readonly Pick<Reason, "signal" | "points">[]): string {
  const shown = reasons
    .filter((reason) => reason.points > 0)
    .slice(0, 3)
    .map((reason) => `${reason.signal} ${reason.points}`)
    .join(", ");
  return shown === "" ? "" : `  [${shown}]`;
}

/** All that is known of a decision, reasons as a table. */
export function decisionText(decision: Decision): string {
  const policy = [decision.policyName, decision.policyRevision].filter((part) => part !== "").join(" ");
  const lines = [
    ...(decision.time === undefined ? [] : [`time        ${new Date(timestampMs(decision.time)).toISOString()}`]),
    `decision    ${decision.decision}${decision.decision === decision.enforced ? "" : `, carried out: ${decision.enforced}`}`,
    `score       ${decision.score}`,
    `mode        ${decision.mode}, rule ${decision.rule}, policy ${policy}`,
    `because     ${decision.because || (decision.score > 0 ? "score" : "nothing unusual")}`,
    `principal   ${decision.principal}${decision.peerGroup === "" ? "" : `, of ${decision.peerGroup}`}`,
    `credential  ${decision.credential}`,
    `request     ${decision.protocol} ${decision.destination} ${decision.route}`.trimEnd(),
    `from        ${decision.sourceAddress || "unknown"}${decision.userAgent === "" ? "" : `, ${decision.userAgent}`}${decision.ja4 === "" ? "" : `, ${decision.ja4}`}`,
    `id          ${decision.decisionId}`,
  ];
  if (decision.latencyUs > 0) lines.push(`took        ${decision.latencyUs} µs`);
  if (decision.policyFreshness !== "" && decision.policyFreshness !== "fresh")
    lines.push(`policy      was ${decision.policyFreshness}`);
  if (decision.conditionErrors.length > 0)
    lines.push(`conditions  of these rules could not be evaluated: ${decision.conditionErrors.join(", ")}`);
  if (decision.answered) lines.push("answered    this request answered an open challenge");
  if (decision.thresholds !== undefined) lines.push("", ...thresholdLines(decision, decision.thresholds));
  if (decision.reasons.length > 0) lines.push("", ...reasonLines(decision.reasons));
  const { shadow } = decision;
  if (shadow !== undefined) {
    lines.push(
      "",
      `candidate   ${[shadow.policyName, shadow.policyRevision].filter((part) => part !== "").join(" ")} would ${shadow.decision}: score ${shadow.score}, rule ${shadow.rule}`,
    );
    if (shadow.reasons.length > 0) lines.push(...reasonLines(shadow.reasons));
  }
  return lines.join("\n");
}

/** A score alone never denies: what each threshold asks for besides. */
const BESIDES = {
  challenge: "",
  deny: "; takes a challenge that was failed, ignored, or answered in vain",
  terminate: "; takes an unanswered challenge and a denial before it",
} as const;

function thresholdLines(decision: Decision, thresholds: Thresholds): readonly string[] {
  const lines = ["   from  threshold"];
  for (const name of ["challenge", "deny", "terminate"] as const) {
    const from = thresholds[name];
    const whose = decision.ruleThresholds.includes(name) ? `rule ${decision.rule}` : "the policy";
    const left = Math.round((from - decision.score) * 10) / 10;
    const stands = left <= 0 ? "reached" : `${left} points more`;
    lines.push(`${from.toFixed(1).padStart(7)}  ${name} (${whose}): ${stands}${BESIDES[name]}`);
  }
  return lines;
}

function reasonLines(reasons: readonly Reason[]): readonly string[] {
  return [
    "points   bits  signal",
    ...reasons.map(
      ({ points, bits, signal, seen, expected }) =>
        `${points.toFixed(1).padStart(6)} ${bits.toFixed(1).padStart(6)}  ${signal}: ${seen}; expected ${expected}`,
    ),
  ];
}
