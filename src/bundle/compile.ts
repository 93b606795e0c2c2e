/** Makes of a prepared policy the one that the line reads. */

import { create } from "@bufbuild/protobuf";
import { type Timestamp, timestampMs } from "@bufbuild/protobuf/wkt";
import type { Forbidden, Lock as LockText, Posture, Spec } from "../gen/sallyport/policy/v1/policy_pb.ts";
import { AutoLockScope, SpecSchema, StreamHold } from "../gen/sallyport/policy/v1/policy_pb.ts";
import type { Lock, LockScope, Policy, PosturePolicy, PostureRequirement } from "../model/policy.ts";
import { compileIdentity } from "./compile-identity.ts";
import { type ConditionOf, compileRules, msOf, type Ruled } from "./compile-rules.ts";
import * as defaults from "./defaults.ts";
import { compileGlob } from "./globs.ts";
import type { Networks } from "./networks.ts";
import { openAddresses, openFingerprints, openGeo, openPostureFacts } from "./open-data.ts";
import { join } from "./pieces.ts";
import type { Prepared } from "./prepare.ts";
import { type Steps, sliced } from "./steps.ts";

/**
 * Makes the policy of what was prepared, in small steps: requests can be answered between any two of them.
 * @param networks the shipped table of autonomous systems, for policies that name no other
 * @param conditionOf `compileCondition`; of a policy without conditions it is never called
 */
export function* policySteps(
  prepared: Prepared,
  networks: Networks | undefined,
  conditionOf: ConditionOf,
): Steps<Policy> {
  const { metadata, spec } = yield* join(prepared.message);
  const ruled = yield* ruledSteps(spec, conditionOf);
  return {
    ...ruled,
    name: metadata?.name ?? "",
    revision: prepared.revision,
    identity: yield* compileIdentity(spec?.identity, prepared.identity),
    posture: yield* compilePosture(spec?.posture),
    addresses: openAddresses(prepared.addresses),
    fingerprints: openFingerprints(prepared.fingerprints),
    geo: openGeo(prepared.geo, networks),
    locks: yield* sliced(spec?.locks ?? [], compileLock),
    postureFacts: openPostureFacts(prepared.posture),
    streams: {
      hold: spec?.streams?.hold === StreamHold.NONE ? "none" : "long",
      endWithCredential: spec?.streams?.endWithCredential ?? true,
      endOnChallenge: spec?.streams?.endOnChallenge ?? false,
    },
    autoLockMs: msOf(spec?.autoLock) ?? defaults.AUTO_LOCK_MS,
    autoLockScope: autoLockScopeOf(spec?.autoLockScope),
  };
}

/** Rules that are compiled in one step. */
const STEP_RULES = 16;

/** Rules are compiled with the spec that they stand in, some at a time. */
function* ruledSteps(spec: Spec | undefined, conditionOf: ConditionOf): Steps<Ruled> {
  const given = spec ?? create(SpecSchema);
  const rules: Policy["rules"][number][] = [];
  for (let at = 0; at < given.rules.length; at += STEP_RULES) {
    rules.push(
      ...compileRules({ ...given, rules: given.rules.slice(at, at + STEP_RULES), peerGroups: [] }, conditionOf).rules,
    );
    yield;
  }
  return { ...compileRules({ ...given, rules: [] }, conditionOf), rules };
}

function* compilePosture(posture: Posture | undefined): Steps<PosturePolicy> {
  return {
    maxAgeMs: msOf(posture?.maxAge) ?? defaults.POSTURE_MAX_AGE_MS,
    missingBits: posture?.missingBits ?? defaults.POSTURE_MISSING_BITS,
    staleBits: posture?.staleBits ?? defaults.POSTURE_STALE_BITS,
    required: yield* sliced(posture?.required ?? [], compileGlob),
    forbid: yield* sliced(posture?.forbid ?? [], compileForbidden),
  };
}

function compileForbidden(condition: Forbidden): PostureRequirement {
  return {
    name: condition.name,
    fact: condition.fact,
    operator: condition.in.length > 0 ? "in" : "not_in",
    values: condition.in.length > 0 ? condition.in : condition.notIn,
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
      ...given("key", scope?.key.toLowerCase()),
      ...given("fingerprint", scope?.fingerprint),
      ...given("address", scope?.address),
      ...given("destination", scope?.destination.toLowerCase()),
      ...given("peerGroup", scope?.peerGroup),
    },
    reason: lock.reason,
    setBy: "policy",
    setAtMs: 0,
    expiresAtMs: momentOf(lock.expires),
  };
}

function autoLockScopeOf(scope: AutoLockScope | undefined): Policy["autoLockScope"] {
  if (scope === AutoLockScope.CREDENTIAL) return "credential";
  return scope === AutoLockScope.PRINCIPAL ? "principal" : "origin";
}

function given(part: keyof LockScope, value: string | undefined): LockScope {
  return value === undefined || value === "" ? {} : { [part]: value };
}

function momentOf(moment: Timestamp | undefined): number | undefined {
  return moment === undefined ? undefined : timestampMs(moment);
}
