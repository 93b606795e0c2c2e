/** Gathers a policy and every file that it names, and checks the very bytes that go into a bundle. */

import { basename, dirname, resolve } from "node:path";
import { compilePolicy } from "../bundle/compile-document.ts";
import { namedFiles } from "../bundle/files.ts";
import { fileNameFault } from "../bundle/manifest.ts";
import { parsePolicy } from "../bundle/parse.ts";
import { fileProblem, type Problem } from "../bundle/problem.ts";
import { shippedNetworks } from "../bundle/shipped-networks.ts";
import { TEXT_BYTES_MAX } from "../bundle/tree.ts";
import { OperatingError } from "../model/errors.ts";
import { readInput } from "./named-files.ts";

export interface Gathered {
  /** Name of the policy among `files`. */
  readonly policy: string;
  /** Content by the name that the policy gives. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** What is wrong; then the files may be incomplete. */
  readonly problems: readonly Problem[];
}

/** Reads a policy and what it names from its folder. */
export async function gatherPolicy(path: string): Promise<Gathered> {
  const policy = basename(path);
  const files = new Map<string, Uint8Array>();
  const problems: Problem[] = [];
  const take = async (name: string, from: string, label: string, bytesMax: number): Promise<void> => {
    try {
      files.set(name, await readInput(from, bytesMax));
    } catch (error) {
      // Fails closed: a bundle without one of its files is not built.
      if (!(error instanceof OperatingError)) throw error;
      const got = /, got (.*)$/.exec(error.message)?.[1] ?? "none";
      problems.push(fileProblem(label, `a file of at most ${bytesMax} bytes`, got));
    }
  };
  await take(policy, path, path, TEXT_BYTES_MAX);
  const bytes = files.get(policy);
  if (bytes === undefined) return { policy, files, problems };
  const text = textOf(bytes);
  if (text === undefined) return { policy, files, problems: [fileProblem(path, "UTF-8 text", "other bytes")] };
  const parsed = parsePolicy(text, path);
  if (!parsed.ok) return { policy, files, problems: parsed.problems };
  for (const { name, bytesMax } of namedFiles(parsed.document.policy)) {
    const fault = fileNameFault(name);
    if (fault !== undefined) problems.push(fileProblem(path, fault, JSON.stringify(name)));
    else if (!files.has(name)) await take(name, resolve(dirname(path), name), name, bytesMax);
  }
  return { policy, files, problems };
}

/** All problems of a policy whose files are in memory, as `sallyport check` finds them on disk. */
export function contentProblems({ policy, files }: Gathered, label = policy): readonly Problem[] {
  const text = textOf(files.get(policy)!);
  if (text === undefined) return [fileProblem(label, "UTF-8 text", "other bytes")];
  const parsed = parsePolicy(text, label);
  if (!parsed.ok) return parsed.problems;
  const contents = new Map([...files].map(([name, bytes]) => [name, { ok: true, bytes } as const]));
  const compiled = compilePolicy(parsed.document, contents, "", shippedNetworks());
  return compiled.ok ? [] : compiled.problems;
}

function textOf(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    // Fails closed: bytes that are no text are not guessed at.
    return undefined;
  }
}
