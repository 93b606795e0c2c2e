/** Usage: tsx scripts/find-nats.ts [--install]   Prints the path of a NATS server with JetStream. */

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);

/** The release that is fetched where there is none. */
export const NATS_VERSION = "v2.15.2";
/** Entries of a bucket that expire, and compare-and-set on subjects, work from here on. */
const MINOR_MIN = 10;
const INSTALL_MS_MAX = 600_000;
const ANSWER_MS_MAX = 20_000;

export interface FoundNats {
  readonly path: string;
  /** For example `2.15.2`. */
  readonly version: string;
  readonly from: "NATS_SERVER" | "PATH" | "go" | "cache";
}

/**
 * Looks, in this order, at `$NATS_SERVER`, PATH, `~/go/bin`, and the private copy in the user's cache.
 * @param options.install whether a missing private copy may be built with Go (once per user)
 * @throws {Error} that says what to do when there is none, or when `$NATS_SERVER` names something that is none
 */
export async function findNats(options: { readonly install: boolean }): Promise<FoundNats> {
  const named = process.env.NATS_SERVER;
  if (named !== undefined && named !== "") {
    return { path: named, version: await usableVersion(named), from: "NATS_SERVER" };
  }
  const places: readonly { readonly from: FoundNats["from"]; readonly path: () => Promise<string> }[] = [
    { from: "PATH", path: async () => existing("PATH", (process.env.PATH ?? "").split(":")) },
    { from: "go", path: async () => existing("~/go/bin", [join(homedir(), "go", "bin")]) },
    { from: "cache", path: () => cached(options.install) },
  ];
  const tried: string[] = [];
  for (const { from, path } of places) {
    try {
      const found = await path();
      return { path: found, version: await usableVersion(found), from };
    } catch (error) {
      tried.push(`  ${from}: ${(error as Error).message.split("\n")[0]}`); // the next place may have one
    }
  }
  throw new Error(
    [
      `no nats-server found. Wanted: 2.${MINOR_MIN} or newer. Looked at:`,
      ...tried,
      "Any one of these helps:",
      "  npx tsx scripts/find-nats.ts --install   (needs Go; builds it once into the user's cache)",
      "  macOS: brew install nats-server",
      "  or name one yourself: NATS_SERVER=/path/to/nats-server",
    ].join("\n"),
  );
}

async function usableVersion(path: string): Promise<string> {
  const { stdout } = await run(path, ["--version"], { timeout: ANSWER_MS_MAX });
  const version = /\bv(\d+)\.(\d+)\.(\d+)/.exec(stdout);
  if (version === null) throw new Error(`${path} --version said ${JSON.stringify(stdout.trim().slice(0, 80))}`);
  const [, major, minor, patch] = version.map(Number) as [number, number, number, number];
  if (major < 2 || (major === 2 && minor < MINOR_MIN)) {
    throw new Error(`${path} is ${major}.${minor}.${patch}, wanted 2.${MINOR_MIN} or newer`);
  }
  return `${major}.${minor}.${patch}`;
}

function existing(name: string, folders: readonly string[]): string {
  const found = folders.map((folder) => join(folder, "nats-server")).find((path) => existsSync(path));
  if (found === undefined) throw new Error(`no nats-server in ${name}`);
  return found;
}

/** Builds beside the target and moves it into place once it runs, so that a broken build is never found. */
async function cached(install: boolean): Promise<string> {
  const base = process.env.XDG_CACHE_HOME;
  const parent = join(base === undefined || base === "" ? join(homedir(), ".cache") : base, "sallyport");
  const folder = join(parent, `nats-${NATS_VERSION}`);
  const path = join(folder, "nats-server");
  if (existsSync(path)) return path;
  if (!install) throw new Error(`nothing in ${folder}`);
  await mkdir(parent, { recursive: true });
  const scratch = await mkdtemp(`${folder}-`);
  try {
    await run("go", ["install", `github.com/nats-io/nats-server/v2@${NATS_VERSION}`], {
      timeout: INSTALL_MS_MAX,
      env: { ...process.env, GOBIN: scratch },
    });
    await usableVersion(join(scratch, "nats-server"));
    await rename(scratch, folder).catch((error: NodeJS.ErrnoException) => {
      // Another process was faster; its copy was built the same way.
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  return path;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    console.log((await findNats({ install: process.argv.includes("--install") })).path);
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
  }
}
