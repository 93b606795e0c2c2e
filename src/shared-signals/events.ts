/** Reads the events of CAEP 1.0 and SSF 1.0 that are acted upon. */

import { record, text } from "./subjects.ts";

const CAEP = "https://schemas.openid.net/secevent/caep/event-type/";
const SSF = "https://schemas.openid.net/secevent/ssf/event-type/";

export const SESSION_REVOKED = `${CAEP}session-revoked`;
export const CREDENTIAL_CHANGE = `${CAEP}credential-change`;
export const DEVICE_COMPLIANCE_CHANGE = `${CAEP}device-compliance-change`;
export const RISK_LEVEL_CHANGE = `${CAEP}risk-level-change`;
export const VERIFICATION = `${SSF}verification`;
export const STREAM_UPDATED = `${SSF}stream-updated`;

/** What a stream is asked for. */
export const EVENTS_WANTED: readonly string[] = [
  SESSION_REVOKED,
  CREDENTIAL_CHANGE,
  DEVICE_COMPLIANCE_CHANGE,
  RISK_LEVEL_CHANGE,
];

/** NumericDate beyond the year 9999 is nonsense. */
const SECONDS_MAX = 253_402_300_799;
const REASON_CHARS_MAX = 256;
const STATE_CHARS_MAX = 1_024;

export type Risk = "LOW" | "MEDIUM" | "HIGH";
export type StreamStatus = "enabled" | "paused" | "disabled";

/** What all CAEP events may say (CAEP 1.0, section 2). */
interface Common {
  /** When it happened; `undefined`: the transmitter did not say. */
  readonly happenedAtMs: number | undefined;
  /** `reason_admin`, one language of it. */
  readonly reason: string | undefined;
  /** The event's own `subject`: RISC and CAEP events of before SSF 1.0. */
  readonly legacySubject: unknown;
}

export type KnownEvent =
  | (Common & { readonly kind: "session-revoked" })
  | (Common & {
      readonly kind: "credential-change";
      readonly credentialType: string;
      readonly changeType: "create" | "revoke" | "update" | "delete";
      readonly x509Serial: string | undefined;
    })
  | (Common & { readonly kind: "device-compliance-change"; readonly compliant: boolean })
  | (Common & {
      readonly kind: "risk-level-change";
      readonly level: Risk;
      /** Which member of the subject is meant, such as `USER` or `DEVICE`. */
      readonly about: string | undefined;
    })
  | (Common & { readonly kind: "verification"; readonly state: string | undefined })
  | (Common & { readonly kind: "stream-updated"; readonly status: StreamStatus });

export type EventKind = KnownEvent["kind"];

export type ParsedEvent =
  | { readonly ok: true; readonly event: KnownEvent }
  /** An event of another kind: acknowledged and counted. */
  | { readonly ok: true; readonly event: undefined }
  | { readonly ok: false; readonly why: string };

/** Reads the payload of one event. Members that are not understood are ignored (SSF 1.0, section 4.2.3). */
export function parseEvent(type: string, value: unknown): ParsedEvent {
  const read = READERS.get(type);
  if (read === undefined) return { ok: true, event: undefined };
  const payload = record(value);
  if (payload === undefined) return { ok: false, why: "an event that is no object" };
  return read(payload);
}

type Payload = Readonly<Record<string, unknown>>;

const READERS: ReadonlyMap<string, (payload: Payload) => ParsedEvent> = new Map([
  [SESSION_REVOKED, (payload) => known({ kind: "session-revoked", ...common(payload) })],
  [CREDENTIAL_CHANGE, credentialChange],
  [DEVICE_COMPLIANCE_CHANGE, complianceChange],
  [RISK_LEVEL_CHANGE, riskChange],
  [VERIFICATION, verification],
  [STREAM_UPDATED, streamUpdated],
]);

function credentialChange(payload: Payload): ParsedEvent {
  const credentialType = text(payload.credential_type, REASON_CHARS_MAX);
  const changeType = payload.change_type;
  if (credentialType === undefined) return refuse("credential-change without credential_type");
  if (!(changeType === "create" || changeType === "revoke" || changeType === "update" || changeType === "delete")) {
    return refuse("credential-change without a known change_type");
  }
  const x509Serial = serialOf(payload.x509_serial);
  return known({ kind: "credential-change", credentialType, changeType, x509Serial, ...common(payload) });
}

function complianceChange(payload: Payload): ParsedEvent {
  const status = payload.current_status;
  if (status !== "compliant" && status !== "not-compliant") {
    return refuse("device-compliance-change without a known current_status");
  }
  return known({ kind: "device-compliance-change", compliant: status === "compliant", ...common(payload) });
}

function riskChange(payload: Payload): ParsedEvent {
  const level = payload.current_level;
  if (level !== "LOW" && level !== "MEDIUM" && level !== "HIGH") {
    return refuse("risk-level-change without a known current_level");
  }
  const reason = text(payload.risk_reason, REASON_CHARS_MAX);
  const rest = common(payload);
  const about = text(payload.principal, 64);
  return known({ kind: "risk-level-change", level, about, ...rest, reason: rest.reason ?? reason });
}

function verification(payload: Payload): ParsedEvent {
  const state = text(payload.state, STATE_CHARS_MAX);
  if (payload.state !== undefined && state === undefined) return refuse("verification with an unusable state");
  return known({ kind: "verification", state, ...common(payload) });
}

function streamUpdated(payload: Payload): ParsedEvent {
  const status = payload.status;
  if (status !== "enabled" && status !== "paused" && status !== "disabled") {
    return refuse("stream-updated without a known status");
  }
  const rest = common(payload);
  return known({
    kind: "stream-updated",
    status,
    ...rest,
    reason: rest.reason ?? text(payload.reason, REASON_CHARS_MAX),
  });
}

function common(payload: Payload): Common {
  return {
    happenedAtMs: seconds(payload.event_timestamp),
    reason: reasonOf(payload.reason_admin),
    legacySubject: payload.subject,
  };
}

/** English where there is some, else the first; drafts of before CAEP 1.0 had a plain text. */
function reasonOf(value: unknown): string | undefined {
  const plain = text(value, REASON_CHARS_MAX);
  if (plain !== undefined) return plain;
  const languages = record(value);
  if (languages === undefined) return undefined;
  return text(languages.en, REASON_CHARS_MAX) ?? text(Object.values(languages)[0], REASON_CHARS_MAX);
}

/** Serial numbers are written in many ways; certificates' facts hold them as whole bytes of lower-case hex. */
function serialOf(value: unknown): string | undefined {
  const digits = text(value, 128)
    ?.toLowerCase()
    .replace(/^0x/, "")
    .replace(/[:\s-]/g, "");
  if (digits === undefined || !/^[0-9a-f]{1,64}$/.test(digits)) return undefined;
  const significant = digits.replace(/^0+(?=.)/, "");
  return significant.length % 2 === 0 ? significant : `0${significant}`;
}

export function seconds(value: unknown): number | undefined {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0 || value > SECONDS_MAX) return undefined;
  return value * 1_000;
}

function known(event: KnownEvent): ParsedEvent {
  return { ok: true, event };
}

function refuse(why: string): ParsedEvent {
  return { ok: false, why };
}
