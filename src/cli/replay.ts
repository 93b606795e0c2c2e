/** `sallyport replay`: recorded requests through the real decision line. */

import { once } from "node:events";
import { createReadStream, createWriteStream } from "node:fs";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { defaultPolicy } from "../bundle/default-policy.ts";
import { loadPolicy } from "../bundle/load.ts";
import { formatProblem } from "../bundle/problem.ts";
import { shippedNetworks } from "../bundle/shipped-networks.ts";
import { createReplay, parseRow, type ReplayDecision, type ReplayOptions } from "../check/replay.ts";
import { OperatingError } from "../model/errors.ts";
import type { Policy } from "../model/policy.ts";
import { type Command, EXIT_GOOD, usage } from "./command.ts";

export const replayCommand: Command = {
  name: "replay",
  arguments: "",
  positionals: [0, 0],
  summary:
    "Pass recorded requests through the decision line under their own time, learning as live, and write one decision per row.",
  flags: [
    { name: "requests", value: "ROWS.jsonl[.gz]", summary: "The rows, in order of time." },
    { name: "out", value: "DECISIONS.jsonl", summary: "Where decisions go; standard output without it." },
    { name: "policy", value: "POLICY", summary: "The policy; without it the shipped one." },
    { name: "compare", value: "OTHER_POLICY", summary: "A second policy: report where its decisions differ." },
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
  run: async ({ values, json }, { out, err }) => {
    const rows = values.requests;
    if (rows === undefined) throw usage("replay: expected --requests ROWS.jsonl[.gz]");
    const answers = choice(values.answers ?? "rows", "answers", ["rows", "none", "all"]);
    const view = choice(values.view ?? "callee", "view", ["callee", "fleet"]);
    const mode = values.mode === undefined ? undefined : choice(values.mode, "mode", ["enforce", "observe"]);
    const optionsFor = (policy: Policy): ReplayOptions => ({
      policy: mode === undefined ? policy : { ...policy, mode },
      answers,
      view,
      observe: (mode ?? policy.mode) === "observe",
    });
    const replay = createReplay(optionsFor(await policyAt(values.policy)));
    const other = values.compare === undefined ? undefined : createReplay(optionsFor(await policyAt(values.compare)));

    const sink = values.out === undefined ? undefined : createWriteStream(values.out);
    const failed =
      sink === undefined ? undefined : once(sink, "error").then(([cause]) => unwritable(values.out, cause));
    failed?.catch(() => {});
    const write = async (line: string): Promise<void> => {
      if (sink === undefined) out(line);
      else if (!sink.write(`${line}\n`)) await Promise.race([once(sink, "drain"), failed]);
    };
    const counts: Record<string, number> = { allow: 0, challenge: 0, deny: 0, terminate: 0 };
    const differences = new Map<string, number>();
    let lineNumber = 0;
    let index = 0;
    for await (const text of linesOf(rows)) {
      lineNumber++;
      if (text.trim() === "") continue;
      const row = parseRow(text, lineNumber);
      const decision = replay.row(row);
      counts[decision.decision] = (counts[decision.decision] ?? 0) + 1;
      await write(JSON.stringify({ index, ...decision }));
      if (other !== undefined) countDifference(differences, decision, other.row(row));
      index++;
    }
    if (sink !== undefined) await Promise.race([new Promise<void>((resolve) => sink.end(resolve)), failed]);
    const summary = {
      rows: index,
      ...counts,
      ...(other === undefined ? {} : { differences: Object.fromEntries(differences) }),
    };
    const say = sink === undefined ? err : out;
    if (json) say(JSON.stringify(summary));
    else {
      say(
        `${index} rows: ${Object.entries(counts)
          .map(([kind, count]) => `${count} ${kind}`)
          .join(", ")}`,
      );
      for (const [change, count] of differences) say(`  ${change}: ${count}`);
      if (other !== undefined && differences.size === 0) say("  the other policy decides the same everywhere");
    }
    return EXIT_GOOD;
  },
};

function countDifference(differences: Map<string, number>, one: ReplayDecision, two: ReplayDecision): void {
  if (one.decision === two.decision) return;
  const change = `${one.decision} -> ${two.decision}`;
  differences.set(change, (differences.get(change) ?? 0) + 1);
}

export async function policyAt(path: string | undefined): Promise<Policy> {
  if (path === undefined) return defaultPolicy(shippedNetworks());
  const loaded = await loadPolicy(path);
  if (loaded.ok) return loaded.policy;
  throw new OperatingError("ERR_POLICY_INVALID", `policy refused:\n${loaded.problems.map(formatProblem).join("\n")}`);
}

export async function* linesOf(path: string): AsyncGenerator<string> {
  const file = createReadStream(path);
  const source: Readable = path.endsWith(".gz") ? file.pipe(createGunzip()) : file;
  const failure = new Promise<never>((_resolve, reject) => {
    for (const stream of new Set<Readable>([file, source])) stream.once("error", reject);
  });
  failure.catch(() => {});
  const lines = createInterface({ input: source, crlfDelay: Number.POSITIVE_INFINITY })[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await Promise.race([lines.next(), failure]);
      if (next.done === true) return;
      yield next.value;
    }
  } catch (cause) {
    if (cause instanceof OperatingError) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new OperatingError("ERR_DATA_UNREADABLE", `${path}: cannot be read: ${why}`, { cause });
  }
}

function unwritable(path: string | undefined, cause: unknown): never {
  throw new OperatingError("ERR_STATE_UNWRITABLE", `${path}: cannot be written`, { cause });
}

function choice<Choice extends string>(value: string, name: string, choices: readonly Choice[]): Choice {
  const found = choices.find((candidate) => candidate === value);
  if (found === undefined)
    throw usage(`replay: --${name}: expected ${choices.join(", ")}, got ${JSON.stringify(value)}`);
  return found;
}
