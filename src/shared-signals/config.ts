/** Reads the file of shared signals: YAML of its schema, checked as a whole, every problem at once, defaults filled in. */

import { decode } from "../bundle/decode.ts";
import { ALGORITHMS } from "../bundle/defaults.ts";
import { checkForm } from "../bundle/forms.ts";
import { compileGlob } from "../bundle/globs.ts";
import type { Problem } from "../bundle/problem.ts";
import type { Source as Places } from "../bundle/source.ts";
import { parseTree } from "../bundle/tree.ts";
import { reportViolations } from "../bundle/violations.ts";
import { Form } from "../gen/sallyport/policy/v1/options_pb.ts";
import {
  CredentialLock,
  DefaultSubjects,
  type SharedSignalsConfig as File,
  type Management,
  type Mapping,
  type Poll,
  type Receiver,
  RiskLevel,
  SharedSignalsConfigSchema,
  type Source,
  type Transmit,
} from "../gen/sallyport/sharedsignals/v1/config_pb.ts";
import { DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS } from "../model/units.ts";
import type { Risk } from "./events.ts";
import type { SourceMapping, SourceScope } from "./mapping.ts";

export interface SharedSignalsConfig {
  readonly receive: readonly SourceConfig[];
  readonly transmit: TransmitConfig | undefined;
}

/** A transmitter that is heard. */
export interface SourceConfig {
  readonly name: string;
  readonly issuer: string;
  readonly audiences: readonly string[];
  /** `undefined`: where the transmitter's own configuration says. */
  readonly keys:
    | { readonly kind: "file"; readonly file: string }
    | { readonly kind: "url"; readonly url: string }
    | { readonly kind: "inline"; readonly jwks: string }
    | undefined;
  readonly algorithms: readonly string[];
  readonly clockToleranceMs: number;
  readonly maxAgeMs: number;
  readonly push: { readonly tokenHashes: readonly Uint8Array[]; readonly ratePerSecond: number } | undefined;
  readonly poll: PollConfig | undefined;
  readonly manage: ManageConfig | undefined;
  readonly scope: SourceScope;
  readonly locksMax: number;
  readonly mapping: SourceMapping;
}

export interface PollConfig {
  /** `undefined`: what the transmitter says when the stream is set up. */
  readonly endpoint: string | undefined;
  /** File with the bearer token; `undefined`: that of the stream management, or none. */
  readonly tokenFile: string | undefined;
  readonly maxEvents: number;
  readonly timeoutMs: number;
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
}

export interface ManageConfig {
  readonly tokenFile: string;
  readonly push: { readonly url: string; readonly tokenFile: string } | undefined;
  readonly verifyEveryMs: number;
}

/** Where our own events go. */
export interface TransmitConfig {
  readonly issuer: string;
  readonly keyFiles: readonly string[];
  readonly receivers: readonly ReceiverConfig[];
  readonly eventsMax: number;
  readonly keepMs: number;
  readonly timeoutMs: number;
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
  readonly longPollMs: number;
}

export interface ReceiverConfig {
  readonly name: string;
  readonly tokenHashes: readonly Uint8Array[];
  readonly audience: readonly string[];
  readonly pushUrls: readonly string[];
  /** `undefined`: all. */
  readonly principals: readonly RegExp[] | undefined;
  readonly streamsMax: number;
  readonly defaultSubjects: "ALL" | "NONE";
  readonly verifyEveryMinMs: number;
}

export type ReadSharedSignals =
  | { readonly ok: true; readonly config: SharedSignalsConfig }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/**
 * Reads the text of a file of shared signals.
 *
 * @param file its name, for messages
 * @returns all problems, in the order of the text, when there are any
 */
export function readSharedSignals(text: string, file: string): ReadSharedSignals {
  const parsed = parseTree(text, file);
  if (!parsed.ok) return parsed;
  const { tree, source } = parsed;
  const message = decode(SharedSignalsConfigSchema, tree, source);
  reportViolations(SharedSignalsConfigSchema, message, source);
  crossCheck(message, source);
  if (source.problems.length > 0) {
    const problems = source.problems.toSorted(
      (a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0),
    );
    return { ok: false, problems };
  }
  const transmit = message.transmit === undefined ? undefined : transmitOf(message.transmit);
  return { ok: true, config: { receive: message.receive.map(sourceOf), transmit } };
}

function crossCheck(file: File, places: Places): void {
  unique(
    file.receive.map(({ name }) => name),
    "receive",
    places,
  );
  for (const [index, source] of file.receive.entries()) checkSource(source, `receive[${index}]`, places);
  const { transmit } = file;
  if (transmit === undefined) return;
  if (/[?#]/.test(transmit.issuer)) places.report("transmit.issuer", "a URL without query or fragment");
  unique(
    transmit.receivers.map(({ name }) => name),
    "transmit.receivers",
    places,
  );
  const tokens = new Set<string>();
  for (const [index, receiver] of transmit.receivers.entries()) {
    for (const [at, token] of receiver.tokenSha256.entries()) {
      const path = `transmit.receivers[${index}].tokenSha256[${at}]`;
      if (tokens.has(token)) places.report(path, "a token of this receiver alone", "that of an earlier receiver");
      tokens.add(token);
    }
  }
}

function unique(names: readonly string[], path: string, places: Places): void {
  const seen = new Set<string>();
  for (const [index, name] of names.entries()) {
    if (name !== "" && seen.has(name)) places.report(`${path}[${index}].name`, "a name unlike every other");
    seen.add(name);
  }
}

function checkSource(source: Source, path: string, places: Places): void {
  const { push, poll, manage } = source;
  if (push === undefined && poll === undefined && !places.isFaulty(path)) {
    places.report(path, "push or poll", "neither");
  }
  if (push !== undefined && poll !== undefined) places.report(path, "either push or poll", "both");
  if (source.keys === undefined || manage !== undefined) {
    // What is discovered comes from where the issuer says that it is.
    const fault = source.issuer === "" ? undefined : checkForm(Form.URL, source.issuer);
    if (fault !== undefined) places.report(`${path}.issuer`, `${fault.expected}, or keys and no manage`, fault.got);
  }
  if (poll !== undefined && poll.endpoint === "" && manage === undefined) {
    places.report(`${path}.poll`, "an endpoint, or manage beside it", "neither");
  }
  if (poll !== undefined && manage !== undefined && manage.pushUrl !== "") {
    places.report(`${path}.manage.pushUrl`, "no URL where the stream is polled");
  }
  if (push !== undefined && manage !== undefined && (manage.pushUrl === "" || manage.pushTokenFile === "")) {
    places.report(`${path}.manage`, "pushUrl and pushTokenFile where the stream is pushed", "less");
  }
}

function sourceOf(source: Source): SourceConfig {
  const { scope, keys } = source;
  const issuers = new Set([source.issuer, ...(scope?.issuers ?? [])]);
  return {
    name: source.name,
    issuer: source.issuer,
    audiences: source.audiences,
    keys: keysOf(keys?.source),
    algorithms: source.algorithms.length > 0 ? source.algorithms : ALGORITHMS,
    clockToleranceMs: ms(source.clockTolerance) ?? MINUTE_MS,
    maxAgeMs: ms(source.maxAge) ?? 7 * DAY_MS,
    push:
      source.push === undefined
        ? undefined
        : {
            tokenHashes: source.push.tokenSha256.map((hex) => Buffer.from(hex, "hex")),
            ratePerSecond: source.push.ratePerSecond ?? 20,
          },
    poll: source.poll === undefined ? undefined : pollOf(source.poll),
    manage: source.manage === undefined ? undefined : manageOf(source.manage),
    scope: {
      principals: (scope?.principals ?? []).map(compileGlob),
      issuers,
      tenants: scope === undefined || scope.tenants.length === 0 ? undefined : new Set(scope.tenants),
      opaqueIssuer: filled(scope?.opaqueIssuer),
      criticalMembers: new Set(scope?.criticalMembers ?? []),
    },
    locksMax: scope?.locksMax ?? 1_000,
    mapping: mappingOf(source.events),
  };
}

function keysOf(place: NonNullable<Source["keys"]>["source"] | undefined): SourceConfig["keys"] {
  switch (place?.case) {
    case "file":
      return { kind: "file", file: place.value };
    case "url":
      return { kind: "url", url: place.value };
    case "inline":
      return { kind: "inline", jwks: place.value };
    default:
      return undefined;
  }
}

function pollOf(poll: Poll): PollConfig {
  const retryMinMs = ms(poll.retryMin) ?? SECOND_MS;
  return {
    endpoint: filled(poll.endpoint),
    tokenFile: filled(poll.tokenFile),
    maxEvents: poll.maxEvents ?? 50,
    timeoutMs: ms(poll.timeout) ?? 90 * SECOND_MS,
    retryMinMs,
    retryMaxMs: Math.max(retryMinMs, ms(poll.retryMax) ?? 5 * MINUTE_MS),
  };
}

function manageOf(manage: Management): ManageConfig {
  return {
    tokenFile: manage.tokenFile,
    push: manage.pushUrl === "" ? undefined : { url: manage.pushUrl, tokenFile: manage.pushTokenFile },
    verifyEveryMs: ms(manage.verifyEvery) ?? HOUR_MS,
  };
}

function mappingOf(mapping: Mapping | undefined): SourceMapping {
  const { sessionRevoked, credentialChange, deviceComplianceChange, riskLevelChange } = mapping ?? {};
  return {
    sessionRevoked: {
      lock: sessionRevoked?.lock ?? true,
      durationMs: ms(sessionRevoked?.duration) ?? 15 * MINUTE_MS,
    },
    credentialChange: {
      lock: credentialLockOf(credentialChange?.lock),
      durationMs: ms(credentialChange?.duration) ?? DAY_MS,
    },
    deviceComplianceChange: {
      posture: deviceComplianceChange?.posture ?? true,
      lock: deviceComplianceChange?.lock ?? false,
      durationMs: ms(deviceComplianceChange?.duration) ?? DAY_MS,
    },
    riskLevelChange: {
      posture: riskLevelChange?.posture ?? true,
      lockFrom: riskOf(riskLevelChange?.lockFrom),
      durationMs: ms(riskLevelChange?.duration) ?? HOUR_MS,
    },
  };
}

function credentialLockOf(lock: CredentialLock | undefined): "none" | "named" | "principal" {
  if (lock === CredentialLock.NONE) return "none";
  return lock === CredentialLock.PRINCIPAL ? "principal" : "named";
}

function riskOf(level: RiskLevel | undefined): Risk | undefined {
  if (level === RiskLevel.MEDIUM) return "MEDIUM";
  return level === RiskLevel.HIGH ? "HIGH" : undefined;
}

function transmitOf(transmit: Transmit): TransmitConfig {
  const retryMinMs = ms(transmit.retryMin) ?? SECOND_MS;
  return {
    issuer: transmit.issuer,
    keyFiles: transmit.keys,
    receivers: transmit.receivers.map(receiverOf),
    eventsMax: transmit.eventsMax ?? 10_000,
    keepMs: ms(transmit.keep) ?? 7 * DAY_MS,
    timeoutMs: ms(transmit.timeout) ?? 10 * SECOND_MS,
    retryMinMs,
    retryMaxMs: Math.max(retryMinMs, ms(transmit.retryMax) ?? 5 * MINUTE_MS),
    longPollMs: ms(transmit.longPoll) ?? 30 * SECOND_MS,
  };
}

function receiverOf(receiver: Receiver): ReceiverConfig {
  return {
    name: receiver.name,
    tokenHashes: receiver.tokenSha256.map((hex) => Buffer.from(hex, "hex")),
    audience: receiver.audience,
    pushUrls: receiver.pushUrls,
    principals: receiver.principals.length === 0 ? undefined : receiver.principals.map(compileGlob),
    streamsMax: receiver.streamsMax ?? 1,
    defaultSubjects: receiver.defaultSubjects === DefaultSubjects.NONE ? "NONE" : "ALL",
    verifyEveryMinMs: ms(receiver.verifyEveryMin) ?? 30 * SECOND_MS,
  };
}

function ms(duration: { readonly seconds: bigint; readonly nanos: number } | undefined): number | undefined {
  return duration === undefined ? undefined : Number(duration.seconds) * 1_000 + duration.nanos / 1_000_000;
}

function filled(text: string | undefined): string | undefined {
  return text === undefined || text === "" ? undefined : text;
}
