/**
 * Usage: npm run bench [-- --quick] [--only servers,latency,...] [--opa-envoy PATH] [--json FILE] [--markdown FILE]
 * What a check costs, side by side with other servers in one run; every section is described where it is measured.
 */

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import { measureDisturbance } from "./disturbance.ts";
import { measureEnvoy } from "./envoy.ts";
import { type Field, startField, startLoad } from "./field.ts";
import { rounded } from "./figures.ts";
import { measureLatency } from "./latency.ts";
import type { LineFigures } from "./line.ts";
import { type Measurements, printMarks } from "./marks.ts";
import { beside, PINNED } from "./measured.ts";
import { measureMemory } from "./memory.ts";
import { Report } from "./report.ts";
import { measureScaling } from "./scaling.ts";
import { MAIN } from "./servers.ts";
import { measureStages } from "./stages.ts";
import { measureStartUp } from "./start-up.ts";
import { measureThroughput } from "./throughput.ts";

const SECTIONS = ["servers", "latency", "envoy", "memory", "disturbance", "scaling", "startup", "stages"] as const;
type Section = (typeof SECTIONS)[number];

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    only: { type: "string", default: SECTIONS.join(",") },
    "opa-envoy": { type: "string" },
    json: { type: "string" },
    markdown: { type: "string" },
  },
});
const only = values.only.split(",");
const unknown = only.find((name) => !SECTIONS.includes(name as Section));
if (unknown !== undefined) throw new Error(`--only: expected some of ${SECTIONS.join(",")}, got ${unknown}`);
const wants = (...sections: Section[]): boolean => sections.some((section) => only.includes(section));

const { quick } = values;
const PRINCIPALS = quick ? [10, 2_000] : [10, 1_000, 10_000];
const ROUNDS = quick ? { rounds: 2, seconds: 1 } : { rounds: 5, seconds: 2 };

const run = promisify(execFile);
const begin = performance.now();
if (!existsSync(MAIN)) throw new Error("dist/main.js is missing: run `npm run build` first");
const folder = await mkdtemp(join(tmpdir(), "sallyport-bench-"));
const report = new Report();
const measured: Measurements = {};
try {
  report.title("Cost of a check");
  const machine = {
    cpu: `${cpus().length} × ${cpus()[0]?.model}`,
    node: process.version,
    commit: await commit(),
    date: new Date().toISOString().slice(0, 10),
    pinned: PINNED,
    /** Of the last minute, before anything was measured: above a few tenths, other work was going on. */
    loadBefore: loadavg()[0] ?? Number.NaN,
    ...ROUNDS,
  };
  report.say(
    `${machine.date}, commit ${machine.commit}, ${machine.cpu}, Node ${machine.node}, ` +
      `${PINNED ? "servers pinned to one core, load to another" : "**nothing pinned**"}, load average before: ` +
      `${machine.loadBefore.toFixed(2)}. Servers take turns; medians of ${ROUNDS.rounds} rounds of ${ROUNDS.seconds} s.`,
  );
  const states = PRINCIPALS.map((principals) => ({ principals, directory: join(folder, `state-${principals}`) }));
  const lines: LineFigures[] = [];
  for (const { principals, directory } of states) {
    await mkdir(directory);
    lines.push(await learn(principals, directory));
  }
  const many = states.at(-1) as (typeof states)[number];
  if (wants("servers", "latency", "envoy")) {
    const load = await startLoad();
    let field: Field | undefined;
    try {
      field = await startField({ states, folder, opaEnvoy: values["opa-envoy"] }, report);
      if (field.goVersion !== undefined) report.say(`Go server: ${field.goVersion}, GOMAXPROCS=1.`);
      const all = field;
      await section("servers", async () => {
        measured.throughput = await measureThroughput(all, load, ROUNDS, report);
      });
      await section("latency", async () => {
        measured.latency = await measureLatency(all, load, ROUNDS, report);
      });
      await section("envoy", async () => {
        measured.envoy = await measureEnvoy(all, { ...ROUNDS, folder }, report);
      });
    } finally {
      await field?.stop();
      await load.stop();
    }
  }
  const shared = { folder, state: many, quick, ...ROUNDS };
  await section("memory", async () => {
    measured.memory = await measureMemory(shared, report);
  });
  await section("disturbance", async () => {
    measured.disturbance = await measureDisturbance(shared, report);
  });
  await section("scaling", async () => {
    measured.scaling = await measureScaling(shared, report);
  });
  await section("startup", async () => {
    measured.startUpMs = await measureStartUp(shared, report);
  });
  await section("stages", () => measureStages(lines, quick, report));
  printMarks(measured, report);
  report.say(`Took ${rounded((performance.now() - begin) / 1_000)} s.`);
  if (values.json !== undefined) {
    await writeFile(values.json, `${JSON.stringify({ machine, ...report.figures }, undefined, 1)}\n`);
  }
  if (values.markdown !== undefined) await writeFile(values.markdown, report.markdown());
} finally {
  await rm(folder, { recursive: true, force: true });
}

/** A section that fails takes its own figures along, and the run's exit status; not what others measured. */
async function section(name: Section, measure: () => Promise<void>): Promise<void> {
  if (!wants(name)) return;
  try {
    await measure();
  } catch (error) {
    process.exitCode = 1;
    report.skipped(`the section ${name}, which failed`, (error as Error).message);
  }
}

/** In a process of its own: what one learned or optimised must not serve or burden the other. */
async function learn(principals: number, directory: string): Promise<LineFigures> {
  const { stdout } = await run(process.execPath, [
    ...["--expose-gc", "--import=tsx", beside("line.ts")],
    ...[String(principals), quick ? "20000" : "100000", directory],
  ]);
  return JSON.parse(stdout) as LineFigures;
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
