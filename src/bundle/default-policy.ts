/** The policy that counts where no file is given. */

import type { Policy } from "../model/policy.ts";
import { compilePolicy } from "./compile.ts";
import type { Networks } from "./networks.ts";
import { parsePolicy } from "./parse.ts";
import { formatProblem } from "./problem.ts";

/** The shipped policy as a file would hold it: the defaults, spelt out. */
export const DEFAULT_POLICY_TEXT = `apiVersion: sallyport.dev/v1
kind: Policy
metadata:
  name: default
  revision: shipped-1
spec:
  # enforce: decisions are carried out. observe: they are only logged.
  mode: enforce
  # Ten points for every factor of ten in rarity among legitimate requests.
  thresholds:
    challenge: 26 # at most about one legitimate request in 400; far fewer in practice
    deny: 36 # at most one in 4,000, and only after a challenge
    terminate: 70 # one in ten million
  challenge:
    kinds: [dpop, step_up] # the first that the caller can answer
    triesMax: 3
    ttl: 5m
    discharge: 12h
  posture:
    maxAge: 1h
    missingBits: 10
    staleBits: 6
  autoLock: 1h
  autoLockScope: origin
  response:
    revealReasons: false
    upstreamHeaders: true
`;

/**
 * The shipped policy.
 * @throws {Error} when the text above does not parse: a bug.
 */
export function defaultPolicy(networks?: Networks): Policy {
  const parsed = parsePolicy(DEFAULT_POLICY_TEXT, "default-policy.yaml");
  if (!parsed.ok) throw new Error(parsed.problems.map(formatProblem).join("\n"));
  const compiled = compilePolicy(parsed.document, new Map(), "shipped", networks);
  if (!compiled.ok) throw new Error(compiled.problems.map(formatProblem).join("\n"));
  return compiled.policy;
}
