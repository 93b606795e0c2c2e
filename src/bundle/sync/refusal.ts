/** Why a policy was not put in force, with a stable code. */

import { OperatingError } from "../../model/errors.ts";
import type { NotLoaded } from "../load.ts";
import { formatProblem } from "../problem.ts";

export interface Refusal {
  readonly error: OperatingError;
  /** Each thing that is wrong, as people read it. */
  readonly problems: readonly string[];
  /** The same for the same content refused for the same reason: it is told once. */
  readonly key: string;
}

export function refusalOf(found: NotLoaded | OperatingError): Refusal {
  if (found instanceof OperatingError) return refusalFor(found);
  const problems = found.problems.map(formatProblem);
  const error = new OperatingError(found.code, `policy refused:\n${problems.join("\n")}`);
  return { error, problems, key: `${error.code} ${found.digest === "" ? error.message : found.digest}` };
}

/** What a source found without having anything to load. */
export function refusalFor(error: OperatingError): Refusal {
  return { error, problems: [error.message], key: `${error.code} ${error.message}` };
}

/** Keys were configured, and this has no signature. */
export function unsigned(from: string): Refusal {
  const message = `${from}: expected a signed bundle, because keys are configured (bundle-keys); got unsigned policy`;
  return refusalFor(new OperatingError("ERR_BUNDLE_SIGNATURE", message));
}
