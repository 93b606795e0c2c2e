/** What the settings make of a policy before requests see it. */

import type { Policy, Rule } from "../model/policy.ts";
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
  return { ...policy, rules: [denyAll(rule)] };
}

/** @param name the reason that verdicts give */
function denyAll(name: string): Rule {
  return {
    name,
    match: { destinations: [], routes: [], methods: [], principals: [], peerGroups: [] },
    when: undefined,
    mode: undefined,
    thresholds: undefined,
    decision: "deny",
    watch: undefined,
    signal: undefined,
    challenge: undefined,
    response: undefined,
  };
}
