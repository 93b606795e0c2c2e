/** Usage: npm run bench [-- --quick] [--json FILE]   Cost of a check beside a bare server's, in one run; memory; look-ups; latency. */

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import { measureEnvoy } from "./envoy.ts";
import { printTable, rounded } from "./figures.ts";
import type { LineFigures } from "./line.ts";
import { measureLookUps } from "./look-ups.ts";
import { beside, PINNED } from "./measured.ts";
import { bytesPerPrincipal, measureServers } from "./servers.ts";

const { values } = parseArgs({ options: { quick: { type: "boolean", default: false }, json: { type: "string" } } });
const SIZE = values.quick
  ? { rounds: 2, seconds: 1, many: 2_000, lineRequests: 20_000, lookUps: 200_000, envoyRounds: 3, envoyRequests: 200 }
  : {
      rounds: 5,
      seconds: 3,
      many: 10_000,
      lineRequests: 100_000,
      lookUps: 1_000_000,
      envoyRounds: 5,
      envoyRequests: 500,
    };
const FEW = 10;

const run = promisify(execFile);
const begin = performance.now();
if (!existsSync(beside("../../dist/main.js"))) throw new Error("dist/main.js is missing: run `npm run build` first");
const folder = await mkdtemp(join(tmpdir(), "sallyport-bench-"));
try {
  const machine = {
    cpu: `${cpus().length} x ${cpus()[0]?.model}`,
    node: process.version,
    commit: await commit(),
    pinned: PINNED,
    /** Of the last minute, before anything was measured: above a few tenths, other work was going on. */
    loadBefore: loadavg()[0] ?? Number.NaN,
    rounds: SIZE.rounds,
    secondsPerRound: SIZE.seconds,
  };
  console.log(
    `${machine.cpu}, Node ${machine.node}, commit ${machine.commit}, ${PINNED ? "server and load pinned to a core each" : "nothing pinned"}, ` +
      `load before ${machine.loadBefore.toFixed(2)}; medians of ${SIZE.rounds} rounds of ${SIZE.seconds} s\n`,
  );
  const states = [FEW, SIZE.many].map((principals) => ({ principals, directory: join(folder, `state-${principals}`) }));
  const line = await measureLine(states);
  const { servers, otherWork, memory } = await measureServers({ rounds: SIZE.rounds, seconds: SIZE.seconds, states });
  const lookUps = measureLookUps(SIZE.lookUps);
  const envoy = await measureEnvoy(SIZE.envoyRounds, SIZE.envoyRequests);
  const seconds = rounded((performance.now() - begin) / 1_000);
  console.log(`took ${seconds} s`);
  if (values.json !== undefined) {
    const figures = {
      machine,
      seconds,
      servers,
      otherWork,
      line,
      memory,
      bytesPerPrincipal: bytesPerPrincipal(memory),
      lookUps,
      envoy,
    };
    await writeFile(values.json, `${JSON.stringify(figures, undefined, 1)}\n`);
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}

/** In processes of their own: what one learned or optimised must not serve or burden the other. */
async function measureLine(states: readonly { principals: number; directory: string }[]) {
  const all: LineFigures[] = [];
  for (const { principals, directory } of states) {
    await mkdir(directory);
    const { stdout } = await run(process.execPath, [
      ...["--expose-gc", "--import=tsx", beside("line.ts")],
      ...[String(principals), String(SIZE.lineRequests), directory],
    ]);
    all.push(JSON.parse(stdout) as LineFigures);
  }
  printTable(
    ["the line alone", "check+learn, CPU us", "outcome, CPU us", "snapshot, ms", "snapshot, KiB"],
    all.map((one) => [
      `${one.principals.toLocaleString("en-US")} principals`,
      ...[rounded(one.checkUs, 1), rounded(one.outcomeUs, 1)],
      ...[rounded(one.snapshotMs), rounded(one.snapshotBytes / 1024)],
    ]),
  );
  const [few, many] = [all[0], all.at(-1)] as [LineFigures, LineFigures];
  // The difference leaves out what is there whatever the number: tables, curves, compiled code.
  const heapBytesPerPrincipal = rounded((many.heapBytes - few.heapBytes) / (many.principals - few.principals));
  console.log(`live heap for each further principal: ${heapBytesPerPrincipal.toLocaleString("en-US")} bytes\n`);
  return { principals: all, heapBytesPerPrincipal };
}

/** Of the sources; the built program is what runs. */
async function commit(): Promise<string> {
  try {
    const { stdout } = await run("git", ["describe", "--always", "--dirty"], { cwd: beside(".") });
    return stdout.trim();
  } catch {
    return "unknown"; // no repository, or no git
  }
}
