/** What each stage of a check costs alone, each in a process of its own: what one optimised must not serve the other. */

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";
import { rounded } from "./figures.ts";
import type { LineFigures } from "./line.ts";
import { measureLookUps } from "./look-ups.ts";
import { beside } from "./measured.ts";
import { counted } from "./memory.ts";
import type { Report } from "./report.ts";

/** A script that prints one line of JSON, `{"stages":[...]}`, last. */
export interface Stage {
  readonly stage: string;
  readonly cpuUs: number;
}

/** Scripts that measure stages of their own; those that a build does not have are left out, and told. */
const SCRIPTS = [
  { script: "pieces.ts", what: "library calls for comparison" },
  { script: "transport.ts", what: "the transport alone" },
  { script: "reading.ts", what: "reading a check and assembling its answer" },
];

const run = promisify(execFile);

/** @param lines what the line alone took, measured when the learned states were made */
export async function measureStages(lines: readonly LineFigures[], quick: boolean, report: Report): Promise<void> {
  report.title("Stages");
  const stages: Stage[] = [];
  for (const { script, what } of SCRIPTS) {
    if (!existsSync(beside(script))) report.skipped(what, `There is no \`test/bench/${script}\`.`);
    else {
      try {
        stages.push(...(await stagesOf(script, quick)));
      } catch (error) {
        report.skipped(what, (error as Error).message); // the other stages are measured all the same
        process.exitCode = 1;
      }
    }
  }
  for (const { principals, checkUs, outcomeUs, logLineUs } of lines) {
    const at = `${counted(principals)} principals`;
    stages.push({ stage: `line: check and learn, ${at}`, cpuUs: checkUs });
    stages.push({ stage: `line: outcome, ${at}`, cpuUs: outcomeUs });
    stages.push({ stage: `decision log: one line built, ${at}`, cpuUs: logLineUs });
  }
  for (const { family, listsNs, blockListNs } of measureLookUps(quick ? 200_000 : 1_000_000)) {
    stages.push({ stage: `address look-up in 100,000 ranges, ${family}`, cpuUs: listsNs / 1_000 });
    stages.push({ stage: `the same in node:net's BlockList of 1,000, ${family}`, cpuUs: blockListNs / 1_000 });
  }
  report.table(
    ["stage", "CPU µs"],
    stages.map(({ stage, cpuUs }) => [stage, rounded(cpuUs, 2).toString()]),
  );
  report.table(
    ["the line's memory", "live heap, KB", "snapshot, ms", "snapshot, KB"],
    lines.map(({ principals, heapBytes, snapshotMs, snapshotBytes }) => [
      `${counted(principals)} principals`,
      ...[rounded(heapBytes / 1_000), rounded(snapshotMs), rounded(snapshotBytes / 1_000)],
    ]),
  );
  const [few, many] = [lines[0], lines.at(-1)] as [LineFigures, LineFigures];
  // The difference leaves out what is there whatever the number: tables, curves, compiled code.
  const each = rounded((many.heapBytes - few.heapBytes) / (many.principals - few.principals));
  report.say(`Live heap of each further principal: ${counted(each)} bytes.`);
  report.figures.stages = { stages, lines };
}

/** What a script prints beyond its line of JSON is for those who run it alone. */
async function stagesOf(script: string, quick: boolean): Promise<readonly Stage[]> {
  const flags = ["--stages", ...(quick ? ["--quick"] : [])];
  const { stdout } = await run(process.execPath, ["--expose-gc", "--import=tsx", beside(script), ...flags]);
  const last = stdout.trimEnd().split("\n").at(-1) ?? "";
  if (!last.startsWith('{"stages":')) throw new Error(`${script} --stages: expected {"stages":[...]} as its last line`);
  return (JSON.parse(last) as { stages: Stage[] }).stages;
}
