/** Conditions in CEL: checked when a policy is read, planned when first asked, evaluated within bounds. */

import { type CelInput, CelScalar, celEnv, celFunc, isCelError, parse, plan } from "@bufbuild/cel";
import { strings } from "@bufbuild/cel/ext";
import type { Asked, Condition, Glob } from "../model/policy.ts";
import { type AddressRange, readAddress, readRange } from "./address.ts";
import { checkTypes } from "./condition-check.ts";
import { ConditionFacts, SCORED, VARIABLES } from "./condition-facts.ts";
import { asksFor, type ConditionFault, checkWords } from "./condition-text.ts";
import { lazyGlob } from "./globs.ts";
import { quote } from "./problem.ts";

/**
 * Most operations of one condition, and of all conditions of a policy together. An operation takes some 0.3 µs, so that
 * no request can be held up for more than a few milliseconds by one, nor for 0.2 s by ten thousand.
 */
export const CONDITION_COST_MAX = 10_000;
export const POLICY_COST_MAX = 500_000;

/** Most characters of all different conditions of a policy together: reading them takes a second or two. */
export const POLICY_CONDITION_CHARS_MAX = 1_000_000;

export type ConditionCheck =
  | { readonly ok: true; readonly cost: number; readonly needsScore: boolean }
  | { readonly ok: false; readonly faults: readonly ConditionFault[] };

/** Checks the text of a condition: its form, its types and its cost. */
export function checkCondition(text: string): ConditionCheck {
  const misplaced = checkWords(text);
  if (misplaced !== undefined) return { ok: false, faults: [misplaced] };
  let parsed: ReturnType<typeof parse>;
  try {
    parsed = parse(text);
  } catch (error) {
    // Fails closed: the policy is refused.
    return { ok: false, faults: [syntaxFault(error)] };
  }
  const checked = checkTypes(parsed);
  if (!checked.ok) return checked;
  const cost = Math.ceil(checked.cost);
  if (cost > CONDITION_COST_MAX) {
    const fault = {
      offset: 0,
      expected: `a condition of at most ${CONDITION_COST_MAX} operations`,
      got: `one of up to ${cost}`,
    };
    return { ok: false, faults: [fault] };
  }
  const fault = asksFor(text, NAMES) ? undefined : constantFault(text);
  if (fault !== undefined) return { ok: false, faults: [fault] };
  return { ok: true, cost, needsScore: asksFor(text, SCORED) };
}

const NAMES = Object.keys(VARIABLES);

/** Why a condition that asks for nothing fails at every request; `undefined` for one that is simply true or false. */
function constantFault(text: string): ConditionFault | undefined {
  let why = "another value";
  try {
    const result = planOf(text)({});
    if (typeof result === "boolean") return undefined;
    if (isCelError(result)) why = result.message;
  } catch (error) {
    // Fails closed: the policy is refused.
    why = error instanceof Error ? error.message : "an error";
  }
  return { offset: 0, expected: "a condition that can be evaluated", got: `one that always fails: ${why}` };
}

/** The parser tells where it gave up, not what it had hoped for. */
function syntaxFault(error: unknown): ConditionFault {
  const location = (error as { location?: { start?: { offset?: unknown } } }).location?.start?.offset;
  const found = (error as { found?: unknown }).found;
  return {
    offset: typeof location === "number" ? location : 0,
    expected: "a CEL expression",
    got: typeof found === "string" && found !== "" ? `${quote(found)} that cannot stand here` : "something else",
  };
}

/**
 * A condition that was checked before, ready to be asked.
 * @param onError what an evaluation that fails counts as
 */
export function compileCondition(text: string, onError: boolean): Condition {
  return new PlannedCondition(text, onError);
}

type Plan = (bindings: Readonly<Record<string, CelInput>>) => unknown;

class PlannedCondition implements Condition {
  readonly text: string;
  readonly onError: boolean;
  private asksForScore: boolean | undefined;
  private planned: Plan | undefined;

  constructor(text: string, onError: boolean) {
    this.text = text;
    this.onError = onError;
  }

  get needsScore(): boolean {
    this.asksForScore ??= asksFor(this.text, SCORED);
    return this.asksForScore;
  }

  evaluate(asked: Asked): boolean | undefined {
    try {
      this.planned ??= planOf(this.text);
      const result = this.planned(bindingsOf(asked));
      return typeof result === "boolean" ? result : undefined;
    } catch {
      // Fails as the rule's `onError` says; the caller counts it.
      return undefined;
    }
  }

  prepare(): void {
    this.asksForScore ??= asksFor(this.text, SCORED);
    try {
      this.planned ??= planOf(this.text);
    } catch {
      // Told when it is evaluated, as every other failure is.
    }
  }
}

/** Plans by their text: rules often repeat a condition. All are forgotten when there are more. */
const plans = new Map<string, Plan>();
const PLANS_MAX = 10_000;

function planOf(text: string): Plan {
  const known = plans.get(text);
  if (known !== undefined) return known;
  const planned = plan(ENVIRONMENT, parse(text)) as unknown as Plan;
  if (plans.size >= PLANS_MAX) plans.clear();
  plans.set(text, planned);
  return planned;
}

/** The variables of the request that is being judged, kept as long as it is: conditions share what they ask for. */
const bindings = new WeakMap<Asked, Readonly<Record<string, CelInput>>>();

function bindingsOf(asked: Asked): Readonly<Record<string, CelInput>> {
  let bound = bindings.get(asked);
  if (bound === undefined) {
    bound = new Bindings(asked) as unknown as Readonly<Record<string, CelInput>>;
    bindings.set(asked, bound);
  }
  return bound;
}

/** Each variable is a getter, so that what no condition asks for is never made. */
class Bindings {
  private readonly facts: ConditionFacts;

  constructor(asked: Asked) {
    this.facts = new ConditionFacts(asked);
  }

  static {
    for (const name of Object.keys(VARIABLES)) {
      Object.defineProperty(Bindings.prototype, name, {
        get(this: Bindings) {
          return this.facts.value(name);
        },
      });
    }
  }
}

const { STRING, BOOL } = CelScalar;

const ENVIRONMENT = celEnv({
  funcs: [
    ...strings,
    celFunc("inRange", [STRING, STRING], BOOL, (address, range) => inRange(address, range)),
    celFunc("glob", [STRING, STRING], BOOL, (text, glob) => remembered(globs, glob, lazyGlob).test(text)),
  ],
});

/** Ranges and globs stand in conditions themselves, so that there are no more of them than conditions hold. */
const REMEMBERED_MAX = 10_000;
const ranges = new Map<string, AddressRange | undefined>();
const globs = new Map<string, Glob>();

function remembered<Value>(known: Map<string, Value>, text: string, read: (text: string) => Value): Value {
  let value = known.get(text);
  if (value === undefined) {
    value = read(text);
    if (known.size >= REMEMBERED_MAX) known.clear();
    known.set(text, value);
  }
  return value;
}

const words = new Uint32Array(4);

function inRange(address: string, text: string): boolean {
  const range = remembered(ranges, text, readRange);
  if (range === undefined || readAddress(address, words) !== range.family) return false;
  const skipped = range.family === 4 ? 3 : 0;
  for (let word = skipped; word < 4; word++) {
    const bits = Math.min(32, Math.max(0, range.prefix - (word - skipped) * 32));
    if (bits === 0) return true;
    const mask = (0xffffffff << (32 - bits)) >>> 0;
    if ((words[word]! & mask) >>> 0 !== range.words[word]) return false;
  }
  return true;
}
