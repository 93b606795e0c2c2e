/**
 * Usage: tsx scripts/bundle.ts
 *
 * Writes the program into dist/: the modules of src joined to few files, since finding, reading and linking each module
 * costs a start more than what is in it. What a command loads late stays a file of its own; packages stay where npm puts
 * them. Names of functions are kept, and maps lead back to the sources (`node --enable-source-maps`).
 */

import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

/** Where Node starts, by what becomes of it: the program, its thread, and the library for callers. */
export const ENTRIES: Readonly<Record<string, string>> = {
  main: "src/main.ts",
  // Where the code that starts it is.
  "parts/load-worker": "src/bundle/load-worker.ts",
  "client/client": "src/client/client.ts",
};

export interface BundledFile {
  /** Relative to the project, with `/`, such as `dist/main.js`. */
  readonly path: string;
  readonly bytes: Uint8Array;
}

/**
 * The program, in files that lie one folder below `dist`, as sources lie one folder below `src`: what they find relative to
 * themselves is at the same place. The same sources make the same files.
 * @param root a checkout that is installed (`npm ci`)
 * @returns modules, each followed by its map; sorted by path
 * @throws {Error} naming what cannot be bundled
 */
export function bundled(root: string, entries: Readonly<Record<string, string>> = ENTRIES): readonly BundledFile[] {
  const { outputFiles } = buildSync({
    absWorkingDir: root,
    entryPoints: { ...entries },
    outdir: "dist",
    chunkNames: "parts/[name]-[hash]",
    bundle: true,
    splitting: true,
    packages: "external",
    platform: "node",
    format: "esm",
    target: "node20.19",
    sourcemap: "linked",
    sourcesContent: false,
    write: false,
    logLevel: "silent", // told by what is thrown
  });
  return outputFiles
    .map(({ path, contents }) => ({ path: path.slice(join(root, "/").length).replaceAll("\\", "/"), bytes: contents }))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Writes the files, and takes away what an earlier build left of its own. */
function write(root: string): void {
  const files = bundled(root);
  const kept = new Set(files.map(({ path }) => path));
  for (const name of readdirSync(join(root, "dist"), { recursive: true, encoding: "utf8" })) {
    const path = `dist/${name.replaceAll("\\", "/")}`;
    if (/\.js(?:\.map)?$/.test(path) && !kept.has(path)) rmSync(join(root, path));
  }
  for (const { path, bytes } of files) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), bytes);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) write(fileURLToPath(new URL("..", import.meta.url)));
