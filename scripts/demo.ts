/** Usage: npm run demo [-- --once]   Plays a theft behind a real Envoy; with --once unattended, checking every step. */

import { keepWorking, showDecisions } from "./demo/live.ts";
import { playScenario, type Step } from "./demo/scenario.ts";
import { runCommand } from "./demo/sidecar.ts";
import { createWorld, type World } from "./demo/world.ts";

const once = process.argv.includes("--once");
const unknown = process.argv.slice(2).filter((argument) => argument !== "--once");
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(" ")}. Usage: npm run demo [-- --once]`);
  process.exit(2);
}

const colors: Readonly<Record<string, string>> = { allow: "32", challenge: "33", deny: "31", terminate: "35" };

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}

async function main(): Promise<number> {
  console.log("setting up: Envoy, certificates, three services, a sidecar beside each …");
  const world = await createWorld((line) => console.log(line));
  const ended = new AbortController();
  try {
    const started = performance.now();
    console.log(`live pages: ${pages(world)}\n`);
    const shown = once ? undefined : showDecisions(world, (text) => console.log(`  ${text}`), ended.signal);
    const steps = await playScenario(world, (step) => console.log(line(step)));
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    const wrong = steps.filter(({ expected, real }) => expected !== real);
    console.log(`\n${table(steps)}\n`);
    console.log(`${steps.length - wrong.length} of ${steps.length} steps as expected, ${seconds} s`);
    if (!once) await untilInterrupted(world, ended);
    await shown;
    return wrong.length === 0 ? 0 : 1;
  } finally {
    ended.abort();
    await world.stop();
  }
}

async function untilInterrupted(world: World, ended: AbortController): Promise<void> {
  const { out } = await runCommand(["locks", "--api", world.orders.sidecar.api]);
  console.log(`\nlocks in force:\n${out}`);
  console.log(`Traffic goes on, and the thief comes back now and then. Look at ${pages(world)}`);
  console.log("Press Ctrl-C to end.\n");
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => ended.abort());
  await keepWorking(world, ended.signal);
}

function pages({ orders, inventory, ledger }: World): string {
  return [orders, inventory, ledger].map(({ name, sidecar }) => `${name} http://${sidecar.api}/`).join(", ");
}

function line({ title, expected, real, score, reasons }: Step): string {
  const sign = expected === real ? "ok " : "BAD";
  const color = colors[real.split(" ")[0] ?? ""] ?? "0";
  const shown = process.stdout.isTTY ? `\x1b[${color}m${real}\x1b[0m` : real;
  return `${sign} ${title}: ${shown}, score ${score}${reasons === "" ? "" : `  ${reasons}`}`;
}

function table(steps: readonly Step[]): string {
  const rows = [
    ["step", "expected", "real", "score", "reasons"],
    ...steps.map(({ title, expected, real, score, reasons }) => [title, expected, real, String(score), reasons]),
  ];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => (row[column] ?? "").length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === 4 ? cell : cell.padEnd(widths[column] ?? 0)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
