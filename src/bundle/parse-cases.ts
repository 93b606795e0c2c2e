/** Reads files of policy cases: YAML of their schema, checked as a whole, every problem at once. */

import type { Duration } from "@bufbuild/protobuf/wkt";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { isMap, isScalar, isSeq, type Node, Pair, Scalar, visit, YAMLMap } from "yaml";
import {
  type Case,
  CaseFileSchema,
  CaseSchema,
  type Certificate,
  Decision,
  type History,
  type Lock,
  Mode,
  Protocol,
  type Request,
  type Step,
  type Token,
  Via,
  type Want,
} from "../gen/sallyport/cases/v1/cases_pb.ts";
import {
  type CaseCertificate,
  type CaseHistory,
  type CaseRequest,
  type CaseStep,
  type CaseToken,
  type PolicyCase,
  VARIED,
  type Wanted,
} from "../model/cases.ts";
import type { Protocol as RequestProtocol } from "../model/facts.ts";
import { HOUR_MS, MINUTE_MS, SECOND_MS } from "../model/units.ts";
import type { DecisionKind, Mode as VerdictMode } from "../model/verdict.ts";
import { SIGNALS } from "../signals/catalog.ts";
import { decode } from "./decode.ts";
import { type Problem, quote, suggest } from "./problem.ts";
import type { Source } from "./source.ts";
import { parseTree } from "./tree.ts";
import { reportViolations } from "./violations.ts";

/** Most requests of one case's history, all entries together. */
const HISTORY_MAX = 200_000;

/** Noon of a Monday. */
const DEFAULT_TIME_MS = Date.parse("2026-03-02T12:00:00Z");

const DECISIONS: readonly (DecisionKind | undefined)[] = [undefined, "allow", "challenge", "deny", "terminate"];
const MODES: readonly (VerdictMode | undefined)[] = [undefined, "enforce", "observe"];
const PROTOCOLS: readonly (RequestProtocol | undefined)[] = [undefined, "http", "grpc", "tcp"];

/** Names that can stand among reasons. */
const SIGNAL_NAMES = [...SIGNALS.map(({ name }) => name), "lock"];

export type CasesResult =
  | { readonly ok: true; readonly cases: readonly PolicyCase[] }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/**
 * Reads the text of a file of cases.
 * @param file its name, for messages
 * @returns all problems, in the order of the text, when there are any
 */
export function parseCases(text: string, file: string): CasesResult {
  const parsed = parseTree(text, file);
  if (!parsed.ok) return parsed;
  const { tree, source } = parsed;
  expandShortForms(tree.root);
  const cases: PolicyCase[] = [];
  if (isMap(tree.root) && tree.root.has("cases")) {
    const message = decode(CaseFileSchema, tree, source);
    reportViolations(CaseFileSchema, message, source);
    const usual = requestOf(message.usual);
    for (const [i, one] of message.cases.entries()) {
      const policy = one.policy === "" ? message.policy : one.policy;
      cases.push(caseOf(one, `cases[${i}]`, source, usual, policy));
    }
  } else {
    const message = decode(CaseSchema, tree, source);
    reportViolations(CaseSchema, message, source);
    cases.push(caseOf(message, "", source, {}, message.policy));
  }
  if (source.problems.length === 0) return { ok: true, cases };
  const order = (a: Problem, b: Problem): number => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0);
  return { ok: false, problems: source.problems.toSorted(order) };
}

/** `score: 40` is short for a range, and a bare row in a history for an entry with that row. */
function expandShortForms(root: Node | null): void {
  visit(root, {
    Pair: (_, pair) => {
      const name = isScalar(pair.key) ? pair.key.value : undefined;
      if (name === "score" && isScalar(pair.value) && typeof pair.value.value === "number") {
        const given = pair.value as Scalar;
        pair.value = mapOf(given, [
          ["min", given],
          ["max", given],
        ]);
      }
      if (name === "history" && isSeq(pair.value)) {
        for (const [i, item] of pair.value.items.entries()) {
          if (!isMap(item) || ENTRY_KEYS.some((key) => item.has(key))) continue;
          pair.value.items[i] = mapOf(item, [["row", item]]);
        }
        return undefined;
      }
      return undefined;
    },
  });
}

const ENTRY_KEYS = ["repeat", "every", "ago", "row", "vary"];

function mapOf(given: Node, entries: readonly (readonly [name: string, value: Node])[]): YAMLMap {
  const map = new YAMLMap();
  map.range = given.range ?? null;
  for (const [name, value] of entries) {
    const key = new Scalar(name);
    key.range = given.range ?? null;
    map.items.push(new Pair(key, value));
  }
  return map;
}

function caseOf(one: Case, path: string, source: Source, above: CaseRequest, policy: string): PolicyCase {
  const at = (name: string): string => (path === "" ? name : `${path}.${name}`);
  const usual = { ...above, ...requestOf(one.usual) };
  const timeMs = one.time === undefined ? DEFAULT_TIME_MS : timestampMs(one.time);
  const history = one.history.map((entry) => historyOf(entry, usual));
  const requests = history.reduce((sum, { repeat }) => sum + repeat, 0);
  if (requests > HISTORY_MAX) source.report(at("history"), `at most ${HISTORY_MAX} requests in all`, `${requests}`);
  for (const [i, { row, vary }] of history.entries()) {
    if (row.principal === undefined && vary.principal === undefined) missingPrincipal(source, `${at("history")}[${i}]`);
  }
  const single = one.given !== undefined || one.want !== undefined;
  if (single && one.steps.length > 0) source.report(at("steps"), "either given and want, or steps", "both");
  else if (!single && one.steps.length === 0 && !source.isFaulty(path)) {
    source.report(path, "given and want, or steps", "neither");
  }
  const steps = single
    ? [stepOf({ given: one.given, want: one.want }, path, 0, source, usual, one.answers)]
    : one.steps.map((step, i) => {
        const afterMs = durationMs(step.after) ?? (i === 0 ? 0 : SECOND_MS);
        return stepOf(step, `${at("steps")}[${i}]`, afterMs, source, usual, step.answers ?? one.answers);
      });
  for (const [i, lock] of one.locks.entries()) {
    const { $typeName, $unknown, reason, ...scope } = lock;
    if (Object.values(scope).every((part) => part === "")) {
      source.report(`${at("locks")}[${i}]`, "at least one part of a scope", "none");
    }
  }
  return {
    name: one.name,
    file: source.file,
    line: source.problem(at("name"), "").line ?? 1,
    policy: policy === "" ? undefined : policy,
    timeMs,
    history,
    posture: one.posture.map(({ subject, facts, age }) => ({
      subject,
      facts: { facts, source: "case", reportedAtMs: timeMs - (durationMs(age) ?? 0) },
    })),
    locks: one.locks.map((lock) => ({ scope: scopeOf(lock), reason: lock.reason || "case" })),
    steps,
  };
}

function historyOf(entry: History, usual: CaseRequest): CaseHistory {
  const everyMs = durationMs(entry.every) ?? MINUTE_MS;
  const { vary } = entry;
  return {
    repeat: entry.repeat === 0 ? 1 : entry.repeat,
    everyMs,
    agoMs: durationMs(entry.ago) ?? everyMs,
    row: { ...usual, ...requestOf(entry.row) },
    vary:
      vary === undefined
        ? {}
        : Object.fromEntries(VARIED.filter((part) => vary[part].length > 0).map((part) => [part, vary[part]])),
  };
}

function stepOf(
  { given, want }: Partial<Pick<Step, "given" | "want">>,
  path: string,
  afterMs: number,
  source: Source,
  usual: CaseRequest,
  answers: boolean,
): CaseStep {
  const at = (name: string): string => (path === "" ? name : `${path}.${name}`);
  const request = { ...usual, ...requestOf(given) };
  if (request.principal === undefined) missingPrincipal(source, given === undefined ? path : at("given"));
  if (want === undefined && !source.isFaulty(at("want"))) source.report(at("want"), "what is wanted", "nothing");
  return { afterMs, given: request, answers, want: wantedOf(want, at("want"), source) };
}

function missingPrincipal(source: Source, path: string): void {
  if (source.isFaulty(path)) return;
  source.report(path, "a principal, here or in usual", "none");
}

function wantedOf(want: Want | undefined, path: string, source: Source): Wanted {
  const { min, max } = want?.score ?? {};
  if (min !== undefined && max !== undefined && min > max) {
    source.report(`${path}.score`, "min at most max", `${min} and ${max}`);
  }
  for (const list of ["because", "notBecause"] as const) {
    const key = list === "because" ? "because" : "not_because";
    for (const [i, signal] of (want?.[list] ?? []).entries()) {
      if (SIGNAL_NAMES.includes(signal)) continue;
      source.report(`${path}.${key}[${i}]`, "the name of a signal", quote(signal), suggest(signal, SIGNAL_NAMES));
    }
  }
  const wanted: Wanted = {
    decision: DECISIONS[want?.decision ?? Decision.UNSPECIFIED],
    scoreMin: min,
    scoreMax: max,
    because: want?.because ?? [],
    notBecause: want?.notBecause ?? [],
    rule: want?.rule === "" ? undefined : want?.rule,
    mode: MODES[want?.mode ?? Mode.UNSPECIFIED],
    enforced: DECISIONS[want?.enforced ?? Decision.UNSPECIFIED],
  };
  const nothing = Object.values(wanted).every(
    (part) => part === undefined || (Array.isArray(part) && part.length === 0),
  );
  if (want !== undefined && nothing && !source.isFaulty(path)) {
    source.report(path, "at least one of decision, score, because, not_because, rule, mode, enforced", "none");
  }
  return wanted;
}

/** Only what is given: the rest is left to what is usual. */
function requestOf(request: Request | undefined): CaseRequest {
  if (request === undefined) return {};
  const { $typeName, $unknown, time, protocol, certificate, token, ...plain } = request;
  const given = {
    ...plain,
    timeMs: time === undefined ? undefined : timestampMs(time),
    protocol: PROTOCOLS[protocol ?? Protocol.UNSPECIFIED],
    certificate: certificate === undefined ? undefined : certificateOf(certificate),
    token: token === undefined ? undefined : tokenOf(token),
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as CaseRequest;
}

function certificateOf(certificate: Certificate): CaseCertificate {
  return {
    via: certificate.via === Via.XFCC ? "xfcc" : "peer",
    sha256: certificate.sha256 || undefined,
    subject: certificate.subject || undefined,
    issuer: certificate.issuer || undefined,
    serial: certificate.serial || undefined,
    ageMs: durationMs(certificate.age),
    expiresInMs: durationMs(certificate.expiresIn),
    key: certificate.key || undefined,
    x5tS256: certificate.x5tS256 || undefined,
  };
}

function tokenOf(token: Token): CaseToken {
  const why = token.forged || token.unverified;
  return {
    unverified: why === "" ? undefined : { why, forged: token.forged !== "" },
    issuer: token.issuer || undefined,
    subject: token.subject || undefined,
    ageMs: durationMs(token.age),
    expiresInMs: durationMs(token.expiresIn) ?? HOUR_MS,
    authenticatedMs: durationMs(token.authenticated),
    acr: token.acr || undefined,
    boundCertificate: token.boundCertificate || undefined,
    boundKey: token.boundKey || undefined,
    actors: token.actors,
  };
}

function scopeOf(lock: Lock): PolicyCase["locks"][number]["scope"] {
  return {
    principal: lock.principal || undefined,
    credential: lock.credential || undefined,
    certificate: lock.certificate || undefined,
    key: lock.key || undefined,
    fingerprint: lock.fingerprint || undefined,
    address: lock.address || undefined,
    destination: lock.destination || undefined,
    peerGroup: lock.peerGroup || undefined,
  };
}

function durationMs(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : Number(duration.seconds) * 1_000 + duration.nanos / 1e6;
}
