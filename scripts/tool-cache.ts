/** Where tools for tests are kept between runs: one folder for each, in the user's cache, whole or not there. */

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** A large tool takes Go minutes on one core. */
const INSTALL_MS_MAX = 900_000;
const ANSWER_MS_MAX = 20_000;

/** `$XDG_CACHE_HOME/sallyport`, or `~/.cache/sallyport`. */
export function cacheDirectory(): string {
  const base = process.env.XDG_CACHE_HOME;
  return join(base === undefined || base === "" ? join(homedir(), ".cache") : base, "sallyport");
}

/** The first of the folders that has a file of this name. */
export function existing(name: string, folders: readonly string[]): string | undefined {
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/**
 * Makes `folder` beside its place and moves it there once `make` has proved it, so that a broken one is never found.
 * @param file what the folder must hold, relative to it
 * @param install whether it may be made
 * @throws {Error} when it is missing and may not be made, or `make` failed
 */
export async function cached(
  folder: string,
  file: string,
  install: boolean,
  make: (scratch: string) => Promise<void>,
): Promise<void> {
  if (existsSync(join(folder, file))) return;
  if (!install) throw new Error(`nothing in ${folder}`);
  await mkdir(cacheDirectory(), { recursive: true });
  const scratch = await mkdtemp(`${folder}-`);
  try {
    await make(scratch);
    await rename(scratch, folder).catch((error: NodeJS.ErrnoException) => {
      // Another process was faster; its copy was proved the same way.
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/**
 * The program `tool`, built once with Go.
 * @param module path and version of its package: `example.org/x/cmd/tool@v1.2.3`
 * @param options.proof arguments with which a good one ends well
 * @param options.flags of `go install`; a copy that was built with others is another
 */
export async function goInstalled(
  tool: string,
  module: string,
  options: { readonly install: boolean; readonly proof?: readonly string[]; readonly flags?: readonly string[] },
): Promise<string> {
  const { install, proof = ["--version"], flags = [] } = options;
  const version = module.slice(module.indexOf("@") + 1);
  const how =
    flags.length === 0 ? "" : `-${createHash("sha256").update(JSON.stringify(flags)).digest("hex").slice(0, 8)}`;
  const folder = join(cacheDirectory(), `${tool}-${version}${how}`);
  await cached(folder, tool, install, async (scratch) => {
    await run("go", ["install", ...flags, module], {
      timeout: INSTALL_MS_MAX,
      env: { ...process.env, GOBIN: scratch },
    });
    await run(join(scratch, tool), [...proof], { timeout: ANSWER_MS_MAX });
  });
  return join(folder, tool);
}
