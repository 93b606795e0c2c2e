/**
 * Builds the CheckResponse of a verdict as an object: what `src/envoy/response.ts` assembles from bytes is held to it.
 * Written for reading, not for speed.
 */

import { create, type JsonObject, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { stepUpChallenge } from "../../src/challenge/www-authenticate.ts";
import { OWN_PREFIX } from "../../src/envoy/headers.ts";
import type { Proving, ResponseContext } from "../../src/envoy/response.ts";
import { type HeaderValueOption, HeaderValueOptionSchema } from "../../src/gen/envoy/config/core/v3/base_pb.ts";
import {
  type CheckResponse,
  CheckResponseSchema,
  DeniedHttpResponseSchema,
  OkHttpResponseSchema,
} from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { HttpStatusSchema, StatusCode } from "../../src/gen/envoy/type/v3/http_status_pb.ts";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { type Status, StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";
import type { BodyPolicy, ChallengeKind, ResponsePolicy } from "../../src/model/policy.ts";
import { SECOND_MS } from "../../src/model/units.ts";
import type { Challenge, Decision, Verdict } from "../../src/model/verdict.ts";

/** gRPC status codes that matter here (google.rpc.Code). */
const OK = 0;
const PERMISSION_DENIED = 7;
const RESOURCE_EXHAUSTED = 8;
const UNAUTHENTICATED = 16;

const DOMAIN = "sallyport.dev";
const METADATA_REASONS_MAX = 8;

export function expectedResponse(verdict: Verdict, context: ResponseContext): CheckResponse {
  const dynamicMetadata = metadataOf(verdict, context);
  const policy = verdict.response ?? context.policy;
  if (verdict.enforced === "allow") return allow(verdict, { ...context, policy }, dynamicMetadata);
  const refusal = refusalOf(verdict.decision);
  const asks = asksOf(verdict.decision, context);
  const status = create(StatusSchema, { code: refusal.grpc, message: refusal.title });
  if (context.protocol === "tcp") return create(CheckResponseSchema, { status, dynamicMetadata });
  return create(CheckResponseSchema, {
    status,
    dynamicMetadata,
    httpResponse: {
      case: "deniedResponse",
      value:
        context.protocol === "grpc"
          ? grpcRefusal(verdict, refusal, policy, asks)
          : httpRefusal(verdict, refusal, policy, asks),
    },
  });
}

/** What a refusal asks for, or at least helps to answer with: headers, which gRPC callers get as metadata. */
function asksOf(decision: Decision, { proofs, proving }: ResponseContext): HeaderValueOption[] {
  const headers =
    decision.kind === "challenge"
      ? challengeText(decision.challenge, proofs, proving)
      : // Whoever is refused may still answer: its next proof needs a nonce from now.
        proving?.nonceDue === true && proofs !== undefined
        ? { "dpop-nonce": proofs.dpopNonce() }
        : {};
  return Object.entries(headers).map(([name, value]) => header(name, value));
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

function allow(
  verdict: Verdict,
  { policy, ownHeaders, protocol, proofs, proving }: ResponseContext,
  dynamicMetadata: JsonObject,
) {
  const status = create(StatusSchema, { code: OK });
  if (protocol === "tcp") return create(CheckResponseSchema, { status, dynamicMetadata });
  const set: HeaderValueOption[] = policy.upstreamHeaders
    ? [
        header("x-sallyport-decision", verdict.decision.kind),
        header("x-sallyport-score", String(verdict.score)),
        header("x-sallyport-decision-id", verdict.decisionId),
        header("x-sallyport-principal", headerText(verdict.identity.principal.name)),
      ]
    : [];
  // A forwarded challenge is the service's to put: it is told even where it is told nothing else.
  if (verdict.mode === "enforce" && verdict.decision.kind === "challenge") {
    set.push(...challengeHeaders(verdict.decision.challenge));
  }
  const kept = new Set(set.map((option) => option.header?.key));
  return create(CheckResponseSchema, {
    status,
    dynamicMetadata,
    httpResponse: {
      case: "okResponse",
      value: create(OkHttpResponseSchema, {
        headers: set,
        responseHeadersToAdd:
          proving?.nonceDue === true && proofs !== undefined ? [header("dpop-nonce", proofs.dpopNonce())] : [],
        headersToRemove: ownHeaders.filter((name) => name.startsWith(OWN_PREFIX) && !kept.has(name)),
      }),
    },
  });
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
        http: StatusCode.Unauthorized,
        grpc: UNAUTHENTICATED,
        reason: "CHALLENGE",
        title: TITLES[decision.challenge.kind],
        challenge: decision.challenge,
      };
    case "deny":
      return decision.rate
        ? refusal(StatusCode.TooManyRequests, RESOURCE_EXHAUSTED, "RATE", "Too many requests")
        : refusal(StatusCode.Forbidden, PERMISSION_DENIED, "DENIED", "Access denied");
    case "terminate":
      return refusal(StatusCode.Forbidden, PERMISSION_DENIED, "TERMINATED", "Session ended");
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
function httpRefusal(verdict: Verdict, refusal: Refusal, policy: ResponsePolicy, asks: readonly HeaderValueOption[]) {
  const own = bodyOf(verdict, policy);
  if (own?.text !== undefined) {
    const body = filled(own.text, verdict, escapeFor(own.contentType));
    return httpDenied(verdict, refusal, policy, asks, own.contentType, body);
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
  return httpDenied(verdict, refusal, policy, asks, "application/problem+json", `${JSON.stringify(body)}\n`);
}

function httpDenied(
  verdict: Verdict,
  refusal: Refusal,
  policy: ResponsePolicy,
  asks: readonly HeaderValueOption[],
  contentType: string,
  body: string,
) {
  const own = ownHeaders(verdict, policy);
  return create(DeniedHttpResponseSchema, {
    status: create(HttpStatusSchema, { code: refusal.http }),
    headers: [
      header("content-type", contentType),
      ...(policy.headers?.has("cache-control") === true ? [] : [header("cache-control", "no-store")]),
      ...own,
      ...commonHeaders(verdict, refusal),
      ...asks,
    ],
    body,
  });
}

function bodyOf({ enforced }: Verdict, { bodies }: ResponsePolicy): BodyPolicy | undefined {
  return enforced === "allow" ? undefined : bodies?.[enforced];
}

/** Headers that the policy adds to refusals. */
function ownHeaders(verdict: Verdict, { headers }: ResponsePolicy): HeaderValueOption[] {
  return [...(headers ?? [])].map(([name, value]) => header(name, filled(value, verdict, headerText)));
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
function grpcRefusal(verdict: Verdict, refusal: Refusal, policy: ResponsePolicy, asks: readonly HeaderValueOption[]) {
  const own = bodyOf(verdict, policy)?.grpcMessage;
  const message = own === undefined ? refusal.title : filled(own, verdict, (text) => text);
  const status: Status = create(StatusSchema, {
    code: refusal.grpc,
    message,
    details: [
      anyPack(
        ErrorInfoSchema,
        create(ErrorInfoSchema, {
          reason: refusal.reason,
          domain: DOMAIN,
          metadata: { decision_id: verdict.decisionId, ...challengeFields(refusal.challenge) },
        }),
      ),
    ],
  });
  return create(DeniedHttpResponseSchema, {
    status: create(HttpStatusSchema, { code: refusal.http }),
    headers: [
      header("grpc-status", String(refusal.grpc)),
      header("grpc-message", grpcText(message)),
      header("grpc-status-details-bin", Buffer.from(toBinary(StatusSchema, status)).toString("base64")),
      ...ownHeaders(verdict, policy),
      ...commonHeaders(verdict, refusal),
      ...asks,
    ],
  });
}

function commonHeaders(verdict: Verdict, { challenge }: Refusal): HeaderValueOption[] {
  const headers = [header("x-sallyport-decision-id", verdict.decisionId)];
  if (challenge === undefined) return headers;
  headers.push(...challengeHeaders(challenge));
  return headers;
}

function challengeHeaders(challenge: Challenge): HeaderValueOption[] {
  return Object.entries(challengeFields(challenge)).map(([name, value]) =>
    header(`${OWN_PREFIX}${name.replaceAll("_", "-")}`, value),
  );
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

function metadataOf(verdict: Verdict, { latencyUs, policyFreshness = "fresh" }: ResponseContext): JsonObject {
  const metadata: JsonObject = {
    decision: verdict.decision.kind,
    enforced: verdict.enforced,
    score: verdict.score,
    reasons: verdict.reasons
      .filter((reason) => reason.points !== 0)
      .slice(0, METADATA_REASONS_MAX)
      .map((reason) => `${reason.signal}:${reason.points}`),
    principal: verdict.identity.principal.name,
    decision_id: verdict.decisionId,
    policy_revision: verdict.policyRevision,
    mode: verdict.mode,
    latency_us: latencyUs,
  };
  // Absent means fresh.
  if (policyFreshness !== "fresh") metadata.policy_freshness = policyFreshness;
  // Absent means no: Envoy's matchers and the Lua filter look for `true` only.
  if (verdict.basis !== undefined) metadata.basis = verdict.basis;
  if (verdict.peerGroup !== undefined) metadata.peer_group = verdict.peerGroup;
  if (verdict.enforced === "terminate") metadata.terminate = true;
  if (verdict.enforced === "allow" && verdict.watch) metadata.watch = true;
  return metadata;
}

/** Envoy ignores `raw_value` and, for request headers, any append action other than overwriting. */
function header(key: string, value: string): HeaderValueOption {
  return create(HeaderValueOptionSchema, {
    header: { key, value },
    appendAction: 2,
  });
}

/** Header values are visible ASCII; anything else in a name is percent-encoded. */
function headerText(text: string): string {
  return text.replace(/[^\x21-\x7e]/gu, (character) => encodeURIComponent(character));
}
