/** `sallyport replay`: recorded requests through the real decision line. */

import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { Comparison, type Difference, differenceOf, type PairReport, type Side } from "../check/compare.ts";
import { createReplay, type ReplayOptions } from "../check/replay.ts";
import { OperatingError } from "../model/errors.ts";
import type { Policy } from "../model/policy.ts";
import { type Command, choice, EXIT_GOOD, usage } from "./command.ts";
import { POLICY_FLAGS, policyAt } from "./policy-at.ts";
import { requestsOf } from "./requests.ts";

/** Principals named of each kind of difference. */
const PRINCIPALS_SHOWN = 10;

export const replayCommand: Command = {
  name: "replay",
  arguments: "",
  positionals: [0, 0],
  summary:
    "Pass recorded requests through the decision line under their own time, learning as live, and write one decision per row.",
  flags: [
    {
      name: "requests",
      value: "ROWS.jsonl[.gz]",
      summary:
        "The requests, in order of time: rows, or a decision log; of a log, the template of the route stands for the path and outcomes are unknown.",
    },
    { name: "out", value: "DECISIONS.jsonl", summary: "Where decisions go; standard output without it." },
    { name: "policy", value: "POLICY", summary: "The policy; without it the shipped one." },
    {
      name: "compare",
      value: "OTHER_POLICY",
      summary: "A second policy: report who would be decided otherwise, and why.",
    },
    {
      name: "differences",
      value: "FILE",
      summary: "With --compare: write every request that is decided otherwise to this file, as JSON lines.",
    },
    ...POLICY_FLAGS,
    {
      name: "answers",
      value: "rows|none|all",
      summary: "Whether challenged callers answer: as each row says, never, or always. Default rows.",
    },
    {
      name: "mode",
      value: "enforce|observe",
      summary:
        "`observe` enforces nothing, learns without answers and prints the decision that would have been. Default: the policy's.",
    },
    {
      name: "view",
      value: "callee|fleet",
      summary: "`callee` keeps memory per host, as one sidecar per service does; `fleet` shares it. Default callee.",
    },
  ],
  run: async (invocation, terminal) => {
    const { out, err } = terminal;
    const { values, json } = invocation;
    const rows = values.requests;
    if (rows === undefined) throw usage("replay: expected --requests ROWS.jsonl[.gz]");
    const answers = choice("replay", values.answers ?? "rows", "answers", ["rows", "none", "all"]);
    const view = choice("replay", values.view ?? "callee", "view", ["callee", "fleet"]);
    const mode = values.mode === undefined ? undefined : choice("replay", values.mode, "mode", ["enforce", "observe"]);
    const optionsFor = (policy: Policy): ReplayOptions => ({
      policy: mode === undefined ? policy : { ...policy, mode },
      answers,
      view,
      observe: (mode ?? policy.mode) === "observe",
    });
    if (values.differences !== undefined && values.compare === undefined)
      throw usage("replay: --differences: expected --compare OTHER_POLICY beside it");
    const replay = createReplay(optionsFor(await policyAt(values.policy, invocation, terminal)));
    const other =
      values.compare === undefined
        ? undefined
        : createReplay(optionsFor(await policyAt(values.compare, invocation, terminal)));

    const decisions = values.out === undefined ? undefined : new LineFile(values.out);
    const differences = values.differences === undefined ? undefined : new LineFile(values.differences);
    const counts: Record<string, number> = { allow: 0, challenge: 0, deny: 0, terminate: 0 };
    const comparison = new Comparison();
    let index = 0;
    for await (const { request } of requestsOf(rows)) {
      const verdict = replay.pass(request);
      const decision = { score: verdict.score, decision: verdict.decision.kind, reasons: verdict.reasons };
      counts[decision.decision] = (counts[decision.decision] ?? 0) + 1;
      const line = JSON.stringify({ index, ...decision });
      if (decisions === undefined) out(line);
      else await decisions.write(line);
      if (other !== undefined) {
        const difference = differenceOf(index, request.facts, verdict, other.pass(request));
        if (difference !== undefined) {
          comparison.note(difference);
          await differences?.write(JSON.stringify(difference));
        }
      }
      index++;
    }
    for (const file of [decisions, differences]) await file?.end();
    const pairs = comparison.report(PRINCIPALS_SHOWN);
    const summary = {
      rows: index,
      ...counts,
      ...(other === undefined
        ? {}
        : {
            differences: Object.fromEntries(pairs.map((pair) => [changeOf(pair), pair.requests])),
            compared: pairs,
          }),
    };
    const say = decisions === undefined ? err : out;
    if (json) say(JSON.stringify(summary));
    else {
      say(
        `${index} rows: ${Object.entries(counts)
          .map(([kind, count]) => `${count} ${kind}`)
          .join(", ")}`,
      );
      for (const pair of pairs) say(`  ${changeOf(pair)}: ${pair.requests}`);
      if (other !== undefined && pairs.length === 0) say("  the other policy decides the same everywhere");
      for (const pair of pairs) for (const line of pairText(pair)) say(line);
    }
    return EXIT_GOOD;
  },
};

function changeOf({ before, after }: PairReport): string {
  return `${before} -> ${after}`;
}

function pairText(pair: PairReport): readonly string[] {
  const lines = [
    "",
    `${changeOf(pair)}: ${pair.requests} ${pair.requests === 1 ? "request" : "requests"} of ${pair.principals} ${pair.principals === 1 ? "principal" : "principals"}`,
    ...pair.top.map(({ principal, requests }) => `  ${String(requests).padStart(6)}  ${principal}`),
  ];
  if (pair.top.length < pair.principals) lines.push(`          and ${pair.principals - pair.top.length} more`);
  lines.push(pair.samples.length === pair.requests ? "  all of them:" : `  ${pair.samples.length} of them:`);
  return [...lines, ...pair.samples.flatMap(differenceText)];
}

function differenceText(difference: Difference): readonly string[] {
  const { index, time, principal, destination, route, before, after, because, reasons } = difference;
  const where = `${destination} ${route} from ${difference.source_address ?? "?"}`;
  return [
    `  row ${index}  ${time}  ${principal}  ${where}`,
    `    ${sideText(before)}  ->  ${sideText(after)}: ${because.join(", ")}`,
    ...reasons.map(
      ({ signal, before: was, after: is, seen, expected }) =>
        `      ${signal} ${was} -> ${is}: ${seen}; expected ${expected}`,
    ),
  ];
}

function sideText({ decision, score, rule }: Side): string {
  return `${decision} ${score} (rule ${rule})`;
}

/** A file that is written line by line; waits when the disk is slow. */
class LineFile {
  private readonly stream;
  private readonly failed: Promise<never>;

  constructor(path: string) {
    this.stream = createWriteStream(path);
    this.failed = once(this.stream, "error").then(([cause]) => unwritable(path, cause));
    this.failed.catch(() => {});
  }

  async write(line: string): Promise<void> {
    if (!this.stream.write(`${line}\n`)) await Promise.race([once(this.stream, "drain"), this.failed]);
  }

  async end(): Promise<void> {
    await Promise.race([new Promise<void>((resolve) => this.stream.end(resolve)), this.failed]);
  }
}

function unwritable(path: string, cause: unknown): never {
  throw new OperatingError("ERR_STATE_UNWRITABLE", `${path}: cannot be written`, { cause });
}
