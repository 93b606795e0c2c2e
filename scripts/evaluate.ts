/** Usage: npm run evaluate -- --data DIR [--policy POLICY] [--answers rows|none|all] [--view callee|fleet] [--mode observe] [--json FILE] */

import { readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { createReplay, parseRow, type ReplayOptions } from "../src/check/replay.ts";
import { policyAt } from "../src/cli/policy-at.ts";
import { linesOf } from "../src/cli/requests.ts";
import { OperatingError } from "../src/model/errors.ts";
import { NAIVE_RULES, NaiveRules } from "./evaluate/naive.ts";
import { reportText } from "./evaluate/table.ts";
import { type Labels, type Report, report, Tally } from "./evaluate/tally.ts";

const RANKS = { allow: 0, challenge: 1, deny: 2, terminate: 3 } as const;
const RESAMPLES = 400;

const { values } = parseArgs({
  options: {
    data: { type: "string" },
    policy: { type: "string" },
    answers: { type: "string", default: "rows" },
    view: { type: "string", default: "callee" },
    mode: { type: "string" },
    json: { type: "string" },
  },
});

if (values.data === undefined) {
  console.error("usage: npm run evaluate -- --data DIR; DIR/requests holds labelled rows, see docs/evaluation.md");
  process.exitCode = 2;
} else {
  try {
    await evaluate(values.data);
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    console.error(error.message);
    process.exitCode = 1;
  }
}

async function evaluate(data: string): Promise<void> {
  const policy = await policyAt(values.policy, { values: {} }, { environment: process.env });
  const options = {
    policy,
    answers: values.answers,
    view: values.view,
    observe: values.mode === "observe",
  } as ReplayOptions;
  const reports: Record<string, Report> = {};
  for (const [name, files] of setsIn(join(data, "requests"))) {
    const own = new Tally();
    const naive = NAIVE_RULES.map((rule): [string, Tally] => [rule, new Tally()]);
    for (const file of files) {
      const replay = createReplay(options);
      const rules = new NaiveRules();
      for (const tally of [own, ...naive.map(([, one]) => one)]) tally.begin(file);
      let number = 0;
      for await (const text of linesOf(file)) {
        number++;
        if (text.trim() === "") continue;
        const row = parseRow(text, number);
        const labels = JSON.parse(text) as Labels;
        const { score, decision } = replay.row(row);
        own.add(labels, { score, rank: RANKS[decision] });
        for (const [i, judged] of rules.judge(row).entries()) naive[i]?.[1].add(labels, judged);
      }
    }
    const result = report(own, RESAMPLES);
    reports[name] = result;
    const compared = naive.map(([rule, tally]): [string, Report] => [rule, report(tally, 0)]);
    console.log(`${reportText(name, result, compared)}\n`);
  }
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(reports, undefined, 1)}\n`);
}

/** Files whose names differ only in a final number are one set. */
function setsIn(folder: string): ReadonlyMap<string, readonly string[]> {
  let names: string[];
  try {
    names = readdirSync(folder)
      .filter((name) => /\.jsonl(?:\.gz)?$/.test(name))
      .sort();
  } catch (cause) {
    throw new OperatingError("ERR_DATA_UNREADABLE", `${folder}: expected a folder with .jsonl files`, { cause });
  }
  const sets = new Map<string, string[]>();
  for (const name of names) {
    const set = basename(name)
      .replace(/\.jsonl(?:\.gz)?$/, "")
      .replace(/-\d\d$/, "");
    sets.set(set, [...(sets.get(set) ?? []), join(folder, name)]);
  }
  return sets;
}
