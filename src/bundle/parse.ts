/** Reads policy text: YAML of the schema, checked as a whole, every problem at once. */

import {
  type Facts,
  FactsFileSchema,
  type PolicyFile,
  PolicyFileSchema,
} from "../gen/sallyport/policy/v1/policy_pb.ts";
import { crossCheck } from "./cross-check.ts";
import { decode } from "./decode.ts";
import { fileProblem, type Problem } from "./problem.ts";
import type { Source } from "./source.ts";
import { parseTree } from "./tree.ts";
import { reportViolations } from "./violations.ts";

/** A policy as it was written: it fits the schema and itself; the files that it names were not read. */
export interface PolicyDocument {
  /** The file as it was named. */
  readonly file: string;
  readonly policy: PolicyFile;
  /** Where its values stand, to report what is found wrong later. */
  readonly source: Source;
}

export type ParseResult =
  | { readonly ok: true; readonly document: PolicyDocument }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/**
 * Reads the text of a policy.
 *
 * @param text YAML 1.2 or JSON, one document of at most 5 MiB
 * @param file its name, for messages
 * @returns all problems, in the order of the text, when there are any
 */
export function parsePolicy(text: string, file: string): ParseResult {
  const parsed = parseTree(text, file);
  if (!parsed.ok) return parsed;
  const { tree, source } = parsed;
  const policy = decode(PolicyFileSchema, tree, source);
  reportViolations(PolicyFileSchema, policy, source);
  crossCheck(policy, source);
  if (source.problems.length > 0) return { ok: false, problems: inOrder(source.problems) };
  return { ok: true, document: { file, policy, source } };
}

export type FactsResult =
  | { readonly ok: true; readonly facts: readonly Facts[] }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/** Reads the text of a file of posture facts: `facts: [{subject, facts, source, reportedAt}]` as YAML or JSON. */
export function parseFacts(text: string, file: string): FactsResult {
  const parsed = parseTree(text, file);
  if (!parsed.ok) return parsed;
  const { tree, source } = parsed;
  const message = decode(FactsFileSchema, tree, source);
  reportViolations(FactsFileSchema, message, source);
  if (source.problems.length > 0) return { ok: false, problems: inOrder(source.problems) };
  return { ok: true, facts: message.facts };
}

/** Most problems that are listed of one file. */
const PROBLEMS_MAX = 1_000;

function inOrder(problems: readonly Problem[]): readonly Problem[] {
  const sorted = problems.toSorted((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0));
  if (sorted.length <= PROBLEMS_MAX) return sorted;
  const more = fileProblem(sorted[0]!.file, "no other problems", `${sorted.length - PROBLEMS_MAX} more`);
  return [...sorted.slice(0, PROBLEMS_MAX), more];
}
