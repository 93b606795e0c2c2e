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

const DENY_ALL = `apiVersion: sallyport.dev/v1
kind: Policy
metadata: { name: expired }
spec: { rules: [{ name: policy-expired, decision: deny }] }
`;

/** The same policy with one rule that denies every request: what `policy-on-expiry: deny` asks for. */
export function denying(policy: Policy): Policy {
  return { ...policy, rules: denyAll() };
}

/** @throws {Error} when the text above does not compile: a bug */
function denyAll(): Policy["rules"] {
  const parsed = parsePolicy(DENY_ALL, "policy-expired.yaml");
  if (!parsed.ok) throw new Error(parsed.problems.map(formatProblem).join("\n"));
  const compiled = compilePolicy(parsed.document, new Map(), "expired");
  if (!compiled.ok) throw new Error(compiled.problems.map(formatProblem).join("\n"));
  return compiled.policy.rules;
}
