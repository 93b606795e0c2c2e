/** What the settings make of a policy before requests see it. */

import { compilePolicy } from "../bundle/compile.ts";
import { parsePolicy } from "../bundle/parse.ts";
import { formatProblem } from "../bundle/problem.ts";
import type { Policy } from "../model/policy.ts";
import type { ServeConfig } from "./config.ts";

/** `--mode observe` turns enforcement off everywhere, rules included, without touching the policy. */
export function effective(policy: Policy, { mode }: Pick<ServeConfig, "mode">): Policy {
  // The rules stay the very same ones: they were made ready for requests already.
  return mode === "observe" ? { ...policy, mode: "observe", modeForAll: "observe" } : policy;
}

/** The rule's name is the reason that verdicts give. */
const denyAllText = (rule: string): string => `apiVersion: sallyport.dev/v1
kind: Policy
metadata: { name: ${rule} }
spec: { rules: [{ name: ${rule}, decision: deny }] }
`;

/**
 * The same policy with one rule that denies every request: what `policy-on-expiry: deny` and `locks-on-stale: strict`
 * ask for.
 */
export function denying(policy: Policy, rule: "policy-expired" | "locks-stale"): Policy {
  return { ...policy, rules: denyAll(rule) };
}

/** @throws {Error} when the text above does not compile: a bug */
function denyAll(rule: string): Policy["rules"] {
  const parsed = parsePolicy(denyAllText(rule), `${rule}.yaml`);
  if (!parsed.ok) throw new Error(parsed.problems.map(formatProblem).join("\n"));
  const compiled = compilePolicy(parsed.document, new Map(), rule);
  if (!compiled.ok) throw new Error(compiled.problems.map(formatProblem).join("\n"));
  return compiled.policy.rules;
}
