/** Turns a policy document and the files that it names into the policy that the line reads. */

import type { Duration, Timestamp } from "@bufbuild/protobuf/wkt";
import type { Lock as LockText, Posture } from "../gen/sallyport/policy/v1/policy_pb.ts";
import type { Lock, LockScope, Policy, PosturePolicy } from "../model/policy.ts";
import { compileAddresses, compileFingerprints, compileGeo, compilePostureFacts } from "./compile-data.ts";
import { compileIdentity } from "./compile-identity.ts";
import { compileRules } from "./compile-rules.ts";
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
    ...compileRules(spec),
    identity: compileIdentity(spec?.identity, files),
    posture: compilePosture(spec?.posture),
    addresses: compileAddresses(spec?.lists?.addresses ?? [], files),
    fingerprints: compileFingerprints(spec?.lists?.fingerprints ?? [], files),
    geo: compileGeo(spec?.geo, files, networks),
    locks: (spec?.locks ?? []).map(compileLock),
    postureFacts: compilePostureFacts(spec?.posture, files),
    autoLockMs: msOf(spec?.autoLock) ?? defaults.AUTO_LOCK_MS,
  };
  return files.problems.length > 0 ? { ok: false, problems: files.problems } : { ok: true, policy };
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
