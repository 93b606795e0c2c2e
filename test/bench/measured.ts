/** Programs under measurement: started on a core of their own where there is one, and asked what they used. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";

const PROBE = new URL("probe.mjs", import.meta.url).href;
const STOP_MS_MAX = 10_000;
const START_MS_MAX = 30_000;

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

/** How late a Node program's event loop ran since it was last asked, beyond the millisecond between two looks. */
export interface LoopDelay {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** Any program: what the system knows of it. */
export interface Program {
  readonly pid: number;
  /** The line that said that it had started. */
  readonly line: string;
  /** CPU microseconds of all its threads so far, user and system. */
  cpuUs(): Promise<number>;
  stop(): Promise<void>;
}

/** A Node program, which answers questions as well. */
export interface Measured extends Program {
  memory(): Promise<Memory>;
  /** The first question starts the watch. Watching takes a few per cent of a core: not while CPU is measured. */
  loopDelay(): Promise<LoopDelay>;
  stopLoopDelay(): Promise<void>;
  /** Sends a message and waits for the next one that comes back. */
  ask<Answer>(question: object | string): Promise<Answer>;
}

export interface ProgramOptions {
  readonly core: number;
  /** Accepts the line, on standard output or error, that says that it has started. */
  readonly ready: (line: string) => boolean;
  readonly env?: Readonly<Record<string, string>>;
}

/**
 * Starts a Node program with the probe in it, and waits for its line.
 * @throws {Error} with what it said when it ends or 30 s pass first
 */
export async function startMeasured(
  args: readonly string[],
  core: number,
  ready: (line: string) => boolean,
): Promise<Measured> {
  const { child, program } = await start(
    [process.execPath, "--expose-gc", "--import", PROBE, ...args],
    { core, ready },
    true,
  );
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
    ...program,
    cpuUs: async () => (await ask<{ cpuUs: number }>("cpu")).cpuUs,
    memory: () => ask<Memory>("memory"),
    loopDelay: () => ask<LoopDelay>("delay"),
    stopLoopDelay: async () => void (await ask("no delay")),
    ask,
  };
}

/**
 * Starts any program and waits for its line.
 * @throws {Error} with what it said when it ends or 30 s pass first
 */
export async function startProgram(command: readonly string[], options: ProgramOptions): Promise<Program> {
  return (await start(command, options, false)).program;
}

/** Puts a running process and all its threads on a core. */
export function pin(pid: number, core: number): void {
  if (PINNED) execFileSync("taskset", ["-a", "-c", "-p", String(core), String(pid)], { stdio: "ignore" });
}

/**
 * CPU microseconds of all living threads of a process (Linux, `/proc/PID/task/TID/schedstat`, to the nanosecond;
 * `/proc/PID/stat` counts in hundredths of a second).
 */
export function cpuUsOf(pid: number): number {
  let ns = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    ns += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "latin1").split(" ")[0]);
  }
  return ns / 1_000;
}

/** Resident bytes of a process (Linux, `VmRSS` of `/proc/PID/status`). */
export function residentBytesOf(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1];
  return Number(kib) * 1_024;
}

/** Path of a script beside this one. */
export function beside(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url));
}

/** What was started and has not ended: none of it outlives this process. */
const running = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

async function start(
  command: readonly string[],
  { core, ready, env }: ProgramOptions,
  channel: boolean,
): Promise<{ child: ChildProcess; program: Program }> {
  // Setting the core replaces the process by the program: its id stays.
  const [program = "", ...rest] = PINNED ? ["taskset", "-c", String(core), ...command] : command;
  const stdio = channel ? (["ignore", "pipe", "pipe", "ipc"] as const) : (["ignore", "pipe", "pipe"] as const);
  const child = spawn(program, rest, { stdio: [...stdio], env: { ...process.env, ...env } });
  running.add(child);
  child.once("exit", () => running.delete(child));
  const line = await firstLine(child, command.join(" "), ready).catch((error: unknown) => {
    child.kill("SIGKILL");
    throw error;
  });
  const pid = child.pid ?? 0;
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill("SIGTERM");
    const impatience = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
    await gone;
    clearTimeout(impatience);
  };
  return { child, program: { line, pid, cpuUs: async () => cpuUsOf(pid), stop } };
}

function firstLine(child: ChildProcess, name: string, ready: (line: string) => boolean): Promise<string> {
  return new Promise((resolve, reject) => {
    let said = "";
    const fail = (why: string): void => {
      clearTimeout(impatience);
      reject(new Error(`${name} ${why}:\n${said}`));
    };
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
    child.once("error", (error) => fail(error.message));
    child.once("exit", (code) => fail(`ended with ${code}`));
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
