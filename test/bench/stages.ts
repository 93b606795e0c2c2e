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

export interface Stage {
  readonly stage: string;
  readonly cpuUs: number;
}

/** Scripts that measure stages of their own; those that a build does not have are left out, and told. */
const SCRIPTS: readonly { script: string; what: string; args: (quick: boolean) => readonly string[] }[] = [
  { script: "pieces.ts", what: "library calls for comparison", args: (quick) => [quick ? "10000" : "50000"] },
  { script: "transport.ts", what: "the transport alone", args: () => [] },
  {
    script: "reading.ts",
    what: "reading a check and assembling its answer",
    args: (quick) => [quick ? "20000" : "100000"],
  },
];
/** What such a script prints for each stage. */
const LINE = /^(?<stage>\S.*?)\s+(?<us>\d[\d.]*) µs(?: .*)?$/;

const run = promisify(execFile);

/** @param lines what the line alone took, measured when the learned states were made */
export async function measureStages(lines: readonly LineFigures[], quick: boolean, report: Report): Promise<void> {
  report.title("Stages");
  const stages: Stage[] = [];
  for (const { script, what, args } of SCRIPTS) {
    if (!existsSync(beside(script))) report.skipped(what, `There is no \`test/bench/${script}\`.`);
    else {
      try {
        stages.push(...(await stagesOf(script, args(quick))));
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

/** What a script prints beyond stages is for those who run it alone. */
async function stagesOf(script: string, args: readonly string[]): Promise<readonly Stage[]> {
  const { stdout } = await run(process.execPath, ["--expose-gc", "--import=tsx", beside(script), ...args]);
  const stages = stdout.split("\n").flatMap((line) => {
    const { stage = "", us } = LINE.exec(line)?.groups ?? {};
    return us === undefined ? [] : [{ stage, cpuUs: Number(us) }];
  });
  if (stages.length === 0) throw new Error(`${script}: expected lines such as "reading 1.23 µs"`);
  return stages;
}
