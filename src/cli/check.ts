/** `sallyport check`: is this policy good? */

import { DEFAULT_POLICY_TEXT } from "../bundle/default-policy.ts";
import { loadPolicy } from "../bundle/load.ts";
import { formatProblem } from "../bundle/problem.ts";
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
      else for (const problem of loaded.problems) err(formatProblem(problem));
      return EXIT_BAD;
    }
    const { policy } = loaded;
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
        ? JSON.stringify({ ok: true, ...facts })
        : `${path}: good. ${facts.name} ${facts.revision}, mode ${facts.mode}, ${facts.rules} rules, ${facts.ranges} address ranges, ${facts.fingerprints} fingerprints, ${facts.locks} locks`,
    );
    return EXIT_GOOD;
  },
};
