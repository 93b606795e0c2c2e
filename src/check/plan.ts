/** Which signals a policy reads, and how each of them counts: looked up once for each policy, not for each request. */

import type { Policy } from "../model/policy.ts";
import { SIGNALS } from "../signals/catalog.ts";
import { NOTHING, type Signal } from "../signals/signal.ts";

export interface PlannedReading {
  readonly signal: Signal;
  readonly read: NonNullable<Signal["read"]>;
  /** Counted in the score; otherwise only shown. */
  readonly counted: boolean;
  /** Most bits that it adds. */
  readonly capBits: number;
}

export interface PlannedOutcome {
  readonly signal: Signal;
  readonly readOutcome: NonNullable<Signal["readOutcome"]>;
}

/** Signals in the order of the catalogue, without those that are off. */
export interface Plan {
  readonly readings: readonly PlannedReading[];
  readonly outcomes: readonly PlannedOutcome[];
}

/** By what the policy, or the rule that counts, says of signals: plans go with it. */
const plans = new WeakMap<Policy["signal"], Plan>();

export function planOf({ signal: rulesOf }: Policy): Plan {
  let plan = plans.get(rulesOf);
  if (plan === undefined) {
    plan = makePlan(rulesOf);
    plans.set(rulesOf, plan);
  }
  return plan;
}

function makePlan(rulesOf: Policy["signal"]): Plan {
  const readings: PlannedReading[] = [];
  const outcomes: PlannedOutcome[] = [];
  for (const signal of SIGNALS) {
    const rules = rulesOf(signal.name);
    if (rules?.mode === "off") continue;
    // A signal of outcomes reads nothing before, but what it gathered earlier counts in every request.
    const { read = readNothing, readOutcome } = signal;
    readings.push({ signal, read, counted: rules?.mode !== "observe", capBits: rules?.capBits ?? signal.capBits });
    if (readOutcome !== undefined) outcomes.push({ signal, readOutcome });
  }
  return { readings, outcomes };
}

const readNothing = () => NOTHING;
