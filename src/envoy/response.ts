/** Turns a verdict into the CheckResponse that Envoy carries out. */

import { stepUpChallenge } from "../challenge/www-authenticate.ts";
import type { StatusCode } from "../gen/envoy/type/v3/http_status_pb.ts";
import type { PolicyFreshness } from "../model/bundle.ts";
import type { Protocol } from "../model/facts.ts";
import type { BodyPolicy, ChallengeKind, ResponsePolicy } from "../model/policy.ts";
import { SECOND_MS } from "../model/units.ts";
import type { Challenge, Decision, DecisionKind, Mode, Verdict } from "../model/verdict.ts";
import { writeErrorStatus } from "./grpc-status.ts";
import { OWN_PREFIX } from "./headers.ts";
import type { Proofs } from "./proofs.ts";
import { WireWriter } from "./wire-writer.ts";

/** gRPC status codes that matter here (google.rpc.Code); OK is 0, which is not written. */
const PERMISSION_DENIED = 7;
const RESOURCE_EXHAUSTED = 8;
const UNAUTHENTICATED = 16;

/** HTTP status codes (RFC 9110, section 15.5; RFC 6585, section 4), as Envoy's messages number them. */
const HTTP_UNAUTHORIZED: StatusCode = 401;
const HTTP_FORBIDDEN: StatusCode = 403;
const HTTP_TOO_MANY_REQUESTS: StatusCode = 429;

const DOMAIN = "sallyport.dev";
const METADATA_REASONS_MAX = 8;

export interface ResponseContext {
  readonly protocol: Protocol;
  readonly policy: ResponsePolicy;
  /** Names of the request's headers that begin with our prefix: none of them goes upstream unless set here. */
  readonly ownHeaders: readonly string[];
  readonly latencyUs: number;
  /** Without it, the policy counts as fresh. */
  readonly policyFreshness?: PolicyFreshness;
  /** Makes what challenges by proof ask for. */
  readonly proofs?: Pick<Proofs, "dpopChallenge" | "dpopNonce" | "signatureChallenge"> | undefined;
  readonly proving?: Proving | undefined;
}

/** How the caller proves possession, for what it is told. */
export interface Proving {
  /** Scheme that a step-up is asked for by: that of the token at hand. */
  readonly scheme: "Bearer" | "DPoP";
  /** The caller makes DPoP proofs, and the nonce of this one was none, or is growing old. */
  readonly nonceDue: boolean;
  /** Fields that a signature must cover beyond method, authority and path. */
  readonly fields: readonly string[];
}

/** A header's name and value. */
type Pair = readonly [name: string, value: string];

/**
 * Bytes of the `envoy.service.auth.v3.CheckResponse` that tells the verdict. Messages are put together from parts that were
 * encoded once: building objects for them and encoding these takes twenty times as long (`test/bench/reading.ts`).
 *
 * @returns a view that is valid until the next call
 */
export function responseOf(verdict: Verdict, context: ResponseContext): Buffer {
  const policy = verdict.response ?? context.policy;
  writer.begin();
  writeMetadata(verdict, context);
  if (verdict.enforced === "allow") {
    if (context.protocol !== "tcp") writeOk(verdict, policy, context);
    writer.part(STATUS_OK);
    return writer.finish();
  }
  const refusal = refusalOf(verdict.decision);
  if (context.protocol !== "tcp") {
    const asks = asksOf(verdict.decision, context);
    if (context.protocol === "grpc") writeGrpcRefusal(verdict, refusal, policy, asks);
    else writeHttpRefusal(verdict, refusal, policy, asks);
  }
  writeStatus(refusal.grpc, refusal.title);
  return writer.finish();
}

/** Used for one message at a time, from beginning to end of {@link responseOf}, which waits for nothing. */
const writer = new WireWriter();

/** A field's number and its wire type, as one byte. Numbers are those of `proto/envoy/service/auth/v3/`. */
const TAG = {
  response: { status: 0x0a, denied: 0x12, ok: 0x1a, metadata: 0x22 },
  status: { code: 0x08, message: 0x12 },
  denied: { status: 0x0a, headers: 0x12, body: 0x1a },
  ok: { headers: 0x12, toRemove: 0x2a, responseToAdd: 0x32 },
  option: { header: 0x0a, appendAction: 0x18 },
  header: { key: 0x0a, value: 0x12 },
  struct: { entry: 0x0a, key: 0x0a, value: 0x12 },
  value: { number: 0x11, text: 0x1a, bool: 0x20, list: 0x32 },
  list: { value: 0x0a },
} as const;

/** Envoy ignores `raw_value` and, for request headers, any append action other than overwriting. */
const OVERWRITE_IF_EXISTS_OR_ADD = 2;
const APPEND_ACTION = Uint8Array.of(TAG.option.appendAction, OVERWRITE_IF_EXISTS_OR_ADD);

const STATUS_OK = encoded(() => {
  writer.close(TAG.response.status, writer.written);
});

function encoded(write: () => void): Uint8Array {
  writer.begin();
  write();
  return Uint8Array.from(writer.finish());
}

function writeStatus(code: number, message: string): void {
  const before = writer.written;
  writer.text(TAG.status.message, message);
  writer.varint(code);
  writer.byte(TAG.status.code);
  writer.close(TAG.response.status, before);
}

/** What a refusal asks for, or at least helps to answer with: headers, which gRPC callers get as metadata. */
function asksOf(decision: Decision, { proofs, proving }: ResponseContext): readonly Pair[] {
  const headers =
    decision.kind === "challenge"
      ? challengeText(decision.challenge, proofs, proving)
      : // Whoever is refused may still answer: its next proof needs a nonce from now.
        proving?.nonceDue === true && proofs !== undefined
        ? { "dpop-nonce": proofs.dpopNonce() }
        : {};
  return Object.entries(headers);
}

function challengeText(
  challenge: Challenge,
  proofs: ResponseContext["proofs"],
  proving: Proving | undefined,
): Readonly<Record<string, string>> {
  const stepUp = { "www-authenticate": stepUpChallenge(challenge, proving?.scheme) };
  switch (challenge.kind) {
    case "dpop":
      return proofs?.dpopChallenge() ?? stepUp;
    case "http_signature":
      return proofs === undefined
        ? stepUp
        : { "www-authenticate": SIGNATURE_CHALLENGE, ...proofs.signatureChallenge(proving?.fields ?? []) };
    case "certificate_bound":
      return { "www-authenticate": CERTIFICATE_CHALLENGE };
    case "step_up":
    case "forward":
      return stepUp;
  }
}

/** What is to be signed is said by `Accept-Signature`; a 401 must name some scheme (RFC 9110, section 15.5.2). */
const SIGNATURE_CHALLENGE =
  'Signature realm="sallyport", error_description="A signature as asked for by Accept-Signature is needed"';
/** RFC 8705, section 3, by way of RFC 6750, section 3.1. */
const CERTIFICATE_CHALLENGE =
  'Bearer error="invalid_token", error_description="A token issued after this challenge and bound to the certificate is needed"';

/** `OkHttpResponse`: what goes upstream, and what does not. */
function writeOk(
  verdict: Verdict,
  { upstreamHeaders }: ResponsePolicy,
  { ownHeaders, proofs, proving }: ResponseContext,
): void {
  const before = writer.written;
  if (proving?.nonceDue === true && proofs !== undefined) {
    writeHeader(TAG.ok.responseToAdd, "dpop-nonce", proofs.dpopNonce());
  }
  // A forwarded challenge is the service's to put: it is told even where it is told nothing else.
  const challenge =
    verdict.mode === "enforce" && verdict.decision.kind === "challenge"
      ? challengeHeaders(verdict.decision.challenge)
      : NO_PAIRS;
  for (let i = ownHeaders.length - 1; i >= 0; i--) {
    const name = ownHeaders[i] as string;
    const isKept = (upstreamHeaders && UPSTREAM.has(name)) || challenge.some(([kept]) => kept === name);
    if (!isKept && name.startsWith(OWN_PREFIX)) writer.text(TAG.ok.toRemove, name);
  }
  writeHeaders(TAG.ok.headers, challenge);
  if (upstreamHeaders) {
    writeOwnHeader(PRINCIPAL_HEADER, headerText(verdict.identity.principal.name));
    writeOwnHeader(DECISION_ID_HEADER, verdict.decisionId);
    writeOwnHeader(SCORE_HEADER, String(verdict.score));
    writer.part(DECISION_HEADERS[verdict.decision.kind]);
  }
  writer.close(TAG.response.ok, before);
}

const NO_PAIRS: readonly Pair[] = [];
const UPSTREAM: ReadonlySet<string> = new Set(
  ["decision", "score", "decision-id", "principal"].map((name) => `${OWN_PREFIX}${name}`),
);

/** `HeaderValue.key`, encoded. */
function keyOf(name: string): Uint8Array {
  return encoded(() => writer.text(TAG.header.key, `${OWN_PREFIX}${name}`));
}

const SCORE_HEADER = keyOf("score");
const DECISION_ID_HEADER = keyOf("decision-id");
const PRINCIPAL_HEADER = keyOf("principal");
const DECISION_HEADER = keyOf("decision");
const DECISION_HEADERS = byDecision((kind) => encoded(() => writeOwnHeader(DECISION_HEADER, kind)));

function byDecision<T>(make: (kind: DecisionKind) => T): Readonly<Record<DecisionKind, T>> {
  return { allow: make("allow"), challenge: make("challenge"), deny: make("deny"), terminate: make("terminate") };
}

/** A header that goes upstream. */
function writeOwnHeader(key: Uint8Array, value: string): void {
  const before = writer.written;
  writer.part(APPEND_ACTION);
  const beforeHeader = writer.written;
  writer.text(TAG.header.value, value);
  writer.part(key);
  writer.close(TAG.option.header, beforeHeader);
  writer.close(TAG.ok.headers, before);
}

function writeHeaders(tag: number, pairs: readonly Pair[]): void {
  for (let i = pairs.length - 1; i >= 0; i--) {
    const [name, value] = pairs[i] as Pair;
    writeHeader(tag, name, value);
  }
}

function writeHeader(tag: number, name: string, value: string): void {
  const before = writer.written;
  writer.part(APPEND_ACTION);
  const beforeHeader = writer.written;
  writer.text(TAG.header.value, value);
  writer.text(TAG.header.key, name);
  writer.close(TAG.option.header, beforeHeader);
  writer.close(tag, before);
}

interface Refusal {
  readonly http: StatusCode;
  readonly grpc: number;
  /** Stable, for programs: ErrorInfo.reason and the problem's type. */
  readonly reason: string;
  readonly title: string;
  readonly challenge: Challenge | undefined;
}

function refusalOf(decision: Decision): Refusal {
  switch (decision.kind) {
    case "challenge":
      return {
        http: HTTP_UNAUTHORIZED,
        grpc: UNAUTHENTICATED,
        reason: "CHALLENGE",
        title: TITLES[decision.challenge.kind],
        challenge: decision.challenge,
      };
    case "deny":
      return decision.rate
        ? refusal(HTTP_TOO_MANY_REQUESTS, RESOURCE_EXHAUSTED, "RATE", "Too many requests")
        : refusal(HTTP_FORBIDDEN, PERMISSION_DENIED, "DENIED", "Access denied");
    case "terminate":
      return refusal(HTTP_FORBIDDEN, PERMISSION_DENIED, "TERMINATED", "Session ended");
    case "allow":
      throw new RangeError("an allowed request is not refused");
  }
}

const TITLES: Readonly<Record<ChallengeKind, string>> = {
  dpop: "A proof by the key that the token is bound to is needed",
  http_signature: "A signature of the request is needed",
  certificate_bound: "A token issued after this challenge and bound to the certificate is needed",
  step_up: "A credential issued after this challenge is needed",
  forward: "A credential issued after this challenge is needed",
};

function refusal(http: StatusCode, grpc: number, reason: string, title: string): Refusal {
  return { http, grpc, reason, title, challenge: undefined };
}

/** The policy's own body, else an RFC 9457 problem, which says why only where the policy reveals it. */
function writeHttpRefusal(verdict: Verdict, refusal: Refusal, policy: ResponsePolicy, asks: readonly Pair[]): void {
  const own = bodyOf(verdict, policy);
  if (own?.text !== undefined) {
    const body = filled(own.text, verdict, escapeFor(own.contentType));
    writeHttpDenied(verdict, refusal, policy, asks, own.contentType, body);
    return;
  }
  const body = {
    type: `https://${DOMAIN}/problems/${refusal.reason.toLowerCase()}`,
    title: refusal.title,
    status: refusal.http,
    decision_id: verdict.decisionId,
    ...(refusal.challenge === undefined ? {} : { challenge: CHALLENGE_NAMES[refusal.challenge.kind] }),
    ...(refusal.challenge === undefined || asksForProof(refusal.challenge)
      ? {}
      : { issued_after: new Date(refusal.challenge.issuedAfter).toISOString() }),
    ...(policy.revealReasons
      ? { score: verdict.score, reasons: verdict.reasons.map(({ signal, points }) => ({ signal, points })) }
      : {}),
  };
  writeHttpDenied(verdict, refusal, policy, asks, "application/problem+json", `${JSON.stringify(body)}\n`);
}

function writeHttpDenied(
  verdict: Verdict,
  refusal: Refusal,
  policy: ResponsePolicy,
  asks: readonly Pair[],
  contentType: string,
  body: string,
): void {
  const headers: readonly Pair[] = [
    ["content-type", contentType],
    ...(policy.headers?.has("cache-control") === true ? [] : [["cache-control", "no-store"] as const]),
    ...ownHeaders(verdict, policy),
    ...commonHeaders(verdict, refusal),
    ...asks,
  ];
  writeDenied(refusal, headers, body);
}

/** `DeniedHttpResponse`. */
function writeDenied({ http }: Refusal, headers: readonly Pair[], body: string): void {
  const before = writer.written;
  if (body !== "") writer.text(TAG.denied.body, body);
  writeHeaders(TAG.denied.headers, headers);
  const beforeStatus = writer.written;
  writer.varint(http);
  writer.byte(TAG.status.code);
  writer.close(TAG.denied.status, beforeStatus);
  writer.close(TAG.response.denied, before);
}

function bodyOf({ enforced }: Verdict, { bodies }: ResponsePolicy): BodyPolicy | undefined {
  return enforced === "allow" ? undefined : bodies?.[enforced];
}

/** Headers that the policy adds to refusals. */
function ownHeaders(verdict: Verdict, { headers }: ResponsePolicy): readonly Pair[] {
  return [...(headers ?? [])].map(([name, value]) => [name, filled(value, verdict, headerText)]);
}

/** Puts the verdict's own texts in place of what stands for them. */
function filled(text: string, verdict: Verdict, escaped: (text: string) => string): string {
  return text.replace(/\{(decision_id|decision|principal)\}/g, (_whole, name: string) => {
    if (name === "decision_id") return verdict.decisionId;
    return escaped(name === "decision" ? verdict.decision.kind : verdict.identity.principal.name);
  });
}

/** How a text is made part of a body: a principal may name itself with quotes and brackets. */
function escapeFor(contentType: string): (text: string) => string {
  if (/\bjson\b/i.test(contentType)) return (text) => JSON.stringify(text).slice(1, -1);
  if (/\b(?:html|xml)\b/i.test(contentType)) {
    return (text) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
  }
  return (text) => text;
}

/** `grpc-message` is percent-encoded (gRPC over HTTP/2, "Responses"). */
function grpcText(text: string): string {
  return text.replace(/[^\x20-\x24\x26-\x7e]/gu, (character) => encodeURIComponent(character));
}

/** Envoy honours these headers on a gRPC call as long as the body is empty. */
function writeGrpcRefusal(verdict: Verdict, refusal: Refusal, policy: ResponsePolicy, asks: readonly Pair[]): void {
  const own = bodyOf(verdict, policy)?.grpcMessage;
  const message = own === undefined ? refusal.title : filled(own, verdict, (text) => text);
  const status = writeErrorStatus({
    code: refusal.grpc,
    message,
    reason: refusal.reason,
    domain: DOMAIN,
    metadata: { decision_id: verdict.decisionId, ...challengeFields(refusal.challenge) },
  });
  const headers: readonly Pair[] = [
    ["grpc-status", String(refusal.grpc)],
    ["grpc-message", grpcText(message)],
    ["grpc-status-details-bin", status.toString("base64")],
    ...ownHeaders(verdict, policy),
    ...commonHeaders(verdict, refusal),
    ...asks,
  ];
  writeDenied(refusal, headers, "");
}

function commonHeaders(verdict: Verdict, { challenge }: Refusal): readonly Pair[] {
  const id: Pair = [`${OWN_PREFIX}decision-id`, verdict.decisionId];
  return challenge === undefined ? [id] : [id, ...challengeHeaders(challenge)];
}

function challengeHeaders(challenge: Challenge): readonly Pair[] {
  return Object.entries(challengeFields(challenge)).map(([name, value]) => [
    `${OWN_PREFIX}${name.replaceAll("_", "-")}`,
    value,
  ]);
}

function challengeFields(challenge: Challenge | undefined): Record<string, string> {
  if (challenge === undefined) return {};
  return {
    challenge: CHALLENGE_NAMES[challenge.kind],
    ...(asksForProof(challenge) ? {} : { issued_after: String(Math.floor(challenge.issuedAfter / SECOND_MS)) }),
  };
}

const CHALLENGE_NAMES: Readonly<Record<ChallengeKind, string>> = {
  dpop: "dpop",
  http_signature: "http-signature",
  certificate_bound: "certificate-bound",
  step_up: "step-up",
  // The same word: what is asked for is the same, whoever asks.
  forward: "step-up",
};

/** A proof is tied to its moment by the nonce. */
function asksForProof({ kind }: Challenge): boolean {
  return kind === "dpop" || kind === "http_signature";
}

/** `CheckResponse.dynamic_metadata`, which Envoy's access logs and matchers read. */
function writeMetadata(verdict: Verdict, { latencyUs, policyFreshness = "fresh" }: ResponseContext): void {
  const before = writer.written;
  // Absent means no: Envoy's matchers and the Lua filter look for `true` only.
  if (verdict.enforced === "allow" && verdict.watch) writer.part(WATCH);
  if (verdict.enforced === "terminate") writer.part(TERMINATE);
  // Absent means judged in full.
  if (verdict.basis !== undefined) writer.part(STANDING);
  if (verdict.peerGroup !== undefined) writeTextEntry(KEY.peerGroup, verdict.peerGroup);
  // Absent means fresh.
  if (policyFreshness !== "fresh") writeTextEntry(KEY.policyFreshness, policyFreshness);
  writeNumberEntry(KEY.latencyUs, latencyUs);
  writer.part(MODES[verdict.mode]);
  writeTextEntry(KEY.policyRevision, verdict.policyRevision);
  writeTextEntry(KEY.decisionId, verdict.decisionId);
  writeTextEntry(KEY.principal, verdict.identity.principal.name);
  writeReasons(verdict);
  writeNumberEntry(KEY.score, verdict.score);
  writer.part(ENFORCED[verdict.enforced]);
  writer.part(DECISIONS[verdict.decision.kind]);
  writer.close(TAG.response.metadata, before);
}

/** Key of a Struct's entry, encoded. */
function structKey(key: string): Uint8Array {
  return encoded(() => writer.text(TAG.struct.key, key));
}

const KEY = {
  score: structKey("score"),
  reasons: structKey("reasons"),
  principal: structKey("principal"),
  decisionId: structKey("decision_id"),
  policyRevision: structKey("policy_revision"),
  latencyUs: structKey("latency_us"),
  policyFreshness: structKey("policy_freshness"),
  peerGroup: structKey("peer_group"),
} as const;

function textEntry(key: string, text: string): Uint8Array {
  const name = structKey(key);
  return encoded(() => writeTextEntry(name, text));
}

const DECISIONS = byDecision((kind) => textEntry("decision", kind));
const ENFORCED = byDecision((kind) => textEntry("enforced", kind));
const MODES: Readonly<Record<Mode, Uint8Array>> = {
  enforce: textEntry("mode", "enforce"),
  observe: textEntry("mode", "observe"),
};
const TERMINATE = trueEntry("terminate");
const WATCH = trueEntry("watch");
const STANDING = textEntry("basis", "standing");

function writeTextEntry(key: Uint8Array, text: string): void {
  const before = writer.written;
  writer.text(TAG.value.text, text);
  closeEntry(key, before);
}

function writeNumberEntry(key: Uint8Array, value: number): void {
  const before = writer.written;
  writer.double(value);
  writer.byte(TAG.value.number);
  closeEntry(key, before);
}

function trueEntry(key: string): Uint8Array {
  const name = structKey(key);
  return encoded(() => {
    const before = writer.written;
    writer.byte(1);
    writer.byte(TAG.value.bool);
    closeEntry(name, before);
  });
}

/** What was written since is the entry's value; its key goes before it. */
function closeEntry(key: Uint8Array, before: number): void {
  writer.close(TAG.struct.value, before);
  writer.part(key);
  writer.close(TAG.struct.entry, before);
}

/** The reasons that count, as `signal:points`, the first ones. */
function writeReasons({ reasons }: Verdict): void {
  const before = writer.written;
  let count = 0;
  let end = 0;
  for (; end < reasons.length && count < METADATA_REASONS_MAX; end++) if (reasons[end]?.points !== 0) count++;
  for (let i = end - 1; i >= 0; i--) {
    const reason = reasons[i] as Verdict["reasons"][number];
    if (reason.points === 0) continue;
    const beforeValue = writer.written;
    writer.text(TAG.value.text, `${reason.signal}:${reason.points}`);
    writer.close(TAG.list.value, beforeValue);
  }
  writer.close(TAG.value.list, before);
  closeEntry(KEY.reasons, before);
}

/** Header values are visible ASCII; anything else in a name is percent-encoded. */
function headerText(text: string): string {
  return text.replace(/[^\x21-\x7e]/gu, (character) => encodeURIComponent(character));
}
