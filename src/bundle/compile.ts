/** Turns a policy document and the files that it names into the policy that the line reads. */

import type { Duration, Timestamp } from "@bufbuild/protobuf/wkt";
import {
  type Challenge,
  FixedDecision,
  type Lock as LockText,
  Mode as ModeText,
  type Posture,
  type Rule as RuleText,
  SignalMode,
  type SignalRule,
  StreamHold,
  type Thresholds as ThresholdsText,
} from "../gen/sallyport/policy/v1/policy_pb.ts";
import type {
  ChallengePolicy,
  Lock,
  LockScope,
  Policy,
  PosturePolicy,
  Rule,
  SignalPolicy,
  Thresholds,
} from "../model/policy.ts";
import type { Mode } from "../model/verdict.ts";
import { SIGNALS } from "../signals/catalog.ts";
import { compileAddresses, compileFingerprints, compileGeo, compilePostureFacts } from "./compile-data.ts";
import { compileIdentity } from "./compile-identity.ts";
import * as defaults from "./defaults.ts";
import { type FileContents, Files } from "./files.ts";
import { compileGlob } from "./globs.ts";
import type { Networks } from "./networks.ts";
import type { PolicyDocument } from "./parse.ts";
import type { Problem } from "./problem.ts";

export type CompileResult =
  | { readonly ok: true; readonly policy: Policy }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/**
 * Compiles a document.
 *
 * @param contents the files that it names (see `namedFiles`), by name
 * @param revision counts where the document states none
 * @param networks the shipped table of autonomous systems, for policies that name no other
 * @returns all problems with the files when there are any
 */
export function compilePolicy(
  document: PolicyDocument,
  contents: FileContents,
  revision: string,
  networks?: Networks,
): CompileResult {
  const { metadata, spec } = document.policy;
  const files = new Files(document.source, contents);
  const policy: Policy = {
    name: metadata?.name ?? "",
    revision: metadata?.revision || revision,
    mode: modeOf(spec?.mode) ?? "enforce",
    thresholds: { ...defaults.THRESHOLDS, ...thresholdsOf(spec?.thresholds) },
    rules: (spec?.rules ?? []).map(compileRule),
    signal: compileSignals(spec?.signals ?? {}),
    identity: compileIdentity(spec?.identity, files),
    challenge: compileChallenge(spec?.challenge),
    posture: compilePosture(spec?.posture),
    response: {
      revealReasons: spec?.response?.revealReasons ?? false,
      upstreamHeaders: spec?.response?.upstreamHeaders ?? true,
    },
    addresses: compileAddresses(spec?.lists?.addresses ?? [], files),
    fingerprints: compileFingerprints(spec?.lists?.fingerprints ?? [], files),
    geo: compileGeo(spec?.geo, files, networks),
    locks: (spec?.locks ?? []).map(compileLock),
    postureFacts: compilePostureFacts(spec?.posture, files),
    streams: {
      hold: spec?.streams?.hold === StreamHold.NONE ? "none" : "long",
      endWithCredential: spec?.streams?.endWithCredential ?? true,
      endOnChallenge: spec?.streams?.endOnChallenge ?? false,
    },
    autoLockMs: msOf(spec?.autoLock) ?? defaults.AUTO_LOCK_MS,
  };
  return files.problems.length > 0 ? { ok: false, problems: files.problems } : { ok: true, policy };
}

function modeOf(mode: ModeText | undefined): Mode | undefined {
  if (mode === ModeText.ENFORCE) return "enforce";
  return mode === ModeText.OBSERVE ? "observe" : undefined;
}

/** Those that are given, and no others. */
function thresholdsOf(given: ThresholdsText | undefined): Partial<Thresholds> {
  return {
    ...(given?.challenge === undefined ? {} : { challenge: given.challenge }),
    ...(given?.deny === undefined ? {} : { deny: given.deny }),
    ...(given?.terminate === undefined ? {} : { terminate: given.terminate }),
  };
}

function compileRule(rule: RuleText): Rule {
  return {
    name: rule.name,
    match: {
      destinations: (rule.match?.destinations ?? []).map((glob) => compileGlob(glob.toLowerCase())),
      routes: (rule.match?.routes ?? []).map(compileGlob),
      methods: (rule.match?.methods ?? []).map((method) => method.toUpperCase()),
      principals: (rule.match?.principals ?? []).map(compileGlob),
    },
    mode: modeOf(rule.mode),
    thresholds: rule.thresholds === undefined ? undefined : thresholdsOf(rule.thresholds),
    decision: decisionOf(rule.decision),
    watch: rule.watch,
  };
}

function decisionOf(decision: FixedDecision): Rule["decision"] {
  switch (decision) {
    case FixedDecision.ALLOW:
      return "allow";
    case FixedDecision.CHALLENGE:
      return "challenge";
    case FixedDecision.DENY:
      return "deny";
    default:
      return undefined;
  }
}

/** Each part of a signal's entry wins over its family's, and that over the catalogue's. */
function compileSignals(rules: Readonly<Record<string, SignalRule>>): Policy["signal"] {
  const compiled = new Map<string, SignalPolicy>();
  for (const { name, capBits } of SIGNALS) {
    const own = rules[name];
    const family = rules[name.slice(0, name.indexOf("."))];
    if (own === undefined && family === undefined) continue;
    const mode = own?.mode || family?.mode || SignalMode.ENFORCE;
    compiled.set(name, { mode: signalModeOf(mode), capBits: own?.capBits ?? family?.capBits ?? capBits });
  }
  return (name) => compiled.get(name);
}

function signalModeOf(mode: SignalMode): SignalPolicy["mode"] {
  if (mode === SignalMode.OFF) return "off";
  return mode === SignalMode.OBSERVE ? "observe" : "enforce";
}

function compileChallenge(challenge: Challenge | undefined): ChallengePolicy {
  const maxAgeMs = msOf(challenge?.maxAge);
  return {
    triesMax: challenge?.triesMax ?? defaults.CHALLENGE_TRIES_MAX,
    ttlMs: msOf(challenge?.ttl) ?? defaults.CHALLENGE_TTL_MS,
    dischargeMs: msOf(challenge?.discharge) ?? defaults.CHALLENGE_DISCHARGE_MS,
    acrValues: challenge?.acrValues ?? [],
    maxAgeSeconds: maxAgeMs === undefined ? undefined : Math.floor(maxAgeMs / 1_000),
  };
}

function compilePosture(posture: Posture | undefined): PosturePolicy {
  return {
    maxAgeMs: msOf(posture?.maxAge) ?? defaults.POSTURE_MAX_AGE_MS,
    missingBits: posture?.missingBits ?? defaults.POSTURE_MISSING_BITS,
    staleBits: posture?.staleBits ?? defaults.POSTURE_STALE_BITS,
    required: (posture?.required ?? []).map(compileGlob),
    forbid: (posture?.forbid ?? []).map((condition) => ({
      name: condition.name,
      fact: condition.fact,
      operator: condition.in.length > 0 ? "in" : "not_in",
      values: condition.in.length > 0 ? condition.in : condition.notIn,
    })),
  };
}

function compileLock(lock: LockText): Lock {
  const { scope } = lock;
  return {
    id: lock.id,
    scope: {
      ...given("principal", scope?.principal),
      ...given("credential", scope?.credential),
      ...given("certificate", scope?.certificate.toLowerCase()),
      ...given("fingerprint", scope?.fingerprint),
      ...given("address", scope?.address),
      ...given("destination", scope?.destination.toLowerCase()),
    },
    reason: lock.reason,
    setBy: "policy",
    setAtMs: 0,
    expiresAtMs: momentOf(lock.expires),
  };
}

function given(part: keyof LockScope, value: string | undefined): LockScope {
  return value === undefined || value === "" ? {} : { [part]: value };
}

function msOf(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : Number(duration.seconds) * 1_000 + duration.nanos / 1_000_000;
}

function momentOf(moment: Timestamp | undefined): number | undefined {
  return moment === undefined ? undefined : Number(moment.seconds) * 1_000 + moment.nanos / 1_000_000;
}
