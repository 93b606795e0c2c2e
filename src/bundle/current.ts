/** Holds the policy in force; it is replaced whole, so that a request sees one policy from start to end. */

import type { Policy } from "../model/policy.ts";

export class CurrentPolicy {
  private policy: Policy;

  constructor(policy: Policy) {
    this.policy = policy;
  }

  get(): Policy {
    return this.policy;
  }

  replace(policy: Policy): void {
    this.policy = policy;
  }
}
