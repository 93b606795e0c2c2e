/** Gathers the files that an image or a self-contained npm package holds, from a built project and its node_modules. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { bundled } from "../bundle.ts";
import { bom, bomText } from "../sbom.ts";
import { type ProductionPackage, productionPackages, readLock } from "./production.ts";
import { isRunFile, isRunPackage } from "./pruning.ts";
import type { TreeFile } from "./tar.ts";

/** `image`: what runs in a container. `npm`: the same, and what npm and people on a host want beside it. */
export type Purpose = "image" | "npm";

export interface Share {
  /** What it is: `sallyport`, `networks.bin`, or a package's place. */
  readonly of: string;
  /** As it lies in node_modules or dist, in bytes. */
  readonly wholeBytes: number;
  /** What of it is in the tree, in bytes; 0: left out. */
  readonly keptBytes: number;
  readonly keptFiles: number;
}

export interface Tree {
  /** Sorted by path. */
  readonly files: readonly TreeFile[];
  /** Largest first. */
  readonly shares: readonly Share[];
}

/** What a person on a host wants at hand: configurations of Envoy, the systemd unit, the first page. */
const HOST_PLACES = ["README.md", "envoy", "packaging"];

/** Runs the program by its name where no shell and no `env` is. A file without an ending is CommonJS to Node. */
const LAUNCHER = '#!/nodejs/bin/node\nimport("../dist/main.js");\n';

/**
 * @param root a checkout that is installed (`npm ci`) and built (`npm run build`)
 * @param seconds since the Unix epoch: the time that the bill of materials states; `undefined` leaves it out
 * @throws {Error} naming what is missing, is not what the lockfile says, or was not built from the sources that are there
 */
export function gatherTree(root: string, purpose: Purpose, seconds: number | undefined): Tree {
  const lock = readLock(root);
  const files: TreeFile[] = [];
  const shares: Share[] = [];

  const take = (of: string, paths: readonly string[], isKept: (path: string) => boolean) => {
    let wholeBytes = 0;
    const before = files.length;
    for (const path of paths) {
      const bytes = readFileSync(join(root, path));
      wholeBytes += bytes.length;
      if (isKept(path)) files.push({ path, bytes, executable: path === "dist/main.js" });
    }
    const kept = files.slice(before);
    const keptBytes = kept.reduce((total, { bytes }) => total + bytes.length, 0);
    shares.push({ of, wholeBytes, keptBytes, keptFiles: kept.length });
  };

  take("sallyport", builtFiles(root), (path) => purpose === "npm" || path.endsWith(".js"));
  take("networks.bin", ["dist/data/networks.bin"], () => true);
  for (const found of productionPackages(lock)) {
    checkInstalled(root, found);
    const isTaken = purpose === "npm" || isRunPackage(found.place);
    take(
      found.place,
      filesUnder(root, found.place).filter((path) => !path.startsWith(`${found.place}/node_modules/`)),
      (path) => isTaken && isRunFile(found.name, path.slice(found.place.length + 1)),
    );
  }
  const beside = ["LICENSE", "NOTICE", ...(purpose === "npm" ? HOST_PLACES : [])];
  take(
    "beside",
    beside.flatMap((place) => filesUnder(root, place)),
    () => true,
  );

  const add = (path: string, text: string, executable = false) =>
    files.push({ path, bytes: Buffer.from(text), executable });
  add("package.json", manifestText(root, purpose));
  add("sbom.cdx.json", bomText(bom(lock, { seconds, isRun: purpose === "npm" ? () => true : isRunPackage })));
  if (purpose === "image") add("bin/sallyport", LAUNCHER, true);

  files.sort((a, b) => (a.path < b.path ? -1 : 1));
  return { files, shares: shares.sort((a, b) => b.keptBytes - a.keptBytes || (a.of < b.of ? -1 : 1)) };
}

/**
 * What the build made of the sources that are there, with maps and types: what an earlier build left in dist/ stays out.
 * @throws {Error} naming what is missing, or was made of other sources
 */
export function builtFiles(root: string): readonly string[] {
  const programs = bundled(root).map(({ path, bytes }) => {
    const found = existsSync(join(root, path)) ? readFileSync(join(root, path)) : undefined;
    if (found?.equals(bytes) === true) return path;
    const got = found === undefined ? "found none" : "found another";
    throw new Error(`${path}: expected what \`npm run build\` makes of the sources, ${got}`);
  });
  const types = filesUnder(root, "src")
    .filter((source) => source.endsWith(".ts"))
    .map((source) => `dist/${source.slice("src/".length, -".ts".length)}.d.ts`);
  const missing = types.find((path) => !existsSync(join(root, path)));
  if (missing !== undefined) throw new Error(`${missing}: expected what \`npm run build\` makes, found none`);
  return [...programs, ...types];
}

/** A package of another version than the locked one would be shipped under a wrong name and hash. */
function checkInstalled(root: string, { place, version }: ProductionPackage): void {
  const path = join(root, place, "package.json");
  if (!existsSync(path)) throw new Error(`${place}: expected version ${version}, found none: run \`npm ci\``);
  const found = (JSON.parse(readFileSync(path, "utf8")) as { readonly version?: string }).version;
  if (found !== version) throw new Error(`${place}: expected version ${version}, got ${found}: run \`npm ci\``);
}

/** The project's own, without what is for developers. For npm it says that all it needs is inside. */
function manifestText(root: string, purpose: Purpose): string {
  const { devDependencies, scripts, files, ...manifest } = JSON.parse(
    readFileSync(join(root, "package.json"), "utf8"),
  ) as Readonly<Record<string, unknown>> & { readonly dependencies: Readonly<Record<string, string>> };
  const bundled = purpose === "npm" ? { bundleDependencies: Object.keys(manifest.dependencies) } : {};
  return `${JSON.stringify({ ...manifest, ...bundled }, null, 2)}\n`;
}

/** The file itself, or all files below the folder: relative to `root`, with `/`. Links are not followed and not taken. */
function filesUnder(root: string, place: string): readonly string[] {
  const path = join(root, place);
  if (!existsSync(path)) throw new Error(`${place}: expected a file or folder, found none`);
  let entries: ReturnType<typeof entriesOf>;
  try {
    entries = entriesOf(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOTDIR") throw error;
    return [place]; // a file
  }
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll("\\", "/"))
    .sort();
}

function entriesOf(path: string) {
  return readdirSync(path, { recursive: true, withFileTypes: true });
}
