/**
 * Usage: tsx scripts/image-contents.ts [--dir FOLDER] [--tar FILE] [--npm FILE]
 *
 * Makes what a container image holds of Sallyport, from an installed (`npm ci`) and built (`npm run build`) checkout, and
 * prints what takes how much room. The Dockerfile copies in exactly what `--dir` writes.
 *   --dir FOLDER  the files, into a folder that is not there yet or is empty
 *   --tar FILE    the same as a tar archive
 *   --npm FILE    a package for `npm install -g FILE.tgz` that needs no registry
 * SOURCE_DATE_EPOCH is the time of every file (default 0); the same checkout and time make the same bytes.
 */

import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { type TreeFile, tarOf } from "./image-contents/tar.ts";
import { gatherTree, type Tree } from "./image-contents/tree.ts";
import { sourceDateEpoch } from "./sbom.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Writes the files with fixed modes and times, whatever the umask. @throws {Error} when the folder holds something already */
export function writeTree(files: readonly TreeFile[], folder: string, seconds: number): void {
  mkdirSync(folder, { recursive: true });
  if (readdirSync(folder).length > 0) throw new Error(`${folder}: expected an empty folder`);
  const folders = new Set([folder]);
  for (const { path, bytes, executable } of files) {
    const place = join(folder, path);
    mkdirSync(dirname(place), { recursive: true });
    writeFileSync(place, bytes);
    chmodSync(place, executable ? 0o755 : 0o644);
    utimesSync(place, seconds, seconds);
    for (let above = dirname(place); !folders.has(above); above = dirname(above)) folders.add(above);
  }
  for (const above of folders) {
    chmodSync(above, 0o755);
    utimesSync(above, seconds, seconds);
  }
}

/** What npm takes: everything below `package/`. */
export function npmPackageOf(files: readonly TreeFile[], seconds: number): Uint8Array {
  const below = files.map((file) => ({ ...file, path: `package/${file.path}` }));
  return gzipSync(tarOf(below, seconds));
}

/** Packages of at least this share of the whole have a line of their own. */
const LINE_SHARE_MIN = 0.01;

/** Largest first, as a table in Markdown. */
export function sizeTable({ files, shares }: Tree): string {
  const total = files.reduce((sum, { bytes }) => sum + bytes.length, 0);
  const lines = ["| what | files | in the image | as installed |", "| --- | ---: | ---: | ---: |"];
  const line = (of: string, count: number, kept: number, whole: number) =>
    lines.push(`| ${of} | ${count} | ${kib(kept)} | ${kib(whole)} |`);
  const large = shares.filter(({ keptBytes }) => keptBytes >= LINE_SHARE_MIN * total);
  for (const { of, keptFiles, keptBytes, wholeBytes } of large) {
    line(`\`${of.replace(/^node_modules\//, "")}\``, keptFiles, keptBytes, wholeBytes);
  }
  const sum = (of: readonly number[]) => of.reduce((a, b) => a + b, 0);
  const small = shares.filter(({ keptBytes }) => keptBytes > 0 && keptBytes < LINE_SHARE_MIN * total);
  const left = shares.filter(({ keptBytes }) => keptBytes === 0);
  const restFiles = files.length - sum(large.map(({ keptFiles }) => keptFiles));
  const restBytes = total - sum(large.map(({ keptBytes }) => keptBytes));
  line(`${small.length} smaller ones, bill of materials`, restFiles, restBytes, sum(small.map((s) => s.wholeBytes)));
  line(`${left.length} packages left out`, 0, 0, sum(left.map((s) => s.wholeBytes)));
  line("**all**", files.length, total, sum(shares.map((s) => s.wholeBytes)));
  return lines.join("\n");
}

function kib(bytes: number): string {
  return `${(bytes / 1_024).toFixed(0)} KiB`;
}

function main(): void {
  const { values } = parseArgs({
    options: { dir: { type: "string" }, tar: { type: "string" }, npm: { type: "string" } },
  });
  const stated = sourceDateEpoch(process.env);
  const seconds = stated ?? 0;
  const image = gatherTree(ROOT, "image", stated);
  const archive = tarOf(image.files, seconds);
  if (values.dir !== undefined) writeTree(image.files, values.dir, seconds);
  if (values.tar !== undefined) writeFileSync(values.tar, archive);
  if (values.npm !== undefined) writeFileSync(values.npm, npmPackageOf(gatherTree(ROOT, "npm", stated).files, seconds));
  console.log(sizeTable(image));
  console.log(`\nsha256 ${createHash("sha256").update(archive).digest("hex")} (as a tar archive)`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    main();
  } catch (error) {
    console.error((error as Error).message); // fails closed: an image of half a tree is none
    process.exitCode = 1;
  }
}
