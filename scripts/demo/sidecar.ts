/** Runs `sallyport serve` as its users do: a process, with a policy file and its own sockets. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
const START_MS_MAX = 15_000;
const STOP_MS_MAX = 10_000;

export interface SidecarProcess {
  readonly extAuthz: string;
  readonly streams: string;
  /** `HOST:PORT` of the local API and live page. */
  readonly api: string;
  readonly health: string;
  readonly pid: number;
  /** Private socket: changes need no token there. */
  readonly apiSocket: string;
  /** Path of the program's own log. */
  readonly log: string;
  /** Ends it as Kubernetes would; resolves with the exit status. */
  stop(): Promise<number | null>;
  kill(): Promise<void>;
}

export interface SidecarOptions {
  readonly name: string;
  /** For logs and sockets. */
  readonly folder: string;
  readonly policy?: string | undefined;
  /** Further flags. */
  readonly flags?: readonly string[] | undefined;
}

/** @throws {Error} with what the process said when it does not start */
export async function startSidecarProcess({
  name,
  folder,
  policy,
  flags = [],
}: SidecarOptions): Promise<SidecarProcess> {
  if (!existsSync(MAIN)) throw new Error("dist/main.js is missing: run `npm ci` or `npm run build` first");
  const log = join(folder, `${name}.log`);
  const apiSocket = join(folder, `${name}.sock`);
  const child = spawn(
    process.execPath,
    [
      MAIN,
      "serve",
      ...["--ext-authz-address", "127.0.0.1:0", "--streams-address", "127.0.0.1:0"],
      ...["--api-address", "127.0.0.1:0", "--health-address", "127.0.0.1:0", "--api-socket", apiSocket],
      ...(policy === undefined ? [] : ["--policy", policy]),
      ...flags,
    ],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  const onExit = (): void => void child.kill("SIGKILL");
  process.once("exit", onExit);
  const file = createWriteStream(log, { flags: "a" });
  let said = "";
  const started = new Promise<Record<string, string>>((resolve, reject) => {
    const impatience = setTimeout(() => reject(new Error(`sidecar ${name} did not start:\n${said}`)), START_MS_MAX);
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      file.write(text);
      if (said.length < 65_536) said += text;
      const line = said.split("\n").find((candidate) => candidate.includes('"event":"started"'));
      if (line === undefined) return;
      clearTimeout(impatience);
      resolve(JSON.parse(line) as Record<string, string>);
    });
    child.once("exit", (code) => {
      clearTimeout(impatience);
      reject(new Error(`sidecar ${name} ended with ${code}:\n${said}`));
    });
  });
  const addresses = await started;
  return {
    extAuthz: addresses.extAuthz ?? "",
    streams: addresses.streams ?? "",
    api: addresses.api ?? "",
    health: addresses.health ?? "",
    pid: child.pid ?? 0,
    apiSocket,
    log,
    stop: async () => {
      process.off("exit", onExit);
      return await ended(child, "SIGTERM");
    },
    kill: async () => {
      process.off("exit", onExit);
      await ended(child, "SIGKILL");
    },
  };
}

async function ended(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
  const gone = once(child, "exit") as Promise<[number | null]>;
  child.kill(signal);
  const impatience = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
  const [code] = await gone;
  clearTimeout(impatience);
  return code;
}

/** Runs one command of the program. */
export async function runCommand(args: readonly string[]): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let out = "";
  let err = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    err += text;
  });
  const [code] = (await once(child, "close")) as [number | null];
  return { code, out, err };
}
