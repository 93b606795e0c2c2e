/** `sallyport check`: is this policy good? */

import { readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { DEFAULT_POLICY_TEXT } from "../bundle/default-policy.ts";
import { excerptOf } from "../bundle/excerpt.ts";
import { loadPolicy } from "../bundle/load.ts";
import { formatProblem, type Problem } from "../bundle/problem.ts";
import { gatherPolicy } from "./bundle-policy.ts";
import { type Command, EXIT_BAD, EXIT_GOOD, usage } from "./command.ts";

export const checkCommand: Command = {
  name: "check",
  arguments: "POLICY",
  positionals: [0, 1],
  summary: "Check a policy and every file it names; report all problems with file, line and column.",
  flags: [{ name: "print-default", value: undefined, summary: "Print the shipped policy instead, to start from." }],
  run: async ({ positionals, switches, json }, { out, err }) => {
    if (switches.has("print-default")) {
      out(DEFAULT_POLICY_TEXT.trimEnd());
      return EXIT_GOOD;
    }
    const path = positionals[0];
    if (path === undefined) throw usage("check: expected POLICY, got nothing");
    const loaded = await loadPolicy(path);
    if (!loaded.ok) {
      if (json) out(JSON.stringify({ ok: false, problems: loaded.problems }));
      else await report(path, loaded.problems, err);
      return EXIT_BAD;
    }
    const { policy } = loaded;
    const notes = loaded.bundle === undefined ? await notesOn(loaded.files) : [];
    const facts = {
      name: policy.name,
      revision: policy.revision,
      mode: policy.mode,
      rules: policy.rules.length,
      ranges: policy.addresses.size,
      fingerprints: policy.fingerprints.size,
      locks: policy.locks.length,
    };
    out(
      json
        ? JSON.stringify({ ok: true, ...facts, ...(notes.length === 0 ? {} : { notes }) })
        : `${path}: good. ${facts.name} ${facts.revision}, mode ${facts.mode}, ${facts.rules} rules, ${facts.ranges} address ranges, ${facts.fingerprints} fingerprints, ${facts.locks} locks`,
    );
    if (!json) for (const note of notes) err(`note: ${note}`);
    return EXIT_GOOD;
  },
};

/** What a sidecar beside these files does not mind, and a bundle does. */
async function notesOn(read: readonly string[]): Promise<readonly string[]> {
  const [first = "", second] = read;
  // Of a folder its own path comes first.
  const path = second !== undefined && dirname(second) === first ? second : first;
  const { problems } = await gatherPolicy(path);
  return problems.map(({ expected, got }) => `${got} cannot go into a bundle, which takes ${expected}`);
}

/** Each problem on a line, then the line that it is about with a mark under the place. */
async function report(path: string, problems: readonly Problem[], err: (line: string) => void): Promise<void> {
  // Only the policy itself: what it names may be a list of a million lines, or keys.
  const lines = problems.some(({ file, line }) => file === path && line !== undefined) ? await linesOf(path) : [];
  for (const problem of problems) {
    err(formatProblem(problem));
    for (const line of (problem.file === path ? excerptOf(problem, lines) : undefined) ?? []) err(line);
  }
  if (problems.length > 1) err(`${problems.length} problems`);
}

async function linesOf(path: string): Promise<readonly string[]> {
  try {
    return (await readFile(path, "utf8")).replace(/^\u{feff}/u, "").split(/\r\n|\n|\r/);
  } catch {
    // Fails open: the problems are told without the lines.
    return [];
  }
}
