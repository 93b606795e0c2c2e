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
  put(line, DECISION_ID, record.decisionId);
  line.part(labelsPart(labels));
  line.part(timestampPart(record.timeMs));
  putInput(line, record);
  line.part(record.enforced === "allow" ? ALLOWED : REFUSED);
  line.number(record.score);
  line.part(ruledPart(record));
  putReasons(line, record.reasons);
  line.part(REASONS_END);
  if (record.shadow !== undefined) {
    line.part(SHADOW);
    line.utf8(JSON.stringify(shadowOf(record.shadow)));
  }
  line.part(bundlePart(record));
  line.number(record.latencyUs * 1_000);
  line.part(LINE_END);
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

const DECISION_ID = ascii('{"decision_id":');
const PRINCIPAL = ascii('"principal":');
const PEER_GROUP = ascii(',"peer_group":');
const CREDENTIAL = ascii(',"credential":');
const PROTOCOL = ascii(',"protocol":');
const METHOD = ascii(',"method":');
const DESTINATION = ascii(',"destination":');
const ROUTE = ascii(',"route":');
const SOURCE_ADDRESS = ascii(',"source_address":');
const USER_AGENT = ascii(',"user_agent":');
const JA4 = ascii(',"ja4":');
const REQUEST_ID = ascii(',"request_id":');
const ALLOWED = ascii('},"result":{"allowed":true,"risk":{"score":');
const REFUSED = ascii('},"result":{"allowed":false,"risk":{"score":');
const REASON = ascii('{"signal":');
const NEXT_REASON = ascii(',{"signal":');
const BITS = ascii(',"bits":');
const POINTS = ascii(',"points":');
const SEEN = ascii(',"seen":');
const EXPECTED = ascii(',"expected":');
const REASON_END = ascii("}");
const REASONS_END = ascii("]}}");
const SHADOW = ascii(',"shadow":');
const LINE_END = ascii("}}");

function ascii(text: string): Uint8Array {
  return Buffer.from(text, "latin1");
}

function putInput(line: TextWriter, record: DecisionRecord): void {
  put(line, PRINCIPAL, record.principal);
  put(line, PEER_GROUP, record.peerGroup);
  put(line, CREDENTIAL, record.credential);
  put(line, PROTOCOL, record.protocol);
  put(line, METHOD, record.method);
  put(line, DESTINATION, record.destination);
  put(line, ROUTE, record.route);
  put(line, SOURCE_ADDRESS, record.sourceAddress);
  put(line, USER_AGENT, record.userAgent);
  put(line, JA4, record.ja4);
  put(line, REQUEST_ID, record.requestId);
}

function putReasons(line: TextWriter, reasons: readonly Reason[]): void {
  for (let i = 0; i < reasons.length; i++) {
    const { signal, bits, points, seen, expected } = reasons[i] as Reason;
    put(line, i === 0 ? REASON : NEXT_REASON, signal);
    line.part(BITS);
    line.number(bits);
    line.part(POINTS);
    line.number(points);
    put(line, SEEN, seen);
    put(line, EXPECTED, expected);
    line.part(REASON_END);
  }
}

/** Adds a text after what names it; nothing at all where there is none to tell. */
function put(line: TextWriter, name: Uint8Array, text: string | undefined): void {
  if (text === undefined) return;
  line.part(name);
  line.json(text);
}

/** What a line says of how it came to be decided, and what that was made of. */
interface Ruled {
  readonly record: DecisionRecord;
  readonly part: Uint8Array;
}

/** Few combinations come again and again: the latest of each decision is remembered as bytes. */
const ruled = new Map<DecisionRecord["decision"], Ruled>();

/** From the score to the reasons. */
function ruledPart(record: DecisionRecord): Uint8Array {
  const before = ruled.get(record.decision);
  if (before !== undefined && isRuledAlike(before.record, record)) return before.part;
  const { decision, enforced, because, mode, basis, rule, thresholds, ruleThresholds, conditionErrors } = record;
  const fields = JSON.stringify({
    ...{ decision, enforced, because, mode, basis, rule, thresholds },
    rule_thresholds: ruleThresholds.length > 0 ? ruleThresholds : undefined,
    condition_errors: conditionErrors,
    answered: record.answered,
  });
  const part = Buffer.from(`,${fields.slice(1, -1)},"reasons":[`);
  ruled.set(decision, { record, part });
  return part;
}

function isRuledAlike(a: DecisionRecord, b: DecisionRecord): boolean {
  return (
    a.enforced === b.enforced &&
    a.because === b.because &&
    a.mode === b.mode &&
    a.basis === b.basis &&
    a.rule === b.rule &&
    isSameThresholds(a.thresholds, b.thresholds) &&
    isSameList(a.ruleThresholds, b.ruleThresholds) &&
    a.conditionErrors === b.conditionErrors &&
    a.answered === b.answered
  );
}

function isSameThresholds(a: DecisionRecord["thresholds"], b: DecisionRecord["thresholds"]): boolean {
  return a === b || (a.challenge === b.challenge && a.deny === b.deny && a.terminate === b.terminate);
}

function isSameList(a: readonly string[], b: readonly string[]): boolean {
  return a === b || (a.length === b.length && a.every((one, i) => one === b[i]));
}

let bundled: { readonly record: DecisionRecord; readonly part: Uint8Array } | undefined;

/** From the end of the result to the measured time. */
function bundlePart(record: DecisionRecord): Uint8Array {
  const { bundle, policyName, policyRevision, policyFreshness } = record;
  const before = bundled?.record;
  const same =
    before !== undefined &&
    before.bundle === bundle &&
    before.policyName === policyName &&
    before.policyRevision === policyRevision &&
    before.policyFreshness === policyFreshness;
  if (bundled === undefined || !same) {
    const revision = bundle === undefined ? policyRevision : String(bundle.revision);
    const bundles = { [bundle?.name ?? "policy"]: { name: policyName, revision, freshness: policyFreshness } };
    const text = `,"bundles":${JSON.stringify(bundles)},"metrics":{"timer_check_ns":`;
    bundled = { record, part: Buffer.from(text) };
  }
  return bundled.part;
}

let labelled: { readonly labels: DecisionLogLabels; readonly part: Uint8Array } | undefined;

function labelsPart(labels: DecisionLogLabels): Uint8Array {
  if (labelled?.labels !== labels) {
    labelled = { labels, part: Buffer.from(`,"labels":${JSON.stringify(labels)},"timestamp":"`) };
  }
  return labelled.part;
}

/** Reasons are left out: the log says that the candidate differs, `sallyport shadow` and `replay` why. */
function shadowOf({ policyRevision, decision, score, rule }: ShadowVerdict): Record<string, unknown> {
  return { revision: policyRevision, decision, score, rule };
}

let stampedMs = Number.NaN;
let stamp: Uint8Array = ascii("");

/** RFC 3339, in milliseconds; requests of the same millisecond share it. */
function timestampPart(ms: number): Uint8Array {
  if (ms !== stampedMs) {
    stamp = ascii(`${new Date(ms).toISOString()}","input":{`);
    stampedMs = ms;
  }
  return stamp;
}
