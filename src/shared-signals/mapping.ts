/** Turns the events of a verified token into what is to be done, within what its transmitter may speak of. */

import { createHash } from "node:crypto";
import { tokenId } from "../identity/jwt-claims.ts";
import type { EventKind, KnownEvent, Risk } from "./events.ts";
import type { ParsedSet, SubjectEvent } from "./set.ts";
import type { SimpleSubject, Subject } from "./subjects.ts";

/** Where an action comes from, for logs and audits. */
export interface ActionCause {
  /** The transmitter's name in the configuration. */
  readonly transmitter: string;
  readonly issuer: string;
  readonly jti: string;
  readonly txn: string | undefined;
  readonly event: EventKind;
}

/** What is locked: all parts together. At least one is set. */
export interface SharedSignalScope {
  /** SPIFFE ID, or `issuer|subject`. */
  readonly principal?: string;
  /** `token:` and the keyed hash of issuer and `jti`. */
  readonly credential?: string;
  /** Serial number of a certificate, lower-case hex. */
  readonly certificate?: string;
}

/** What is to be done. Doing the same action again changes nothing. */
export type SharedSignalAction =
  | {
      readonly kind: "lock";
      /** The same for the same transmitter, kind of event and scope: a later lock takes an earlier one's place. */
      readonly id: string;
      readonly scope: SharedSignalScope;
      readonly reason: string;
      /** `shared-signals:NAME`. */
      readonly setBy: string;
      readonly setAtMs: number;
      readonly expiresAtMs: number;
      readonly cause: ActionCause;
    }
  /** Takes back a lock that this very transmitter set for this kind of event; there may be none. */
  | { readonly kind: "unlock"; readonly id: string; readonly cause: ActionCause }
  /** States facts on a workload; facts of other names stay as they are. */
  | {
      readonly kind: "posture";
      /** SPIFFE ID, or `issuer|subject`. */
      readonly subject: string;
      readonly facts: Readonly<Record<string, string>>;
      /** `shared-signals:NAME`. */
      readonly source: string;
      readonly reportedAtMs: number;
      readonly cause: ActionCause;
    };

/** Why an event, or a name in it, led to nothing. A fixed set, for counting. */
export type IgnoredWhy =
  | "unknown_event"
  | "person"
  | "unsupported_subject"
  | "out_of_scope"
  | "other_tenant"
  | "critical_member"
  | "not_mapped"
  | "out_of_order";

/** What a transmitter may speak of. */
export interface SourceScope {
  readonly principals: readonly RegExp[];
  /** Issuers of whose subjects and tokens it may speak, itself among them. */
  readonly issuers: ReadonlySet<string>;
  /** `undefined`: any. */
  readonly tenants: ReadonlySet<string> | undefined;
  readonly opaqueIssuer: string | undefined;
  readonly criticalMembers: ReadonlySet<string>;
}

/** What events do. */
export interface SourceMapping {
  readonly sessionRevoked: { readonly lock: boolean; readonly durationMs: number };
  readonly credentialChange: { readonly lock: "none" | "named" | "principal"; readonly durationMs: number };
  readonly deviceComplianceChange: { readonly posture: boolean; readonly lock: boolean; readonly durationMs: number };
  readonly riskLevelChange: {
    readonly posture: boolean;
    readonly lockFrom: Risk | undefined;
    readonly durationMs: number;
  };
}

export interface MappingOptions {
  readonly transmitter: string;
  readonly scope: SourceScope;
  readonly mapping: SourceMapping;
  /** The key of credential hashes, where the whole fleet shares it; without it no token can be named. */
  readonly credentialKey: Uint8Array | undefined;
  readonly nowMs: number;
}

/** One thing to do, and the matter whose order counts: later statements on it win, whenever they arrive. */
export interface Planned {
  readonly action: SharedSignalAction;
  /** `undefined`: the order does not matter. */
  readonly matter: { readonly key: string; readonly atMs: number } | undefined;
}

export interface Mapped {
  readonly planned: readonly Planned[];
  readonly ignored: readonly IgnoredWhy[];
}

/** Members of a complex subject that name a caller, in the order in which they are believed to be the one meant. */
const CALLERS = ["application", "workload", "user", "device"] as const;
const DEVICES = ["device", ...CALLERS] as const;
/** Members that CALLERS and the scope understand; others cannot be critical. */
const UNDERSTOOD: ReadonlySet<string> = new Set([...CALLERS, "session", "tenant"]);

/** Everything that a verified token asks for. */
export function mapSet(set: ParsedSet, options: MappingOptions): Mapped {
  const planned: Planned[] = [];
  const ignored: IgnoredWhy[] = Array.from({ length: set.unknownEvents }, () => "unknown_event");
  for (const one of set.events) {
    if (one.event.kind === "verification" || one.event.kind === "stream-updated") continue;
    const named = nameSubject(one, options);
    ignored.push(...named.ignored);
    const before = planned.length;
    for (const target of named.targets) planned.push(...plan(one.event, target, set, options));
    if (planned.length === before && named.ignored.length === 0) ignored.push("not_mapped");
  }
  return { planned, ignored };
}

/** What one subject, or one of its aliases, names here. */
interface Target {
  readonly principal: string | undefined;
  readonly credential: string | undefined;
}

interface Named {
  readonly targets: readonly Target[];
  readonly ignored: readonly IgnoredWhy[];
}

function nameSubject({ event, subject }: SubjectEvent, options: MappingOptions): Named {
  if (subject.kind !== "complex") return nameEach(subject, options);
  const { scope } = options;
  for (const name of subject.members.keys()) {
    // SSF 1.0, section 3.6: an event with a critical member that is not understood is to be discarded.
    if (scope.criticalMembers.has(name) && !UNDERSTOOD.has(name)) return { targets: [], ignored: ["critical_member"] };
  }
  const tenant = subject.members.get("tenant");
  if (tenant !== undefined && scope.tenants !== undefined && !isTenant(tenant, scope.tenants)) {
    return { targets: [], ignored: ["other_tenant"] };
  }
  const ignored: IgnoredWhy[] = [];
  const session = subject.members.get("session");
  const sessions = session === undefined ? [] : nameEach(session, options).targets;
  const credential = sessions.find((target) => target.credential !== undefined)?.credential;
  for (const name of event.kind === "device-compliance-change" || isAboutDevice(event) ? DEVICES : CALLERS) {
    const member = subject.members.get(name);
    if (member === undefined) continue;
    const named = nameEach(member, options);
    if (named.targets.length > 0) {
      return { targets: named.targets.map(({ principal }) => ({ principal, credential })), ignored: [] };
    }
    ignored.push(...named.ignored);
  }
  if (credential !== undefined) return { targets: [{ principal: undefined, credential }], ignored: [] };
  return { targets: [], ignored: ignored.length > 0 ? ignored.slice(0, 1) : ["unsupported_subject"] };
}

function isAboutDevice(event: KnownEvent): boolean {
  return event.kind === "risk-level-change" && event.about?.toUpperCase() === "DEVICE";
}

function isTenant(subject: Subject, tenants: ReadonlySet<string>): boolean {
  if (subject.kind === "opaque") return tenants.has(subject.id);
  if (subject.kind === "iss_sub") return tenants.has(subject.sub);
  return subject.kind === "aliases" && subject.identifiers.some((one) => isTenant(one, tenants));
}

/** Aliases may each be the name that is known here. */
function nameEach(subject: Exclude<Subject, { kind: "complex" }>, options: MappingOptions): Named {
  const all = subject.kind === "aliases" ? subject.identifiers : [subject];
  const targets = new Map<string, Target>();
  let ignored: IgnoredWhy | undefined;
  for (const one of all) {
    const found = nameOne(one, options);
    if (typeof found === "string") ignored ??= found;
    else targets.set(`${found.principal ?? ""}\n${found.credential ?? ""}`, found);
  }
  // Of a subject with one name that is known here it does not matter what else it is called.
  return { targets: [...targets.values()], ignored: targets.size > 0 || ignored === undefined ? [] : [ignored] };
}

function nameOne(subject: SimpleSubject, { scope, credentialKey }: MappingOptions): Target | IgnoredWhy {
  switch (subject.kind) {
    case "spiffe":
      return scoped(subject.id, undefined, scope);
    case "iss_sub":
      return scoped(`${subject.iss}|${subject.sub}`, subject.iss, scope);
    case "opaque":
      if (scope.opaqueIssuer === undefined) return "unsupported_subject";
      return scoped(`${scope.opaqueIssuer}|${subject.id}`, scope.opaqueIssuer, scope);
    case "jwt_id":
      if (!scope.issuers.has(subject.iss)) return "out_of_scope";
      if (credentialKey === undefined) return "unsupported_subject";
      return { principal: undefined, credential: tokenId(credentialKey, subject.iss, subject.jti, "") };
    case "person":
      return "person";
    case "unsupported":
      return "unsupported_subject";
  }
}

function scoped(principal: string, issuer: string | undefined, scope: SourceScope): Target | IgnoredWhy {
  const own = issuer !== undefined && scope.issuers.has(issuer);
  if (!own && !scope.principals.some((pattern) => pattern.test(principal))) return "out_of_scope";
  return { principal, credential: undefined };
}

function plan(event: KnownEvent, target: Target, set: ParsedSet, options: MappingOptions): readonly Planned[] {
  const { mapping } = options;
  switch (event.kind) {
    case "session-revoked":
      if (!mapping.sessionRevoked.lock) return [];
      return [lock(event, scopeOf(target), mapping.sessionRevoked.durationMs, set, options)];
    case "credential-change":
      return planCredential(event, target, set, options);
    case "device-compliance-change": {
      const { posture, lock: locks, durationMs } = mapping.deviceComplianceChange;
      const facts = posture ? state(event, target, { compliant: String(event.compliant) }, set, options) : [];
      if (!locks) return facts;
      const change = event.compliant ? unlock : lock;
      return [...facts, change(event, scopeOf(target), durationMs, set, options)];
    }
    case "risk-level-change": {
      const { posture, lockFrom, durationMs } = mapping.riskLevelChange;
      const facts = posture ? state(event, target, { risk_level: event.level }, set, options) : [];
      if (lockFrom === undefined) return facts;
      const change = RISKS.indexOf(event.level) >= RISKS.indexOf(lockFrom) ? lock : unlock;
      return [...facts, change(event, scopeOf(target), durationMs, set, options)];
    }
    case "verification":
    case "stream-updated":
      return [];
  }
}

const RISKS: readonly Risk[] = ["LOW", "MEDIUM", "HIGH"];

function planCredential(
  event: KnownEvent & { readonly kind: "credential-change" },
  target: Target,
  set: ParsedSet,
  options: MappingOptions,
): readonly Planned[] {
  const { lock: what, durationMs } = options.mapping.credentialChange;
  if (what === "none" || event.changeType === "create" || event.changeType === "update") return [];
  // Serial numbers of different authorities may be the same: alone they name no certificate.
  if (event.x509Serial !== undefined && target.principal !== undefined) {
    const scope = { principal: target.principal, certificate: event.x509Serial };
    return [lock(event, scope, durationMs, set, options)];
  }
  if (target.credential === undefined && what !== "principal") return [];
  return [lock(event, scopeOf(target), durationMs, set, options)];
}

function scopeOf({ principal, credential }: Target): SharedSignalScope {
  return { ...(principal === undefined ? {} : { principal }), ...(credential === undefined ? {} : { credential }) };
}

function lock(
  event: KnownEvent,
  scope: SharedSignalScope,
  durationMs: number,
  set: ParsedSet,
  options: MappingOptions,
): Planned {
  const { transmitter, nowMs } = options;
  const id = lockId(transmitter, event.kind, scope);
  const reason = `${event.kind} by ${transmitter}${event.reason === undefined ? "" : `: ${event.reason}`}`;
  return {
    action: {
      kind: "lock",
      id,
      scope,
      reason,
      setBy: `shared-signals:${transmitter}`,
      setAtMs: nowMs,
      expiresAtMs: nowMs + durationMs,
      cause: causeOf(event, set, options),
    },
    matter: CHANGEABLE.has(event.kind) ? { key: id, atMs: timeOf(event, set) } : undefined,
  };
}

function unlock(
  event: KnownEvent,
  scope: SharedSignalScope,
  _durationMs: number,
  set: ParsedSet,
  options: MappingOptions,
): Planned {
  const id = lockId(options.transmitter, event.kind, scope);
  return {
    action: { kind: "unlock", id, cause: causeOf(event, set, options) },
    matter: { key: id, atMs: timeOf(event, set) },
  };
}

/** Of these a later event takes back what an earlier one said. */
const CHANGEABLE: ReadonlySet<EventKind> = new Set(["device-compliance-change", "risk-level-change"]);

function state(
  event: KnownEvent,
  target: Target,
  facts: Readonly<Record<string, string>>,
  set: ParsedSet,
  options: MappingOptions,
): readonly Planned[] {
  if (target.principal === undefined) return [];
  const atMs = timeOf(event, set);
  return [
    {
      action: {
        kind: "posture",
        subject: target.principal,
        facts,
        source: `shared-signals:${options.transmitter}`,
        reportedAtMs: atMs,
        cause: causeOf(event, set, options),
      },
      matter: { key: digest(["posture", event.kind, target.principal]), atMs },
    },
  ];
}

/** A time after the token was issued would outrank all that is still to come. */
function timeOf(event: KnownEvent, set: ParsedSet): number {
  return Math.min(event.happenedAtMs ?? set.issuedAtMs, set.issuedAtMs);
}

function causeOf(event: KnownEvent, set: ParsedSet, { transmitter }: MappingOptions): ActionCause {
  return { transmitter, issuer: set.issuer, jti: set.jti, txn: set.txn, event: event.kind };
}

/** Made of the transmitter's name: nobody else's lock can have it. */
export function lockId(transmitter: string, kind: EventKind, scope: SharedSignalScope): string {
  return `ssf-${digest([transmitter, kind, scope.principal ?? "", scope.credential ?? "", scope.certificate ?? ""])}`;
}

function digest(parts: readonly string[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
}
