/**
 * One decision as a line of JSON. Put together by hand, since `JSON.stringify` of the whole takes several times as long and
 * every decision pays for it (`npm run bench -- --only stages`); the text is the same, which
 * `test/telemetry/decision-line.test.ts` holds it to.
 */

import type { Reason, ShadowVerdict } from "../model/verdict.ts";
import type { DecisionRecord } from "./decision-record.ts";

export interface DecisionLogLabels {
  readonly id: string;
  readonly version: string;
  /** What the operator says of this sidecar. */
  readonly [label: string]: string;
}

/**
 * Masked by construction: it holds the route's template instead of the path, no header but the user agent, and of
 * credentials only keyed hashes.
 */
export function decisionLine(record: DecisionRecord, labels: DecisionLogLabels): string {
  return (
    `{"decision_id":${quoted(record.decisionId)},"labels":${encoded(labels)},"timestamp":"${timestamp(record.timeMs)}"` +
    `,"input":{${inputOf(record)}},"result":{"allowed":${record.enforced === "allow"},"risk":{${riskOf(record)}}}` +
    (record.shadow === undefined ? "" : `,"shadow":${JSON.stringify(shadowOf(record.shadow))}`) +
    `,"bundles":{${bundleOf(record)}},"metrics":{"timer_check_ns":${number(record.latencyUs * 1_000)}}}`
  );
}

function inputOf(record: DecisionRecord): string {
  return (
    `"principal":${quoted(record.principal)}${field("peer_group", record.peerGroup)}` +
    `,"credential":${quoted(record.credential)},"protocol":${quoted(record.protocol)},"method":${quoted(record.method)}` +
    `,"destination":${quoted(record.destination)},"route":${quoted(record.route)}` +
    field("source_address", record.sourceAddress) +
    field("user_agent", record.userAgent) +
    field("ja4", record.ja4) +
    field("request_id", record.requestId)
  );
}

function riskOf(record: DecisionRecord): string {
  return (
    `"score":${number(record.score)},"decision":${quoted(record.decision)},"enforced":${quoted(record.enforced)}` +
    field("because", record.because) +
    `,"mode":${quoted(record.mode)}${field("basis", record.basis)},"rule":${quoted(record.rule)}` +
    `,"thresholds":${encoded(record.thresholds)}` +
    (record.ruleThresholds.length === 0 ? "" : `,"rule_thresholds":${JSON.stringify(record.ruleThresholds)}`) +
    (record.conditionErrors === undefined ? "" : `,"condition_errors":${JSON.stringify(record.conditionErrors)}`) +
    `,"answered":${record.answered},"reasons":${reasonsOf(record.reasons)}`
  );
}

function reasonsOf(reasons: readonly Reason[]): string {
  let text = "[";
  for (const { signal, bits, points, seen, expected } of reasons) {
    if (text !== "[") text += ",";
    text +=
      `{"signal":${quoted(signal)},"bits":${number(bits)},"points":${number(points)}` +
      `,"seen":${quoted(seen)},"expected":${quoted(expected)}}`;
  }
  return `${text}]`;
}

function bundleOf({ bundle, policyName, policyRevision, policyFreshness }: DecisionRecord): string {
  const revision = bundle === undefined ? policyRevision : String(bundle.revision);
  return (
    `${quoted(bundle?.name ?? "policy")}:{"name":${quoted(policyName)},"revision":${quoted(revision)}` +
    `${field("freshness", policyFreshness)}}`
  );
}

/** Reasons are left out: the log says that the candidate differs, `sallyport shadow` and `replay` why. */
function shadowOf({ policyRevision, decision, score, rule }: ShadowVerdict): Record<string, unknown> {
  return { revision: policyRevision, decision, score, rule };
}

/** A field that is left out where there is nothing to tell. */
function field(name: string, text: string | undefined): string {
  return text === undefined ? "" : `,"${name}":${quoted(text)}`;
}

/** What JSON escapes: control characters, quotes, backslashes and halves of surrogate pairs (RFC 8259, section 7). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const ESCAPED = /[\u0000-\u001f"\\\ud800-\udfff]/;

function quoted(text: string): string {
  return ESCAPED.test(text) ? JSON.stringify(text) : `"${text}"`;
}

/** JSON has no words for what is no number. */
function number(value: number): string {
  return Number.isFinite(value) ? String(value) : "null";
}

/** Texts of objects that come again and again, by identity: labels of the process, thresholds of policies and rules. */
const encodings = new WeakMap<object, string>();

function encoded(value: object): string {
  let text = encodings.get(value);
  if (text === undefined) {
    text = JSON.stringify(value);
    encodings.set(value, text);
  }
  return text;
}

let stampedMs = Number.NaN;
let stamp = "";

/** RFC 3339, in milliseconds; requests of the same millisecond share it. */
function timestamp(ms: number): string {
  if (ms !== stampedMs) {
    stamp = new Date(ms).toISOString();
    stampedMs = ms;
  }
  return stamp;
}
