/** Usage: tsx scripts/find-h2-tools.ts [--install]   Prints the paths of the tools that test HTTP/2 and gRPC from outside. */

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { cacheDirectory, cached, existing, goInstalled } from "./tool-cache.ts";

const run = promisify(execFile);

/** Conformance of servers to RFC 9113 and RFC 7541, case by case. It has no go.mod: its own dependencies are Go's choice. */
export const H2SPEC_VERSION = "v2.2.1+incompatible";
/** Load by way of grpc-go. */
export const GHZ_VERSION = "v0.93.0";
const INSTALL_MS_MAX = 600_000;
const ANSWER_MS_MAX = 20_000;

/** Debian's packages that h2load runs with and that a bare system lacks. */
const H2LOAD_PACKAGES = ["nghttp2-client", "libnghttp2-14", "libev4", "libjansson4", "libjemalloc2"];
const GO_CLIENT = fileURLToPath(new URL("../test/transport/conformance/go-client", import.meta.url));

/** What is asked for; `go-client` is the client in test/transport/conformance/go-client. */
export type H2Tool = "h2spec" | "ghz" | "h2load" | "go-client";
export const H2_TOOLS: readonly H2Tool[] = ["h2spec", "ghz", "h2load", "go-client"];

export interface FoundH2Tool {
  readonly path: string;
  /** Directories of the libraries that it needs, for `LD_LIBRARY_PATH`; none where the system has them. */
  readonly libraries: readonly string[];
}

/**
 * Looks on PATH (not for the client, which must be this source's) and at the private copy in the user's cache.
 * @param options.install whether a missing private copy may be made: with Go, and for h2load from Debian's packages, without root
 * @throws {Error} that says what is missing
 */
export async function findH2Tool(tool: H2Tool, options: { readonly install: boolean }): Promise<FoundH2Tool> {
  const onPath = tool === "go-client" ? undefined : existing(tool, (process.env.PATH ?? "").split(":"));
  if (onPath !== undefined) return alone(onPath);
  switch (tool) {
    case "h2spec":
      return alone(await goInstalled(tool, `github.com/summerwind/h2spec/cmd/h2spec@${H2SPEC_VERSION}`, options));
    case "ghz":
      return alone(await goInstalled(tool, `github.com/bojand/ghz/cmd/ghz@${GHZ_VERSION}`, options));
    case "h2load":
      return await unpackedH2load(options.install);
    case "go-client":
      return await builtClient(options.install);
    default:
      throw new RangeError(`no such tool: ${tool satisfies never}`);
  }
}

/** A program that needs no library beside the system's. */
function alone(path: string): FoundH2Tool {
  return { path, libraries: [] };
}

/** Rebuilt when its source, its dependencies or Go change. */
async function builtClient(install: boolean): Promise<FoundH2Tool> {
  const { stdout } = await run("go", ["env", "GOVERSION"], { cwd: GO_CLIENT, timeout: ANSWER_MS_MAX });
  const hash = createHash("sha256").update(stdout);
  for (const name of ["go.mod", "go.sum", "main.go"]) hash.update(await readFile(join(GO_CLIENT, name)));
  const folder = join(cacheDirectory(), `go-client-${hash.digest("hex").slice(0, 16)}`);
  await cached(folder, "go-client", install, async (scratch) => {
    const target = join(scratch, "go-client");
    await run("go", ["build", "-trimpath", "-o", target, "."], { cwd: GO_CLIENT, timeout: INSTALL_MS_MAX });
  });
  return { path: join(folder, "go-client"), libraries: [] };
}

async function unpackedH2load(install: boolean): Promise<FoundH2Tool> {
  const folder = join(cacheDirectory(), "h2load");
  const inside = join("usr", "bin", "h2load");
  await cached(folder, inside, install, async (scratch) => {
    await run("apt-get", ["download", "--quiet", ...H2LOAD_PACKAGES], { cwd: scratch, timeout: INSTALL_MS_MAX });
    const packages = (await readdir(scratch)).filter((name) => name.endsWith(".deb"));
    for (const name of packages) {
      await run("dpkg", ["-x", name, "."], { cwd: scratch, timeout: ANSWER_MS_MAX });
      await rm(join(scratch, name));
    }
    const LD_LIBRARY_PATH = (await librariesIn(scratch)).join(":");
    const env = { ...process.env, LD_LIBRARY_PATH };
    await run(join(scratch, inside), ["--version"], { timeout: ANSWER_MS_MAX, env });
  });
  return { path: join(folder, inside), libraries: await librariesIn(folder) };
}

/** `usr/lib` and its folder for this machine's architecture, such as `x86_64-linux-gnu`. */
async function librariesIn(folder: string): Promise<readonly string[]> {
  const lib = join(folder, "usr", "lib");
  return [lib, ...(await readdir(lib)).map((name) => join(lib, name))];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const tool of H2_TOOLS) {
    try {
      console.log((await findH2Tool(tool, { install: process.argv.includes("--install") })).path);
    } catch (error) {
      console.error(`${tool}: ${(error as Error).message}`); // the others are still told
      process.exitCode = 1;
    }
  }
}
