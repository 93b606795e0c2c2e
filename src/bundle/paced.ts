/** Finishes a prepared policy where requests are being answered: a little at a time, with room for them in between. */

import { indexPolicyLocks } from "../check/locks.ts";
import { prepareRules } from "../decide/rules.ts";
import type { Policy } from "../model/policy.ts";
import { policySteps } from "./compile.ts";
import { noConditions } from "./compile-rules.ts";
import type { Networks } from "./networks.ts";
import type { Prepared } from "./prepare.ts";
import type { Steps } from "./steps.ts";

/** How long requests may have to wait for one slice of the work. */
const SLICE_MS = 0.5;

/**
 * Makes the policy, and whatever the line would otherwise make of it at its first request. The first policy with conditions
 * takes a moment longer: what evaluates them is loaded for it.
 */
export async function finishPolicy(prepared: Prepared, networks: Networks | undefined): Promise<Policy> {
  const conditionOf = prepared.hasConditions ? (await import("./conditions.ts")).compileCondition : noConditions;
  const policy = await paced(policySteps(prepared, networks, conditionOf));
  await paced(indexPolicyLocks(policy.locks));
  await prepareRules(policy, () => new Promise(setImmediate));
  return policy;
}

async function paced<Result>(steps: Steps<Result>): Promise<Result> {
  for (;;) {
    await new Promise(setImmediate);
    const until = performance.now() + SLICE_MS;
    do {
      const step = steps.next();
      if (step.done === true) return step.value;
    } while (performance.now() < until);
  }
}
