/** Reads the stated condition of the calling workload. */

import type { PosturePolicy } from "../model/policy.ts";
import { MINUTE_MS } from "../model/units.ts";
import { certain, NOTHING, present, type Signal } from "./signal.ts";

export const postureForbidden: Signal = {
  name: "posture.forbidden",
  summary: "A posture fact has a value that the policy forbids.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 64,
  discharged: false,
  read: ({ policy, posture }) => {
    if (posture === undefined) return NOTHING;
    for (const rule of policy.posture.forbid) {
      const value = posture.facts[rule.fact];
      if (value === undefined) continue;
      if (rule.values.includes(value) === (rule.operator === "in")) {
        const wanted = rule.operator === "in" ? `not ${rule.values.join(", ")}` : rule.values.join(", ");
        return certain("deny", `${rule.fact} is ${value}`, wanted);
      }
    }
    return NOTHING;
  },
};

export const postureUnknown: Signal = {
  name: "posture.unknown",
  summary: "Posture facts that the policy requires of the principal are missing or older than it accepts.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 12,
  discharged: false,
  read: ({ policy, posture, identity, facts }) => {
    if (posture === undefined) {
      return isRequired(policy.posture, identity.principal.name)
        ? present(policy.posture.missingBits, "no posture facts", "facts about the workload")
        : NOTHING;
    }
    const ageMs = facts.time - posture.reportedAtMs;
    if (ageMs <= policy.posture.maxAgeMs) return NOTHING;
    return present(
      policy.posture.staleBits,
      `posture ${Math.round(ageMs / MINUTE_MS)} minutes old`,
      `at most ${Math.round(policy.posture.maxAgeMs / MINUTE_MS)}`,
    );
  },
};

function isRequired(posture: PosturePolicy, principal: string): boolean {
  return posture.required.some((pattern) => pattern.test(principal));
}
