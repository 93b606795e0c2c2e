/** Compiles rules and peer groups: what differs for which requests. */

import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import {
  type Body,
  type Challenge,
  ChallengeKind,
  FixedDecision,
  Mode as ModeText,
  OnError,
  type Response,
  type Rule as RuleText,
  SignalMode,
  type SignalRule,
  type Spec,
  type Thresholds as ThresholdsText,
} from "../gen/sallyport/policy/v1/policy_pb.ts";
import type {
  BodyPolicy,
  ChallengePolicy,
  Condition,
  PeerGroup,
  Policy,
  ResponsePolicy,
  Rule,
  SignalPolicy,
  Thresholds,
} from "../model/policy.ts";
import type { Mode } from "../model/verdict.ts";
import { SIGNALS } from "../signals/catalog.ts";
import * as defaults from "./defaults.ts";
import { lazyGlob } from "./globs.ts";

/** The part of a policy that rules can change, and the rules. */
export type Ruled = Pick<Policy, "mode" | "thresholds" | "rules" | "peerGroups" | "signal" | "challenge" | "response">;

/**
 * Makes a condition of text that was checked; see `compileCondition`. Handed in, since what evaluates conditions is large,
 * and most policies have none.
 */
export type ConditionOf = (text: string, onError: boolean) => Condition;

/** Of policies without conditions. */
export const noConditions: ConditionOf = () => {
  throw new RangeError("a condition in a policy that has none");
};

/** Compiles what a checked spec says; cheap for ten thousand rules: patterns and conditions are planned when first asked. */
export function compileRules(spec: Spec | undefined, conditionOf: ConditionOf): Ruled {
  const challenge = compileChallenge(spec?.challenge, defaults.CHALLENGE);
  const response = compileResponse(spec?.response, defaults.RESPONSE);
  const signal = compileSignals(spec?.signals ?? {}, () => undefined);
  return {
    mode: modeOf(spec?.mode) ?? "enforce",
    thresholds: { ...defaults.THRESHOLDS, ...thresholdsOf(spec?.thresholds) },
    rules: (spec?.rules ?? []).map((rule) => compileRule(rule, { challenge, response, signal }, conditionOf)),
    peerGroups: (spec?.peerGroups ?? []).map(
      ({ name, principals }): PeerGroup => ({ name, principals: principals.map(lazyGlob) }),
    ),
    signal,
    challenge,
    response,
  };
}

function compileRule(
  rule: RuleText,
  policy: Pick<Policy, "challenge" | "response" | "signal">,
  conditionOf: ConditionOf,
): Rule {
  const decision = decisionOf(rule.decision);
  return {
    name: rule.name,
    match: {
      destinations: (rule.match?.destinations ?? []).map((glob) => lazyGlob(glob.toLowerCase())),
      routes: (rule.match?.routes ?? []).map(lazyGlob),
      methods: (rule.match?.methods ?? []).map((method) => method.toUpperCase()),
      principals: (rule.match?.principals ?? []).map(lazyGlob),
      peerGroups: rule.match?.peerGroups ?? [],
    },
    when: rule.when === "" ? undefined : conditionOf(rule.when, onErrorOf(rule.onError, decision)),
    mode: modeOf(rule.mode),
    thresholds: rule.thresholds === undefined ? undefined : thresholdsOf(rule.thresholds),
    decision,
    watch: rule.watch,
    signal: Object.keys(rule.signals).length === 0 ? undefined : compileSignals(rule.signals, policy.signal),
    challenge: rule.challenge === undefined ? undefined : compileChallenge(rule.challenge, policy.challenge),
    response: rule.response === undefined ? undefined : compileResponse(rule.response, policy.response),
  };
}

/** Whether a condition that cannot be evaluated counts as fulfilled. Fails closed unless the rule says otherwise. */
function onErrorOf(onError: OnError, decision: Rule["decision"]): boolean {
  if (onError === OnError.UNSPECIFIED) return decision !== "allow";
  return onError === OnError.MATCH;
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

/** Each part of a signal's entry wins over its family's, that over what `base` says, and that over the catalogue's. */
function compileSignals(rules: Readonly<Record<string, SignalRule>>, base: Policy["signal"]): Policy["signal"] {
  const compiled = new Map<string, SignalPolicy>();
  for (const { name, capBits } of SIGNALS) {
    const own = rules[name];
    const family = rules[name.slice(0, name.indexOf("."))];
    if (own === undefined && family === undefined) continue;
    const under = base(name);
    compiled.set(name, {
      mode: signalModeOf(own?.mode || family?.mode) ?? under?.mode ?? "enforce",
      capBits: own?.capBits ?? family?.capBits ?? under?.capBits ?? capBits,
    });
  }
  return (name) => compiled.get(name) ?? base(name);
}

function signalModeOf(mode: SignalMode | undefined): SignalPolicy["mode"] | undefined {
  switch (mode) {
    case SignalMode.ENFORCE:
      return "enforce";
    case SignalMode.OBSERVE:
      return "observe";
    case SignalMode.OFF:
      return "off";
    default:
      return undefined;
  }
}

function compileChallenge(challenge: Challenge | undefined, base: ChallengePolicy): ChallengePolicy {
  if (challenge === undefined) return base;
  const maxAgeMs = msOf(challenge.maxAge);
  return {
    kinds: challenge.kinds.length === 0 ? base.kinds : challenge.kinds.flatMap((kind) => CHALLENGE_KINDS[kind] ?? []),
    publicOrigins: challenge.publicOrigins.length === 0 ? base.publicOrigins : challenge.publicOrigins,
    triesMax: challenge.triesMax ?? base.triesMax,
    ttlMs: msOf(challenge.ttl) ?? base.ttlMs,
    dischargeMs: msOf(challenge.discharge) ?? base.dischargeMs,
    acrValues: challenge.acrValues.length === 0 ? base.acrValues : challenge.acrValues,
    maxAgeSeconds: maxAgeMs === undefined ? base.maxAgeSeconds : Math.floor(maxAgeMs / 1_000),
  };
}

const CHALLENGE_KINDS: Readonly<Record<ChallengeKind, ChallengePolicy["kinds"][number] | undefined>> = {
  [ChallengeKind.UNSPECIFIED]: undefined,
  [ChallengeKind.STEP_UP]: "step_up",
  [ChallengeKind.FORWARD]: "forward",
  [ChallengeKind.DPOP]: "dpop",
  [ChallengeKind.HTTP_SIGNATURE]: "http_signature",
  [ChallengeKind.CERTIFICATE_BOUND]: "certificate_bound",
};

/** Headers are added to those of `base`, which they replace by name; a body replaces the whole of `base`'s. */
function compileResponse(response: Response | undefined, base: ResponsePolicy): ResponsePolicy {
  if (response === undefined) return base;
  const headers = new Map([
    ...(base.headers ?? []),
    ...Object.entries(response.headers).map(([name, value]) => [name.toLowerCase(), value] as const),
  ]);
  const bodies = {
    ...base.bodies,
    ...(response.challenge === undefined ? {} : { challenge: compileBody(response.challenge) }),
    ...(response.deny === undefined ? {} : { deny: compileBody(response.deny) }),
    ...(response.terminate === undefined ? {} : { terminate: compileBody(response.terminate) }),
  };
  return {
    revealReasons: response.revealReasons ?? base.revealReasons,
    upstreamHeaders: response.upstreamHeaders ?? base.upstreamHeaders,
    ...(headers.size === 0 ? {} : { headers }),
    ...(Object.keys(bodies).length === 0 ? {} : { bodies }),
  };
}

function compileBody({ contentType, text, grpcMessage }: Body): BodyPolicy {
  return {
    contentType: contentType || (isJson(text) ? "application/problem+json" : "text/plain; charset=utf-8"),
    text: text === "" ? undefined : text,
    grpcMessage: grpcMessage === "" ? undefined : grpcMessage,
  };
}

/** With any text in place of what the braces stand for. */
function isJson(text: string): boolean {
  try {
    JSON.parse(text.replace(/\{(?:decision_id|decision|principal)\}/g, "0"));
    return true;
  } catch {
    // Sent as plain text then.
    return false;
  }
}

/** Milliseconds of a duration that may be left out. */
export function msOf(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : durationMs(duration);
}
