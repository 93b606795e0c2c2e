/** Runs policy cases: a fresh line, the history, then each request against what is wanted of it. */

import { createHash } from "node:crypto";
import { keyedHash } from "../identity/keyed-hash.ts";
import type {
  CaseCertificate,
  CaseHistory,
  CaseRequest,
  CaseStep,
  CaseToken,
  PolicyCase,
  Wanted,
} from "../model/cases.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { CertificateFacts, PresentedFacts, TokenFacts } from "../model/identity.ts";
import type { Line } from "../model/line.ts";
import type { Policy } from "../model/policy.ts";
import { type EpochMs, HOUR_MS, toEpochMs } from "../model/units.ts";
import type { Verdict } from "../model/verdict.ts";
import { createLine } from "./line.ts";
import { presentedBy } from "./logged.ts";
import { countingBytes, passThrough, type RecordedRequest } from "./replay.ts";

const PRINCIPALS_MAX = 10_000;
const SESSIONS_MAX = 20_000;

/** One thing that was wanted and did not come. */
export interface Failure {
  /** The part of `want`, such as `decision`. */
  readonly part: string;
  readonly wanted: string;
  readonly got: string;
}

export interface StepResult {
  readonly verdict: Verdict;
  readonly failures: readonly Failure[];
}

export interface CaseResult {
  readonly passed: boolean;
  readonly steps: readonly StepResult[];
}

export function runCase(one: PolicyCase, policy: Policy): CaseResult {
  const line = createLine({ principalsMax: PRINCIPALS_MAX, sessionsMax: SESSIONS_MAX, random: countingBytes() });
  const startMs = one.timeMs + (one.steps[0]?.afterMs ?? 0);
  for (const request of historyOf(one, startMs)) passThrough(line, request, policy);
  for (const { subject, facts } of one.posture) line.posture.put(subject, facts);
  for (const [i, { scope, reason }] of one.locks.entries()) {
    line.locks.add({ id: `case-${i + 1}`, scope, reason, setBy: "operator", setAtMs: startMs, expiresAtMs: undefined });
  }
  let now = one.timeMs;
  const steps = one.steps.map((step) => {
    now += step.afterMs;
    return runStep(line, step, step.given.timeMs ?? now, policy);
  });
  return { passed: steps.every(({ failures }) => failures.length === 0), steps };
}

function runStep(line: Line, { given, answers, want }: CaseStep, timeMs: number, policy: Policy): StepResult {
  const verdict = passThrough(line, { ...recorded(given, timeMs), answers }, policy);
  return { verdict, failures: failuresOf(want, verdict) };
}

/** All requests of all entries in order of time; those of one moment in the order of the entries. */
function historyOf(one: PolicyCase, startMs: number): readonly RecordedRequest[] {
  return one.history
    .flatMap((entry) => Array.from({ length: entry.repeat }, (_, i) => historyRequest(entry, i, startMs)))
    .sort((a, b) => a.facts.time - b.facts.time);
}

function historyRequest(entry: CaseHistory, index: number, startMs: number): RecordedRequest {
  const varied = Object.entries(entry.vary).map(([part, values]) => {
    const value = values[index % values.length] as string;
    return [part, value.replaceAll("{n}", String(index))] as const;
  });
  const row: CaseRequest = { ...entry.row, ...Object.fromEntries(varied) };
  const timeMs = startMs - entry.agoMs - (entry.repeat - 1 - index) * entry.everyMs;
  return recorded(row, row.timeMs ?? timeMs);
}

function recorded(request: CaseRequest, timeMs: number): RecordedRequest {
  const facts = factsOf(request, toEpochMs(timeMs));
  return {
    facts,
    host: facts.destination,
    status: facts.protocol === "tcp" ? undefined : (request.status ?? 200),
    responseBytes: request.responseBytes,
    answers: request.answersChallenge ?? true,
  };
}

/** An empty text stands for nothing: it takes away what is usual. */
function given(text: string | undefined): string | undefined {
  return text === "" ? undefined : text;
}

function factsOf(request: CaseRequest, time: EpochMs): RequestFacts {
  const protocol = request.protocol ?? "http";
  const path = request.path ?? "/";
  const question = path.search(/[?#]/);
  return {
    time,
    protocol,
    requestId: undefined,
    connectionId: undefined,
    sourceAddress: given(request.sourceAddress),
    sourcePort: undefined,
    destination: (given(request.host) ?? "service").toLowerCase(),
    method: protocol === "tcp" ? "CONNECT" : protocol === "grpc" ? "POST" : (request.method ?? "GET").toUpperCase(),
    path: protocol === "tcp" ? "" : (question < 0 ? path : path.slice(0, question)).slice(0, 2048),
    userAgent: given(request.userAgent),
    tls: {
      ja3: given(request.ja3),
      ja4: given(request.tlsFingerprint),
      version: given(request.tlsVersion),
      sni: given(request.sni),
    },
    requestBytes: request.requestBytes,
    presented: presentedOf(request, time),
  };
}

/** Credentials of cases are names; hashing gives them the form of real ones. */
const CASE_KEY = createHash("sha256").update("sallyport cases").digest();

function presentedOf(request: CaseRequest, time: EpochMs): PresentedFacts {
  const principal = given(request.principal) ?? "anonymous";
  const presented = presentedBy(principal, credentialOf(given(request.credential), principal), undefined, time);
  const { certificate, token } = request;
  const isSpiffe = principal.startsWith("spiffe://");
  return {
    ...presented,
    certificate:
      certificate === undefined
        ? presented.certificate
        : certificateOf(certificate, presented.certificate, isSpiffe ? principal : undefined, principal, time),
    token: token === undefined ? presented.token : tokenOf(token, presented.token, principal, time),
  };
}

function credentialOf(credential: string | undefined, principal: string): string {
  const isKey = principal.startsWith("api-key/");
  if (credential === undefined) {
    // A token names its caller, so there is one; a certificate of a SPIFFE ID need not be known.
    return principal.includes("|") || isKey ? credentialOf(principal, principal) : "none";
  }
  if (/^(?:token|certificate|key):/.test(credential)) return credential;
  return `${isKey ? "key" : "token"}:${keyedHash(CASE_KEY, credential)}`;
}

function certificateOf(
  given: CaseCertificate,
  known: CertificateFacts | undefined,
  spiffeId: string | undefined,
  principal: string,
  time: EpochMs,
): CertificateFacts {
  const sha256 = given.sha256 ?? known?.sha256 ?? createHash("sha256").update(principal).digest("hex");
  return {
    via: given.via,
    sha256,
    spiffeId,
    subject: given.subject,
    issuer: given.issuer,
    serial: given.serial,
    notBefore: given.ageMs === undefined ? undefined : toEpochMs(time - given.ageMs),
    notAfter: given.expiresInMs === undefined ? undefined : toEpochMs(time + given.expiresInMs),
    key: given.key,
    x5tS256: given.x5tS256 ?? Buffer.from(sha256, "hex").toString("base64url"),
  };
}

function tokenOf(given: CaseToken, known: TokenFacts, principal: string, time: EpochMs): TokenFacts {
  const id = known.kind === "absent" ? `token:${keyedHash(CASE_KEY, `token of ${principal}`)}` : known.id;
  if (given.unverified !== undefined) return { kind: "unverified", id, ...given.unverified };
  const bar = principal.indexOf("|");
  return {
    kind: "verified",
    id,
    issuer: given.issuer ?? (bar < 0 ? "issuer" : principal.slice(0, bar)),
    subject: given.subject ?? (bar < 0 ? principal : principal.slice(bar + 1)),
    issuedAt: given.ageMs === undefined ? undefined : toEpochMs(time - given.ageMs),
    expiresAt: toEpochMs(time + (given.expiresInMs ?? HOUR_MS)),
    authenticatedAt: given.authenticatedMs === undefined ? undefined : toEpochMs(time - given.authenticatedMs),
    acr: given.acr,
    boundCertificate: given.boundCertificate,
    boundKey: given.boundKey,
    actors: given.actors,
    hasJti: true,
  };
}

function failuresOf(want: Wanted, verdict: Verdict): readonly Failure[] {
  const failures: Failure[] = [];
  const same = (part: "decision" | "enforced" | "mode" | "rule", got: string): void => {
    const wanted = want[part];
    if (wanted !== undefined && wanted !== got) failures.push({ part, wanted, got });
  };
  same("decision", verdict.decision.kind);
  same("enforced", verdict.enforced);
  same("mode", verdict.mode);
  same("rule", verdict.rule);
  const { scoreMin: min, scoreMax: max } = want;
  if ((min !== undefined && verdict.score < min) || (max !== undefined && verdict.score > max)) {
    failures.push({ part: "score", wanted: rangeText(min, max), got: String(verdict.score) });
  }
  const signals = verdict.reasons.filter(({ points }) => points > 0).map(({ signal }) => signal);
  const got = signals.length === 0 ? "no reasons" : signals.join(", ");
  for (const signal of want.because) {
    if (!signals.includes(signal)) failures.push({ part: "because", wanted: signal, got });
  }
  for (const signal of want.notBecause) {
    if (signals.includes(signal)) failures.push({ part: "not_because", wanted: `no ${signal}`, got });
  }
  return failures;
}

function rangeText(min: number | undefined, max: number | undefined): string {
  if (min === max) return String(min);
  if (max === undefined) return `at least ${min}`;
  return min === undefined ? `at most ${max}` : `${min} to ${max}`;
}
