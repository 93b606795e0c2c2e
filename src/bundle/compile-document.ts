/** Turns a policy document and the files that it names into the policy that the line reads. */

import type { Policy } from "../model/policy.ts";
import { policySteps } from "./compile.ts";
import { compileCondition } from "./conditions.ts";
import type { FileContents } from "./files.ts";
import type { Networks } from "./networks.ts";
import type { PolicyDocument } from "./parse.ts";
import { preparePolicy } from "./prepare.ts";
import type { Problem } from "./problem.ts";
import { finish } from "./steps.ts";

export type CompileResult =
  | { readonly ok: true; readonly policy: Policy }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/**
 * Compiles a document, all at once.
 *
 * @param contents the files that it names (see `namedFiles`), by name
 * @param revision counts where the document states none
 * @param networks the shipped table of autonomous systems, for policies that name no other
 * @returns all problems with the files when there are any
 */
export function compilePolicy(
  document: PolicyDocument,
  contents: FileContents,
  revision: string,
  networks?: Networks,
): CompileResult {
  const result = preparePolicy(document, contents, revision);
  return result.ok ? { ok: true, policy: finish(policySteps(result.prepared, networks, compileCondition)) } : result;
}
