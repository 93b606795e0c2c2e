/** From spawning `serve` with a learned state until `/readyz` says yes; on one core, without any probe in it. */

import { sidecarFiles } from "./field.ts";
import { median, rounded } from "./figures.ts";
import { SERVER_CORE, startProgram } from "./measured.ts";
import { counted, type Shared } from "./memory.ts";
import type { Report } from "./report.ts";
import { saysStarted, serveArguments } from "./servers.ts";

const STARTS = 5;
const POLL_MS = 2;
const READY_MS_MAX = 20_000;

/** @returns milliseconds, median of five */
export async function measureStartUp({ folder, state }: Shared, report: Report): Promise<number> {
  report.title("Start-up");
  const starts: number[] = [];
  for (let i = 0; i < STARTS; i++) {
    const files = await sidecarFiles(folder, state.directory);
    const begin = performance.now();
    const program = await startProgram([process.execPath, ...serveArguments(files)], {
      core: SERVER_CORE,
      ready: saysStarted,
    });
    try {
      await ready((JSON.parse(program.line) as { health: string }).health, begin);
      starts.push(performance.now() - begin);
    } finally {
      await program.stop();
    }
  }
  const [ms, least, most] = [median(starts), Math.min(...starts), Math.max(...starts)].map((one) => rounded(one));
  report.table(
    ["start to ready", "ms", "least..most"],
    [[`with a snapshot of ${counted(state.principals)} principals`, ms as number, `${least}..${most}`]],
  );
  report.figures.startUpMs = starts;
  return ms as number;
}

async function ready(health: string, begin: number): Promise<void> {
  for (;;) {
    const answer = await fetch(`http://${health}/readyz`).catch(() => undefined); // not yet there: asked again
    if (answer?.ok === true) return;
    if (performance.now() - begin > READY_MS_MAX) throw new Error(`${health} was not ready in ${READY_MS_MAX} ms`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
