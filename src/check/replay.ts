/** Passes recorded request rows through the real line, under each row's own time, learning as live. */

import { createHash } from "node:crypto";
import { keyedHash } from "../identity/keyed-hash.ts";
import { OperatingError } from "../model/errors.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { PresentedFacts } from "../model/identity.ts";
import type { Line } from "../model/line.ts";
import type { Policy } from "../model/policy.ts";
import { HOUR_MS, toEpochMs } from "../model/units.ts";
import type { DecisionKind, Reason, Verdict } from "../model/verdict.ts";
import { createLine } from "./line.ts";

/** One recorded request; further keys of a row (labels) are ignored. */
export interface ReplayRow {
  readonly time: string;
  readonly principal: string;
  readonly credential: string | null;
  readonly source_address: string | null;
  readonly user_agent: string | null;
  readonly tls_fingerprint: string | null;
  readonly method: string;
  readonly host: string;
  readonly path: string;
  /** Outcomes: known only after the decision. */
  readonly status: number | null;
  readonly response_bytes: number | null;
  /** What this client would do if challenged; told to the line only after it has challenged. */
  readonly answers_challenge: boolean;
}

export interface ReplayDecision {
  readonly score: number;
  readonly decision: DecisionKind;
  readonly reasons: readonly Reason[];
}

export interface ReplayOptions {
  readonly policy: Policy;
  /** `rows`: as each row says; `none` and `all` override it. */
  readonly answers: "rows" | "none" | "all";
  /** Enforce nothing, learn without answers, and print the decision that would have been. */
  readonly observe: boolean;
  /** `callee` keeps memory per host, as one sidecar per service does; `fleet` shares it. */
  readonly view: "callee" | "fleet";
}

const PRINCIPALS_MAX = 100_000;
const SESSIONS_MAX = 200_000;
const STRINGS = ["time", "principal", "method", "host", "path"] as const;
const STRINGS_OR_NULL = ["credential", "source_address", "user_agent", "tls_fingerprint"] as const;
const NUMBERS_OR_NULL = ["status", "response_bytes"] as const;

/** @throws {OperatingError} ERR_REPLAY_ROW with the line number, what was found and what was wanted */
export function parseRow(text: string, lineNumber: number): ReplayRow {
  return rowOf(parseObject(text, lineNumber), lineNumber);
}

/** @throws {OperatingError} ERR_REPLAY_ROW when the text is no JSON object */
export function parseObject(text: string, lineNumber: number): Readonly<Record<string, unknown>> {
  const fail = failure(lineNumber);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return fail("expected a JSON object, got text that does not parse"); // fails closed: a torn file stops the replay
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) return fail("expected a JSON object");
  return json as Record<string, unknown>;
}

export function failure(lineNumber: number): (message: string) => never {
  return (message) => {
    throw new OperatingError("ERR_REPLAY_ROW", `line ${lineNumber}: ${message}`);
  };
}

/** @throws {OperatingError} ERR_REPLAY_ROW with the line number, what was found and what was wanted */
export function rowOf(row: Readonly<Record<string, unknown>>, lineNumber: number): ReplayRow {
  const fail: (message: string) => never = failure(lineNumber);
  for (const key of STRINGS) {
    if (typeof row[key] !== "string") fail(`${key}: expected a string, got ${kindOf(row[key])}`);
  }
  for (const key of STRINGS_OR_NULL) {
    if (typeof (row[key] ?? "") !== "string") fail(`${key}: expected a string or null, got ${kindOf(row[key])}`);
  }
  for (const key of NUMBERS_OR_NULL) {
    if (typeof (row[key] ?? 0) !== "number") fail(`${key}: expected a number or null, got ${kindOf(row[key])}`);
  }
  if (typeof (row.answers_challenge ?? false) !== "boolean") {
    fail(`answers_challenge: expected true or false, got ${kindOf(row.answers_challenge)}`);
  }
  if (Number.isNaN(Date.parse(row.time as string))) {
    fail(`time: expected an RFC 3339 time, got ${JSON.stringify((row.time as string).slice(0, 40))}`);
  }
  return {
    ...(Object.fromEntries(STRINGS.map((key) => [key, row[key]])) as Record<(typeof STRINGS)[number], string>),
    credential: (row.credential as string | null | undefined) ?? null,
    source_address: (row.source_address as string | null | undefined) ?? null,
    user_agent: (row.user_agent as string | null | undefined) ?? null,
    tls_fingerprint: (row.tls_fingerprint as string | null | undefined) ?? null,
    status: (row.status as number | null | undefined) ?? null,
    response_bytes: (row.response_bytes as number | null | undefined) ?? null,
    answers_challenge: (row.answers_challenge as boolean | undefined) ?? false,
  };
}

/** One recorded request, whatever it was recorded in. */
export interface RecordedRequest {
  readonly facts: RequestFacts;
  /** Where memory of it is kept in the callee's view. */
  readonly host: string;
  /** Outcomes: known only after the decision. */
  readonly status: number | undefined;
  readonly responseBytes: number | undefined;
  /** Told to the line only after it has challenged; `undefined`: unknown, later requests tell, as they do live. */
  readonly answers: boolean | undefined;
}

export interface Replay {
  row(row: ReplayRow): ReplayDecision;
  /** Passes any recorded request. */
  pass(request: RecordedRequest): Verdict;
}

export function createReplay(options: ReplayOptions): Replay {
  const policy: Policy = options.observe
    ? { ...options.policy, mode: "observe", signal: options.policy.signal }
    : options.policy;
  const lines = new Map<string, Line>();
  const random = countingBytes();
  const lineFor = (host: string): Line => {
    const key = options.view === "callee" ? host : "";
    let line = lines.get(key);
    if (line === undefined) {
      line = createLine({ principalsMax: PRINCIPALS_MAX, sessionsMax: SESSIONS_MAX, random });
      lines.set(key, line);
    }
    return line;
  };
  const pass = (request: RecordedRequest): Verdict =>
    passThrough(
      lineFor(request.host),
      options.answers === "rows" ? request : { ...request, answers: options.answers === "all" },
      policy,
    );
  return {
    pass,
    row: (row) => {
      const verdict = pass(recordedRow(row));
      return { score: verdict.score, decision: verdict.decision.kind, reasons: verdict.reasons };
    },
  };
}

/** Judges one recorded request and does all that follows it live: its answer, what it teaches, and its outcome. */
export function passThrough(line: Line, request: RecordedRequest, policy: Policy): Verdict {
  const { facts, answers } = request;
  const verdict = line.check(facts, policy);
  if (verdict.enforced === "challenge" && answers !== undefined) line.answer(facts, verdict, answers);
  line.learn(facts, verdict);
  if (verdict.enforced === "allow" || (verdict.enforced === "challenge" && answers === true))
    tellOutcome(line, request, verdict);
  return verdict;
}

export function recordedRow(row: ReplayRow): RecordedRequest {
  return {
    facts: factsOf(row),
    host: row.host,
    status: row.status ?? undefined,
    responseBytes: row.response_bytes ?? undefined,
    answers: row.answers_challenge,
  };
}

function tellOutcome(line: Line, { status, responseBytes }: RecordedRequest, verdict: Verdict): void {
  line.outcome({
    time: verdict.time,
    decisionId: verdict.decisionId,
    requestId: undefined,
    status,
    grpcStatus: undefined,
    responseBytes,
    requestBytes: undefined,
    durationMs: undefined,
    stage: "end",
  });
}

/** A row as the facts that Envoy would have given: the principal proven, the credential a token of its own. */
function factsOf(row: ReplayRow): RequestFacts {
  const question = row.path.search(/[?#]/);
  return {
    time: toEpochMs(Date.parse(row.time)),
    protocol: "http",
    requestId: undefined,
    connectionId: undefined,
    sourceAddress: row.source_address ?? undefined,
    sourcePort: undefined,
    destination: row.host.toLowerCase(),
    method: row.method.toUpperCase(),
    path: (question < 0 ? row.path : row.path.slice(0, question)).slice(0, 2048),
    userAgent: row.user_agent ?? undefined,
    tls: { ja3: undefined, ja4: row.tls_fingerprint ?? undefined, version: undefined, sni: undefined },
    requestBytes: undefined,
    presented: presentedBy(row),
  };
}

/** Replayed credentials are ids already; hashing them keeps one form, and keeps raw keys out of what is written. */
const REPLAY_KEY = createHash("sha256").update("sallyport replay").digest();

function presentedBy(row: ReplayRow): PresentedFacts {
  const spiffe = row.principal.startsWith("spiffe://");
  return {
    certificate: undefined,
    peerSpiffeId: spiffe ? row.principal : undefined,
    peerNameInvalid: undefined,
    token:
      row.credential === null
        ? { kind: "absent" }
        : {
            kind: "verified",
            id: `token:${keyedHash(REPLAY_KEY, row.credential)}`,
            issuer: "replay",
            subject: row.principal,
            issuedAt: undefined,
            // Rows tell nothing of a token's times: an ordinary end keeps hygiene silent.
            expiresAt: toEpochMs(Date.parse(row.time) + HOUR_MS),
            authenticatedAt: undefined,
            acr: undefined,
            boundCertificate: undefined,
            boundKey: undefined,
            actors: [],
            hasJti: true,
          },
    apiKey: { kind: "absent" },
    faults: [],
  };
}

export function kindOf(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : `a ${typeof value}`;
}

/** Bytes from a counter: decision ids of a replay are the same every time. */
export function countingBytes(): (size: number) => Uint8Array {
  let count = 0;
  return (size) => {
    count++;
    const bytes = new Uint8Array(size);
    new DataView(bytes.buffer).setFloat64(size - 8, count);
    return bytes;
  };
}
