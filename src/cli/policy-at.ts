/** The policies that commands judge with: one place for all, so that all believe the same. */

import { defaultPolicy } from "../bundle/default-policy.ts";
import { loadPolicy } from "../bundle/load.ts";
import { formatProblem } from "../bundle/problem.ts";
import { shippedNetworks } from "../bundle/shipped-networks.ts";
import { OperatingError } from "../model/errors.ts";
import type { Policy } from "../model/policy.ts";
import type { Flag, Invocation, Terminal } from "./command.ts";

/** Flags of every command that loads a policy, read by {@link policyAt}. */
export const POLICY_FLAGS: readonly Flag[] = [];

/**
 * The policy at `path`, or the shipped one.
 * @throws {OperatingError} ERR_POLICY_INVALID with all problems
 */
export async function policyAt(
  path: string | undefined,
  _invocation: Pick<Invocation, "values">,
  _terminal: Pick<Terminal, "environment">,
): Promise<Policy> {
  if (path === undefined) return defaultPolicy(shippedNetworks());
  const loaded = await loadPolicy(path);
  if (loaded.ok) return loaded.policy;
  throw new OperatingError("ERR_POLICY_INVALID", `policy refused:\n${loaded.problems.map(formatProblem).join("\n")}`);
}
