/** Programs under measurement: started on a core of their own where there is one, and asked what they used. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";

const PROBE = new URL("probe.mjs", import.meta.url).href;
const STOP_MS_MAX = 10_000;
const START_MS_MAX = 20_000;

/** Servers run here, one under load at a time; the load generator runs on the other core. */
export const SERVER_CORE = 0;
export const LOAD_CORE = 1;

/** Whether programs are pinned to cores: `taskset` (Linux) is there, and at least two cores are. */
export const PINNED: boolean = availableParallelism() > 1 && hasTaskset();

export interface Memory {
  /** Resident bytes as found, after a forced collection, and the live JavaScript heap then. */
  readonly rssAsIs: number;
  readonly rssAfterGc: number;
  readonly heapUsed: number;
}

export interface Measured {
  readonly pid: number;
  /** CPU microseconds of all its threads so far, user and system. */
  cpuUs(): Promise<number>;
  memory(): Promise<Memory>;
  /** Sends a message and waits for the next one that comes back. */
  ask<Answer>(question: object | string): Promise<Answer>;
  stop(): Promise<void>;
}

export interface Started extends Measured {
  /** The line that said that it had started. */
  readonly line: string;
}

/**
 * Starts a Node program and waits for a line that `ready` accepts, on its standard output or error.
 * @throws {Error} with what it said when it ends or 20 s pass first
 */
export async function startMeasured(
  args: readonly string[],
  core: number,
  ready: (line: string) => boolean,
): Promise<Started> {
  const node = [process.execPath, "--expose-gc", "--import", PROBE, ...args];
  const [program = "", ...rest] = PINNED ? ["taskset", "-c", String(core), ...node] : node;
  const child = spawn(program, rest, { stdio: ["ignore", "pipe", "pipe", "ipc"] });
  const onExit = (): void => void child.kill("SIGKILL");
  process.once("exit", onExit);
  const line = await firstLine(child, args.join(" "), ready).catch((error: unknown) => {
    child.kill("SIGKILL");
    throw error;
  });
  // One question at a time: the next message is its answer.
  let waiting: { resolve(answer: unknown): void; reject(error: Error): void } | undefined;
  child.on("message", (answer) => waiting?.resolve(answer));
  child.on("exit", () => waiting?.reject(new Error(`${args.join(" ")} ended unasked`)));
  const ask = <Answer>(question: object | string): Promise<Answer> =>
    new Promise<Answer>((resolve, reject) => {
      waiting = { resolve: (answer) => resolve(answer as Answer), reject };
      child.send(question);
    });
  return {
    line,
    pid: child.pid ?? 0,
    cpuUs: async () => (await ask<{ cpuUs: number }>("cpu")).cpuUs,
    memory: () => ask<Memory>("memory"),
    ask,
    stop: async () => {
      process.off("exit", onExit);
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = once(child, "exit");
      child.kill("SIGTERM");
      const impatience = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
      await gone;
      clearTimeout(impatience);
    },
  };
}

/** Path of a script beside this one. */
export function beside(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url));
}

function firstLine(child: ChildProcess, name: string, ready: (line: string) => boolean): Promise<string> {
  return new Promise((resolve, reject) => {
    let said = "";
    const fail = (why: string): void => reject(new Error(`${name} ${why}:\n${said}`));
    const impatience = setTimeout(() => fail("did not start"), START_MS_MAX);
    const hear = (text: string): void => {
      if (said.length > 65_536) return;
      said += text;
      const line = said.split("\n").slice(0, -1).find(ready);
      if (line === undefined) return;
      clearTimeout(impatience);
      resolve(line);
    };
    child.stdout?.setEncoding("utf8").on("data", hear);
    child.stderr?.setEncoding("utf8").on("data", hear);
    child.once("exit", (code) => {
      clearTimeout(impatience);
      fail(`ended with ${code}`);
    });
  });
}

function hasTaskset(): boolean {
  try {
    execFileSync("taskset", ["-c", `${SERVER_CORE},${LOAD_CORE}`, "true"], { stdio: "ignore" });
    return true;
  } catch {
    return false; // measures unpinned
  }
}
