/** Compiles rules: what differs for which requests. */

import type { Duration } from "@bufbuild/protobuf/wkt";
import {
  type Challenge,
  FixedDecision,
  Mode as ModeText,
  type Rule as RuleText,
  SignalMode,
  type SignalRule,
  type Spec,
  type Thresholds as ThresholdsText,
} from "../gen/sallyport/policy/v1/policy_pb.ts";
import type { ChallengePolicy, Policy, Rule, SignalPolicy, Thresholds } from "../model/policy.ts";
import type { Mode } from "../model/verdict.ts";
import { SIGNALS } from "../signals/catalog.ts";
import * as defaults from "./defaults.ts";
import { compileGlob } from "./globs.ts";

/** The part of a policy that rules can change, and the rules. */
export type Ruled = Pick<Policy, "mode" | "thresholds" | "rules" | "signal" | "challenge" | "response">;

/** Compiles what a checked spec says. */
export function compileRules(spec: Spec | undefined): Ruled {
  return {
    mode: modeOf(spec?.mode) ?? "enforce",
    thresholds: { ...defaults.THRESHOLDS, ...thresholdsOf(spec?.thresholds) },
    rules: (spec?.rules ?? []).map(compileRule),
    signal: compileSignals(spec?.signals ?? {}),
    challenge: compileChallenge(spec?.challenge),
    response: {
      revealReasons: spec?.response?.revealReasons ?? false,
      upstreamHeaders: spec?.response?.upstreamHeaders ?? true,
    },
  };
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

function msOf(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : Number(duration.seconds) * 1_000 + duration.nanos / 1_000_000;
}
