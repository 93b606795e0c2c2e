/** What the settings make of a policy before requests see it. */

import { create } from "@bufbuild/protobuf";
import { compileRules, noConditions } from "../bundle/compile-rules.ts";
import { FixedDecision, SpecSchema } from "../gen/sallyport/policy/v1/policy_pb.ts";
import type { Policy } from "../model/policy.ts";
import type { ServeConfig } from "./config.ts";

/** `--mode observe` turns enforcement off everywhere, rules included, without touching the policy. */
export function effective(policy: Policy, { mode }: Pick<ServeConfig, "mode">): Policy {
  // The rules stay the very same ones: they were made ready for requests already.
  return mode === "observe" ? { ...policy, mode: "observe", modeForAll: "observe" } : policy;
}

/**
 * The same policy with one rule that denies every request: what `policy-on-expiry: deny` and `locks-on-stale: strict`
 * ask for.
 */
export function denying(policy: Policy, rule: "policy-expired" | "locks-stale"): Policy {
  // The rule's name is the reason that verdicts give.
  const spec = create(SpecSchema, { rules: [{ name: rule, decision: FixedDecision.DENY }] });
  return { ...policy, rules: compileRules(spec, noConditions).rules };
}
