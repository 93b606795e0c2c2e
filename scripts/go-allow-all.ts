/** Usage: tsx scripts/go-allow-all.ts   Builds the Go server that allows everything, once per source, and prints its path. */

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);

const MODULE = fileURLToPath(new URL("go-allow-all", import.meta.url));
const SOURCES = ["go.mod", "go.sum", "main.go"];
/** A first build fetches and compiles grpc-go. */
const BUILD_MS_MAX = 300_000;

export interface GoAllowAll {
  readonly path: string;
  /** For example `go1.26.8`. */
  readonly version: string;
}

/**
 * The built server, from the user's cache directory or made now.
 * @throws {Error} when there is no Go, or when it cannot build (say, without its modules and without a network)
 */
export async function buildGoAllowAll(): Promise<GoAllowAll> {
  const { stdout } = await run("go", ["env", "GOVERSION"], { cwd: MODULE, timeout: BUILD_MS_MAX });
  const version = stdout.trim();
  const hash = createHash("sha256").update(version);
  for (const name of SOURCES) hash.update(await readFile(join(MODULE, name)));
  const path = join(cacheDirectory(), `go-allow-all-${hash.digest("hex").slice(0, 16)}`);
  if (!existsSync(path)) {
    await mkdir(dirname(path), { recursive: true });
    // Beside the target, and moved into place: a build that was cut short is never found.
    const scratch = `${path}.${process.pid}`;
    await run("go", ["build", "-trimpath", "-o", scratch, "."], { cwd: MODULE, timeout: BUILD_MS_MAX });
    await rename(scratch, path);
  }
  return { path, version };
}

function cacheDirectory(): string {
  const base = process.env.XDG_CACHE_HOME;
  return join(base === undefined || base === "" ? join(homedir(), ".cache") : base, "sallyport");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log((await buildGoAllowAll()).path);
