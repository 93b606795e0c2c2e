/** Reads decision logs back as requests to be replayed, as far as a log knows them. */

import type { Protocol, RequestFacts } from "../model/facts.ts";
import type { CertificateFacts, PresentedFacts, TokenFacts } from "../model/identity.ts";
import { type EpochMs, HOUR_MS, toEpochMs } from "../model/units.ts";
import type { Reason } from "../model/verdict.ts";
import { failure, kindOf, parseObject, type RecordedRequest, recordedRow, rowOf } from "./replay.ts";

/** What was decided of a logged request when it was made. */
export interface LoggedDecision {
  readonly decisionId: string;
  /** Keyed hash of the credential, or `none`. */
  readonly credential: string;
  readonly score: number;
  readonly decision: string;
  readonly enforced: string;
  readonly rule: string;
  readonly reasons: readonly Reason[];
}

export interface ReadRequest {
  readonly request: RecordedRequest;
  /** The caller as the file names it. */
  readonly principal: string;
  /** Set for lines of a decision log. */
  readonly logged: LoggedDecision | undefined;
}

/**
 * Reads a line of either form; a line with `decision_id` and `input` is a decision log's.
 *
 * A decision log holds less than a row: the template of the route stands for the path, what became of the request is
 * not known, and of its credentials only the keyed hash is. Where it says that a request answered a challenge, its
 * credential is taken as issued just then.
 *
 * @throws {OperatingError} ERR_REPLAY_ROW with the line number, what was found and what was wanted
 */
export function readRequest(text: string, lineNumber: number): ReadRequest {
  const line = parseObject(text, lineNumber);
  if (isLogged(line)) return loggedRequest(line, lineNumber);
  const row = rowOf(line, lineNumber);
  return { request: recordedRow(row), principal: row.principal, logged: undefined };
}

function loggedRequest(line: Readonly<Record<string, unknown>>, lineNumber: number): ReadRequest {
  const fail: (message: string) => never = failure(lineNumber);
  const part = (of: Readonly<Record<string, unknown>>, name: string): Readonly<Record<string, unknown>> => {
    const value = of[name];
    if (typeof value !== "object" || value === null) return fail(`${name}: expected an object, got ${kindOf(value)}`);
    return value as Record<string, unknown>;
  };
  const text = (of: Readonly<Record<string, unknown>>, name: string): string => {
    const value = of[name];
    return typeof value === "string" ? value : fail(`${name}: expected a string, got ${kindOf(value)}`);
  };
  const textOrNone = (of: Readonly<Record<string, unknown>>, name: string): string | undefined =>
    of[name] === undefined || of[name] === null ? undefined : text(of, name);
  const input = part(line, "input");
  const risk = part(part(line, "result"), "risk");
  const timeMs = Date.parse(text(line, "timestamp"));
  if (Number.isNaN(timeMs)) fail("timestamp: expected an RFC 3339 time");
  const time = toEpochMs(timeMs);
  const principal = text(input, "principal");
  const protocol = text(input, "protocol");
  if (!isProtocol(protocol)) return fail(`protocol: expected http, grpc or tcp, got ${JSON.stringify(protocol)}`);
  if (typeof risk.score !== "number") return fail(`score: expected a number, got ${kindOf(risk.score)}`);
  const destination = text(input, "destination");
  const method = text(input, "method");
  const facts: RequestFacts = {
    time,
    protocol,
    requestId: undefined,
    connectionId: undefined,
    sourceAddress: textOrNone(input, "source_address"),
    sourcePort: undefined,
    destination,
    method,
    path: protocol === "tcp" ? "" : pathOf(text(input, "route"), method),
    userAgent: textOrNone(input, "user_agent"),
    tls: { ja3: undefined, ja4: textOrNone(input, "ja4"), version: undefined, sni: undefined },
    requestBytes: undefined,
    presented: presentedBy(principal, text(input, "credential"), risk.answered === true ? time : undefined, time),
  };
  return {
    request: { facts, host: destination, status: undefined, responseBytes: undefined, answers: undefined },
    principal,
    logged: {
      decisionId: text(line, "decision_id"),
      credential: text(input, "credential"),
      score: risk.score,
      decision: text(risk, "decision"),
      enforced: text(risk, "enforced"),
      rule: text(risk, "rule"),
      reasons: Array.isArray(risk.reasons) ? (risk.reasons as Reason[]) : [],
    },
  };
}

/** A row may carry any further key as a label, but has its principal at the top. */
function isLogged(line: Readonly<Record<string, unknown>>): boolean {
  return line.decision_id !== undefined && line.input !== undefined && line.principal === undefined;
}

function isProtocol(text: string): text is Protocol {
  return text === "http" || text === "grpc" || text === "tcp";
}

/** `/orders/{id}` of `GET /orders/{id}`. */
function pathOf(route: string, method: string): string {
  return route.startsWith(`${method} `) ? route.slice(method.length + 1) : route;
}

/** What a caller must have presented to be known by that name and credential; `issuedAt` is the credential's. */
export function presentedBy(
  principal: string,
  credential: string,
  issuedAt: EpochMs | undefined,
  time: EpochMs,
): PresentedFacts {
  const isSpiffe = principal.startsWith("spiffe://");
  const isKey = principal.startsWith("api-key/");
  const bar = principal.indexOf("|");
  const token: TokenFacts =
    !credential.startsWith("token:") || isKey
      ? { kind: "absent" }
      : principal === "anonymous"
        ? { kind: "unverified", why: "as the decision log has it", forged: false, id: credential }
        : {
            kind: "verified",
            id: credential,
            issuer: bar < 0 ? "issuer" : principal.slice(0, bar),
            subject: bar < 0 ? principal : principal.slice(bar + 1),
            issuedAt,
            // A log tells nothing of a token's times: an ordinary end keeps hygiene silent.
            expiresAt: toEpochMs(time + HOUR_MS),
            authenticatedAt: undefined,
            acr: undefined,
            boundCertificate: undefined,
            boundKey: undefined,
            actors: [],
            hasJti: true,
          };
  return {
    certificate: credential.startsWith("certificate:")
      ? certificateOf(credential.slice("certificate:".length), isSpiffe ? principal : undefined, issuedAt)
      : undefined,
    peerSpiffeId: isSpiffe ? principal : undefined,
    peerNameInvalid: undefined,
    token,
    apiKey: isKey ? { kind: "known", id: credential, name: principal.slice("api-key/".length) } : { kind: "absent" },
    faults: [],
  };
}

function certificateOf(sha256: string, spiffeId: string | undefined, notBefore: EpochMs | undefined): CertificateFacts {
  return {
    via: "peer",
    sha256,
    spiffeId,
    subject: undefined,
    issuer: undefined,
    serial: undefined,
    notBefore,
    notAfter: undefined,
    key: undefined,
    x5tS256: "",
  };
}
