/** The policies that commands judge with: one place for all, so that all believe the same. */

import { defaultPolicy } from "../bundle/default-policy.ts";
import { loadPolicy } from "../bundle/load.ts";
import { formatProblem } from "../bundle/problem.ts";
import { shippedNetworks } from "../bundle/shipped-networks.ts";
import { OperatingError } from "../model/errors.ts";
import type { Policy } from "../model/policy.ts";
import type { Flag, Invocation, Terminal } from "./command.ts";
import { BUNDLE_KEYS, trustFrom } from "./trust.ts";

/** Flags of every command that loads a policy, read by {@link policyAt}. */
export const POLICY_FLAGS: readonly Flag[] = [BUNDLE_KEYS];

/**
 * The policy at `path`, or the shipped one. Once keys are given, only a bundle that they verify is taken.
 * @throws {OperatingError} the code of the refusal, such as ERR_POLICY_INVALID or ERR_BUNDLE_SIGNATURE, with all problems
 */
export async function policyAt(
  path: string | undefined,
  invocation: Pick<Invocation, "values">,
  terminal: Pick<Terminal, "environment">,
): Promise<Policy> {
  const trust = await trustFrom(invocation, terminal);
  if (path === undefined) return defaultPolicy(shippedNetworks());
  const loaded = await loadPolicy(path, { trust });
  if (loaded.ok) return loaded.policy;
  throw new OperatingError(loaded.code, `policy refused:\n${loaded.problems.map(formatProblem).join("\n")}`);
}
