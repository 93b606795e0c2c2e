/** Reads the claims of a security event token (RFC 8417) as SSF 1.0, section 4 profiles it. */

import { type KnownEvent, parseEvent, seconds } from "./events.ts";
import { parseSubject, record, type Subject, text } from "./subjects.ts";

/** The registered error codes (RFC 8935, section 7.1; SSF 1.0 adds `invalid_state`). */
export type SetErrorCode =
  | "invalid_request"
  | "invalid_key"
  | "invalid_issuer"
  | "invalid_audience"
  | "authentication_failed"
  | "access_denied"
  | "invalid_state";

/** Why a token is refused for good, as its transmitter is told. */
export interface SetFault {
  readonly err: SetErrorCode;
  /** In words; repeats nothing of the token. */
  readonly description: string;
}

/** An event that we know and what it is about. */
export interface SubjectEvent {
  readonly event: KnownEvent;
  readonly subject: Subject;
}

/** A token whose claims are in order. Whether its signature is, is found out apart. */
export interface ParsedSet {
  readonly issuer: string;
  readonly jti: string;
  readonly issuedAtMs: number;
  readonly txn: string | undefined;
  readonly events: readonly SubjectEvent[];
  /** Events of kinds that are not known here. */
  readonly unknownEvents: number;
}

export type ClaimsResult =
  | { readonly ok: true; readonly set: ParsedSet }
  | { readonly ok: false; readonly fault: SetFault };

/** What the claims must be. */
export interface ClaimsWanted {
  readonly issuer: string;
  readonly audiences: readonly string[];
  readonly nowMs: number;
  readonly clockToleranceMs: number;
  readonly maxAgeMs: number;
}

const EVENTS_MAX = 16;
const AUDIENCES_MAX = 100;
const JTI_CHARS_MAX = 512;

/** RFC 8417, section 2.3; SSF 1.0, section 4.1.1 makes it a must. */
export function isSetType(typ: unknown): boolean {
  return typeof typ === "string" && /^(?:application\/)?secevent\+jwt$/i.test(typ);
}

/** Reads untrusted claims. `exp` means nothing in these tokens and is not looked at. */
export function parseClaims(value: unknown, wanted: ClaimsWanted): ClaimsResult {
  const claims = record(value);
  if (claims === undefined) return refuse("invalid_request", "the token's payload is no JSON object");
  if (claims.iss !== wanted.issuer) return refuse("invalid_issuer", "the token is of another issuer");
  if (!isFor(claims.aud, wanted.audiences)) return refuse("invalid_audience", "the token is for another audience");
  const jti = text(claims.jti, JTI_CHARS_MAX);
  if (jti === undefined) return refuse("invalid_request", `expected a jti of 1..${JTI_CHARS_MAX} characters`);
  const issuedAtMs = seconds(claims.iat);
  if (issuedAtMs === undefined) return refuse("invalid_request", "expected iat as seconds since 1970");
  if (issuedAtMs > wanted.nowMs + wanted.clockToleranceMs) {
    return refuse("invalid_request", "iat is in the future: do the clocks differ?");
  }
  if (issuedAtMs < wanted.nowMs - wanted.maxAgeMs - wanted.clockToleranceMs) {
    return refuse("invalid_request", "iat is longer ago than is accepted");
  }
  const read = readEvents(claims);
  if (!read.ok) return refuse("invalid_request", read.why);
  const txn = text(claims.txn, JTI_CHARS_MAX);
  return {
    ok: true,
    set: { issuer: wanted.issuer, jti, issuedAtMs, txn, events: read.events, unknownEvents: read.unknownEvents },
  };
}

type EventsRead =
  | { readonly ok: true; readonly events: readonly SubjectEvent[]; readonly unknownEvents: number }
  | { readonly ok: false; readonly why: string };

function readEvents(claims: Readonly<Record<string, unknown>>): EventsRead {
  const given = record(claims.events);
  if (given === undefined) return { ok: false, why: "expected events as a JSON object" };
  const entries = Object.entries(given);
  if (entries.length === 0) return { ok: false, why: "expected at least one event" };
  if (entries.length > EVENTS_MAX) return { ok: false, why: `expected at most ${EVENTS_MAX} events` };
  const events: SubjectEvent[] = [];
  for (const [type, payload] of entries) {
    const parsed = parseEvent(type, payload);
    if (!parsed.ok) return parsed;
    if (parsed.event === undefined) continue;
    // SSF 1.0, section 4.1.2: it would make the token look like one that somebody logs in with.
    if (claims.sub !== undefined) return { ok: false, why: "the claim sub must not be used with these events" };
    const subject = parseSubject(claims.sub_id ?? parsed.event.legacySubject);
    if (!subject.ok) return subject;
    events.push({ event: parsed.event, subject: subject.subject });
  }
  return { ok: true, events, unknownEvents: entries.length - events.length };
}

function isFor(aud: unknown, audiences: readonly string[]): boolean {
  if (typeof aud === "string") return audiences.includes(aud);
  return Array.isArray(aud) && aud.length <= AUDIENCES_MAX && aud.some((one) => audiences.includes(one));
}

function refuse(err: SetErrorCode, description: string): ClaimsResult {
  return { ok: false, fault: { err, description } };
}
