/**
 * One decision as a line of JSON. Put together by hand, since `JSON.stringify` of the whole takes several times as long and
 * every decision pays for it (`npm run bench -- --only stages`); the text is the same, which
 * `test/telemetry/decision-line.test.ts` holds it to.
 */

import type { ShadowVerdict } from "../model/verdict.ts";
import type { DecisionRecord } from "./decision-record.ts";

export interface DecisionLogLabels {
  readonly id: string;
  readonly version: string;
  /** What the operator says of this sidecar. */
  readonly [label: string]: string;
}

/** Parts of the line in work, joined once: adding text to text leaves a string behind for every part. */
const parts: string[] = [];

/**
 * Masked by construction: it holds the route's template instead of the path, no header but the user agent, and of
 * credentials only keyed hashes.
 */
export function decisionLine(record: DecisionRecord, labels: DecisionLogLabels): string {
  parts.length = 0;
  put('{"decision_id":', record.decisionId);
  parts.push(',"labels":', encoded(labels), ',"timestamp":"', timestamp(record.timeMs), '","input":{');
  putInput(record);
  parts.push(
    record.enforced === "allow" ? '},"result":{"allowed":true,"risk":{' : '},"result":{"allowed":false,"risk":{',
  );
  putRisk(record);
  parts.push("}}");
  if (record.shadow !== undefined) parts.push(',"shadow":', JSON.stringify(shadowOf(record.shadow)));
  putBundle(record);
  parts.push('}},"metrics":{"timer_check_ns":', number(record.latencyUs * 1_000), "}}");
  return parts.join("");
}

function putInput(record: DecisionRecord): void {
  put('"principal":', record.principal);
  put(',"peer_group":', record.peerGroup);
  put(',"credential":', record.credential);
  put(',"protocol":', record.protocol);
  put(',"method":', record.method);
  put(',"destination":', record.destination);
  put(',"route":', record.route);
  put(',"source_address":', record.sourceAddress);
  put(',"user_agent":', record.userAgent);
  put(',"ja4":', record.ja4);
  put(',"request_id":', record.requestId);
}

function putRisk(record: DecisionRecord): void {
  parts.push('"score":', number(record.score));
  put(',"decision":', record.decision);
  put(',"enforced":', record.enforced);
  put(',"because":', record.because);
  put(',"mode":', record.mode);
  put(',"basis":', record.basis);
  put(',"rule":', record.rule);
  parts.push(',"thresholds":', encoded(record.thresholds));
  if (record.ruleThresholds.length > 0) parts.push(',"rule_thresholds":', JSON.stringify(record.ruleThresholds));
  if (record.conditionErrors !== undefined) {
    parts.push(',"condition_errors":', JSON.stringify(record.conditionErrors));
  }
  parts.push(record.answered ? ',"answered":true,"reasons":[' : ',"answered":false,"reasons":[');
  let before = '{"signal":';
  for (const { signal, bits, points, seen, expected } of record.reasons) {
    put(before, signal);
    parts.push(',"bits":', number(bits), ',"points":', number(points));
    put(',"seen":', seen);
    put(',"expected":', expected);
    parts.push("}");
    before = ',{"signal":';
  }
  parts.push("]");
}

function putBundle({ bundle, policyName, policyRevision, policyFreshness }: DecisionRecord): void {
  put(',"bundles":{', bundle?.name ?? "policy");
  put(':{"name":', policyName);
  put(',"revision":', bundle === undefined ? policyRevision : String(bundle.revision));
  put(',"freshness":', policyFreshness);
}

/** Reasons are left out: the log says that the candidate differs, `sallyport shadow` and `replay` why. */
function shadowOf({ policyRevision, decision, score, rule }: ShadowVerdict): Record<string, unknown> {
  return { revision: policyRevision, decision, score, rule };
}

/** Adds a text after what names it; nothing at all where there is none to tell. */
function put(name: string, text: string | undefined): void {
  if (text === undefined) return;
  if (ESCAPED.test(text)) parts.push(name, JSON.stringify(text));
  else parts.push(name, '"', text, '"');
}

/** What JSON escapes: control characters, quotes, backslashes and halves of surrogate pairs (RFC 8259, section 7). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const ESCAPED = /[\u0000-\u001f"\\\ud800-\udfff]/;

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
