/**
 * One decision as a line of JSON. Written by hand into bytes, since `JSON.stringify` of the whole takes several times as long
 * and every decision pays for it (`npm run bench -- --only stages`); the text is the same, which
 * `test/telemetry/decision-line.test.ts` holds it to.
 */

import type { Reason, ShadowVerdict } from "../model/verdict.ts";
import type { DecisionRecord } from "./decision-record.ts";
import { TextWriter } from "./text-writer.ts";

export interface DecisionLogLabels {
  readonly id: string;
  readonly version: string;
  /** What the operator says of this sidecar. */
  readonly [label: string]: string;
}

/** What a line leaves out of a decision. */
export interface LeftOut {
  readonly shadow: DecisionRecord["shadow"];
  readonly policyRevision: string;
  readonly bundle: DecisionRecord["bundle"];
}

/**
 * Writes a line, without its end. Masked by construction: it holds the route's template instead of the path, no header but
 * the user agent, and of credentials only keyed hashes.
 */
export function writeDecisionLine(line: TextWriter, record: DecisionRecord, labels: DecisionLogLabels): void {
  put(line, '{"decision_id":', record.decisionId);
  line.ascii(',"labels":');
  line.utf8(encoded(labels));
  line.ascii(',"timestamp":"');
  line.ascii(timestamp(record.timeMs));
  line.ascii('","input":{');
  putInput(line, record);
  line.ascii(
    record.enforced === "allow" ? '},"result":{"allowed":true,"risk":{' : '},"result":{"allowed":false,"risk":{',
  );
  putRisk(line, record);
  line.ascii("}}");
  if (record.shadow !== undefined) {
    line.ascii(',"shadow":');
    line.utf8(JSON.stringify(shadowOf(record.shadow)));
  }
  putBundle(line, record);
  line.ascii('}},"metrics":{"timer_check_ns":');
  line.number(record.latencyUs * 1_000);
  line.ascii("}}");
}

/** The line as text. */
export function decisionLine(record: DecisionRecord, labels: DecisionLogLabels): string {
  const line = new TextWriter();
  writeDecisionLine(line, record, labels);
  return line.written.toString("utf8");
}

/** The decision that a line was written of: of the same version, by this process. */
export function recordOfLine(line: string, { shadow, policyRevision, bundle }: LeftOut): DecisionRecord {
  const { decision_id, timestamp: time, input, result, bundles, metrics } = JSON.parse(line) as DecisionLine;
  const { risk } = result;
  const [named] = Object.values(bundles);
  return {
    decisionId: decision_id,
    timeMs: Date.parse(time),
    decision: risk.decision,
    enforced: risk.enforced,
    because: risk.because,
    score: risk.score,
    reasons: risk.reasons,
    mode: risk.mode,
    basis: risk.basis,
    rule: risk.rule,
    thresholds: risk.thresholds,
    ruleThresholds: risk.rule_thresholds ?? [],
    policyName: named?.name ?? "",
    conditionErrors: risk.condition_errors,
    policyRevision,
    principal: input.principal,
    peerGroup: input.peer_group,
    credential: input.credential,
    protocol: input.protocol,
    method: input.method,
    destination: input.destination,
    route: input.route,
    sourceAddress: input.source_address,
    userAgent: input.user_agent,
    ja4: input.ja4,
    requestId: input.request_id,
    answered: risk.answered,
    latencyUs: metrics.timer_check_ns / 1_000,
    shadow,
    policyFreshness: named?.freshness,
    bundle,
  };
}

interface DecisionLine {
  readonly decision_id: string;
  readonly timestamp: string;
  readonly input: Pick<DecisionRecord, "principal" | "credential" | "protocol" | "method" | "destination" | "route"> & {
    readonly peer_group?: string;
    readonly source_address?: string;
    readonly user_agent?: string;
    readonly ja4?: string;
    readonly request_id?: string;
  };
  readonly result: {
    readonly risk: Pick<
      DecisionRecord,
      "score" | "decision" | "enforced" | "because" | "mode" | "basis" | "rule" | "thresholds" | "answered"
    > & {
      readonly rule_thresholds?: DecisionRecord["ruleThresholds"];
      readonly condition_errors?: readonly string[];
      readonly reasons: readonly Reason[];
    };
  };
  readonly bundles: Readonly<
    Record<string, { readonly name: string; readonly freshness?: DecisionRecord["policyFreshness"] }>
  >;
  readonly metrics: { readonly timer_check_ns: number };
}

function putInput(line: TextWriter, record: DecisionRecord): void {
  put(line, '"principal":', record.principal);
  put(line, ',"peer_group":', record.peerGroup);
  put(line, ',"credential":', record.credential);
  put(line, ',"protocol":', record.protocol);
  put(line, ',"method":', record.method);
  put(line, ',"destination":', record.destination);
  put(line, ',"route":', record.route);
  put(line, ',"source_address":', record.sourceAddress);
  put(line, ',"user_agent":', record.userAgent);
  put(line, ',"ja4":', record.ja4);
  put(line, ',"request_id":', record.requestId);
}

function putRisk(line: TextWriter, record: DecisionRecord): void {
  line.ascii('"score":');
  line.number(record.score);
  put(line, ',"decision":', record.decision);
  put(line, ',"enforced":', record.enforced);
  put(line, ',"because":', record.because);
  put(line, ',"mode":', record.mode);
  put(line, ',"basis":', record.basis);
  put(line, ',"rule":', record.rule);
  line.ascii(',"thresholds":');
  line.ascii(encoded(record.thresholds));
  if (record.ruleThresholds.length > 0) {
    line.ascii(',"rule_thresholds":');
    line.ascii(JSON.stringify(record.ruleThresholds));
  }
  if (record.conditionErrors !== undefined) {
    line.ascii(',"condition_errors":');
    line.utf8(JSON.stringify(record.conditionErrors));
  }
  line.ascii(record.answered ? ',"answered":true,"reasons":[' : ',"answered":false,"reasons":[');
  let before = '{"signal":';
  for (const { signal, bits, points, seen, expected } of record.reasons) {
    put(line, before, signal);
    line.ascii(',"bits":');
    line.number(bits);
    line.ascii(',"points":');
    line.number(points);
    put(line, ',"seen":', seen);
    put(line, ',"expected":', expected);
    line.ascii("}");
    before = ',{"signal":';
  }
  line.ascii("]");
}

function putBundle(line: TextWriter, { bundle, policyName, policyRevision, policyFreshness }: DecisionRecord): void {
  put(line, ',"bundles":{', bundle?.name ?? "policy");
  put(line, ':{"name":', policyName);
  put(line, ',"revision":', bundle === undefined ? policyRevision : String(bundle.revision));
  put(line, ',"freshness":', policyFreshness);
}

/** Reasons are left out: the log says that the candidate differs, `sallyport shadow` and `replay` why. */
function shadowOf({ policyRevision, decision, score, rule }: ShadowVerdict): Record<string, unknown> {
  return { revision: policyRevision, decision, score, rule };
}

/** Adds a text after what names it; nothing at all where there is none to tell. */
function put(line: TextWriter, name: string, text: string | undefined): void {
  if (text === undefined) return;
  line.ascii(name);
  line.json(text);
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
