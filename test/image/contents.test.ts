import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, cpSync, existsSync, rmSync, statSync, writeFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import fc from "fast-check";
import t from "tap";
import { productionPackages, readLock } from "../../scripts/image-contents/production.ts";
import { FOLDERS_LEFT_OUT, isRunFile, isRunPackage, PACKAGES_LEFT_OUT } from "../../scripts/image-contents/pruning.ts";
import { tarOf } from "../../scripts/image-contents/tar.ts";
import { builtFiles, gatherTree } from "../../scripts/image-contents/tree.ts";
import { sizeTable, writeTree } from "../../scripts/image-contents.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const tree = gatherTree(ROOT, "image", 0);
const paths = new Set(tree.files.map(({ path }) => path));
const packages = productionPackages(readLock(ROOT));

/**
 * Every file that the program, its threads and its library for callers can load, late and conditional loads included: the
 * bundler finds what an import or a require can reach, as Node would.
 */
async function reachable(): Promise<readonly string[]> {
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: ["dist/main.js", "dist/parts/load-worker.js", "dist/client/client.js"],
    bundle: true,
    platform: "node",
    format: "esm",
    metafile: true,
    write: false,
    outdir: "unused",
    logLevel: "error",
  });
  return Object.keys(metafile.inputs);
}

/** Loaded by the names of their files, on threads that Sallyport does not start: pino's transports. */
const REACHED_BY_NAME = [
  "node_modules/pino-abstract-transport",
  "node_modules/process-warning",
  "node_modules/real-require",
  "node_modules/split2",
];

t.test("everything that the program can load is in the image", async (t) => {
  const files = await reachable();
  t.ok(files.length > 800, `followed imports through ${files.length} files`);
  t.same(
    files.filter((file) => !paths.has(file)),
    [],
  );
});

t.test("exactly the packages that nothing can load are left out", async (t) => {
  const places = packages.map(({ place }) => place).sort((a, b) => b.length - a.length);
  const reached = new Set((await reachable()).map((file) => places.find((place) => file.startsWith(`${place}/`))));
  const unreached = packages.filter(({ place }) => !reached.has(place)).map(({ place }) => place);
  t.same(
    unreached.filter((place) => !isRunPackage(place)),
    packages.map(({ place }) => place).filter((place) => !isRunPackage(place)),
  );
  t.same(unreached.filter(isRunPackage), REACHED_BY_NAME);
});

t.test("no rule on what is left out has outlived what it was for", async (t) => {
  for (const [name, folders] of Object.entries(FOLDERS_LEFT_OUT)) {
    for (const folder of folders) {
      t.ok(existsSync(join(ROOT, "node_modules", name, folder)), `${name}/${folder}`);
    }
  }
  const places = new Set(packages.map(({ place }) => place));
  t.same(
    PACKAGES_LEFT_OUT.filter((place) => !places.has(place)),
    [],
  );
});

t.test("nothing is in it for developers, compilers and debuggers", async (t) => {
  const dev = Object.entries(readLock(ROOT).packages).filter(([place, { dev }]) => place !== "" && dev === true);
  t.ok(dev.length > 50);
  for (const { path } of tree.files) {
    if (/\.(?:[cm]?ts|map)$/.test(path) || /^(?:src|test|scripts|docs)\//.test(path)) t.fail(path);
    const owner = dev.find(([place]) => path.startsWith(`${place}/`));
    if (owner !== undefined) t.fail(`${path} of the development dependency ${owner[0]}`);
  }
  const manifest = JSON.parse(contentOf("package.json")) as Readonly<Record<string, unknown>>;
  t.match(manifest, { name: "sallyport", type: "module" });
  t.notOk("devDependencies" in manifest || "scripts" in manifest);
});

t.test("each package that is in it has its manifest, and its licence where it ships one", async (t) => {
  for (const { place } of packages.filter(({ place }) => isRunPackage(place))) {
    t.ok(paths.has(`${place}/package.json`), place);
  }
  const licences = [...paths].filter((path) => /^node_modules\/.*\/licen[cs]e[^/]*$/i.test(path));
  t.ok(licences.length >= 45, `${licences.length} licence files`);
  t.ok(paths.has("LICENSE") && paths.has("NOTICE"));
});

const judged: readonly (readonly [file: string, packageName: string, isKept: boolean])[] = [
  ["lib/a.js", "x", true],
  ["lib/a.d.ts", "x", false],
  ["lib/a.d.mts", "x", false],
  ["lib/a.js.map", "x", false],
  ["README.md", "x", false],
  ["LICENSE.md", "x", true],
  ["licence.txt", "x", true],
  ["vendor/NOTICE", "x", true],
  ["license.ts", "x", false],
  ["test/a.js", "x", false],
  ["lib/test/a.js", "x", true],
  ["test.js", "x", true],
  ["docs/LICENSE", "x", true],
  ["dist/cjs/a.js", "@bufbuild/cel", false],
  ["dist/cjsx/a.js", "@bufbuild/cel", true],
  ["dist/cjs/a.js", "x", true],
  ["a.js", "constructor", true],
];
for (const [file, packageName, isKept] of judged) {
  t.test(`${file} of ${packageName} is ${isKept ? "kept" : "left out"}`, async (t) => {
    t.equal(isRunFile(packageName, file), isKept);
  });
}

t.test("it is small: below 15 MiB, of which the table of networks takes the most", async (t) => {
  const bytes = tree.files.reduce((sum, file) => sum + file.bytes.length, 0);
  t.ok(bytes < 15 * 1_048_576, `${bytes} bytes`);
  t.equal(tree.shares[0]?.of, "networks.bin");
  t.match(sizeTable(tree), /^\| \*\*all\*\* \| \d+ \| \d+ KiB \| \d+ KiB \|$/m);
});

t.test("two runs make the same bytes, at one time; another time makes others", async (t) => {
  const sha256 = (seconds: number) =>
    createHash("sha256")
      .update(tarOf(gatherTree(ROOT, "image", seconds).files, seconds))
      .digest("hex");
  t.equal(sha256(1_700_000_000), sha256(1_700_000_000));
  t.not(sha256(1_700_000_000), sha256(1_700_000_001));
});

t.test("only what was built of the sources that are there is taken", async (t) => {
  const root = join(t.testdir(), "copy");
  for (const part of ["src", "dist", "tsconfig.json"]) cpSync(join(ROOT, part), join(root, part), { recursive: true });
  writeFileSync(join(root, "dist/parts/old-ABCDEFGH.js"), "");
  const built = builtFiles(root);
  t.same(built, builtFiles(ROOT), "what lies in dist from an earlier build stays out");
  t.ok(built.includes("dist/main.js"));
  const taken = [...paths].filter((path) => path.startsWith("dist/") && path !== "dist/data/networks.bin");
  t.same(taken.sort(), built.filter((path) => path.endsWith(".js")).sort());

  const expected = "expected what `npm run build` makes of the sources, found";
  const client = join(root, "dist/client/client.js");
  appendFileSync(client, "\n");
  t.throws(() => builtFiles(root), { message: `dist/client/client.js: ${expected} another` });
  rmSync(client);
  t.throws(() => builtFiles(root), { message: `dist/client/client.js: ${expected} none` });
});

t.test("a folder that holds something is not written into", async (t) => {
  const folder = t.testdir({ old: "x" });
  t.throws(() => writeTree(tree.files, folder, 0), { message: /expected an empty folder/ });
});

t.test("modes and times are the same under any umask", async (t) => {
  const folder = join(t.testdir(), "image");
  const before = process.umask(0o077);
  try {
    writeTree(tree.files, folder, 1_700_000_000);
  } finally {
    process.umask(before);
  }
  const mode = (path: string): number => statSync(join(folder, path)).mode & 0o777;
  t.equal(mode("."), 0o755);
  t.equal(mode("node_modules/@bufbuild"), 0o755);
  t.equal(mode("dist/main.js"), 0o755);
  t.equal(mode("dist/client/client.js"), 0o644);
  t.equal(statSync(join(folder, "node_modules")).mtimeMs, 1_700_000_000_000);
  t.equal(statSync(join(folder, "LICENSE")).mtimeMs, 1_700_000_000_000);
});

t.test("tar takes the archive for what it is: sorted, of root, of one time", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "sallyport-tar-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const archive = join(folder, "image.tar");
  await writeFile(archive, tarOf(tree.files, 1_700_000_000));
  const listing = execFileSync("tar", ["--list", "--verbose", "--numeric-owner", "--utc", "--file", archive], {
    encoding: "utf8",
    maxBuffer: 1 << 24,
  });
  const lines = listing.trimEnd().split("\n");
  t.same(
    lines.filter((line) => !/^(?:-rw-r--r--|-rwxr-xr-x|drwxr-xr-x) 0\/0 +\d+ 2023-11-14 22:13 /.test(line)),
    [],
  );
  const names = lines.map((line) => line.slice(line.indexOf("22:13 ") + 6));
  t.same(names, [...names].sort());
  t.same(names.filter((name) => !name.endsWith("/")).sort(), [...paths].sort());
  t.ok(names.includes("node_modules/@bufbuild/"), "folders have entries of their own");
});

t.test("a tar archive gives back what was put in, whatever the paths and contents", async (t) => {
  const segment = fc.stringMatching(/^[a-zA-Z0-9@._-]{1,40}$/).filter((text) => text !== "." && text !== "..");
  const file = fc.record({
    path: fc.array(segment, { minLength: 1, maxLength: 4 }).map((parts) => posix.join("top", ...parts)),
    bytes: fc.uint8Array({ maxLength: 1_500 }),
    executable: fc.boolean(),
  });
  const files = fc
    .uniqueArray(file, { selector: ({ path }) => path, maxLength: 12 })
    .filter((list) => !list.some(({ path }) => list.some((other) => other.path.startsWith(`${path}/`))));
  fc.assert(
    fc.property(files, (list) => {
      t.same(
        unpacked(tarOf(list, 7)),
        [...list]
          .sort((a, b) => (a.path < b.path ? -1 : 1))
          .map(({ path, bytes }) => [path, Buffer.from(bytes).toString("hex")]),
      );
    }),
    { numRuns: 60 },
  );
  t.throws(() => tarOf([{ path: "a".repeat(101), bytes: new Uint8Array(), executable: false }], 0), /ustar/);
});

function contentOf(path: string): string {
  return Buffer.from(tree.files.find((file) => file.path === path)?.bytes ?? []).toString();
}

/** A reader of its own, by POSIX's layout. */
function unpacked(archive: Uint8Array): readonly (readonly [path: string, hex: string])[] {
  const buffer = Buffer.from(archive);
  const text = (at: number, length: number) => buffer.toString("utf8", at, at + length).replace(/\0.*$/s, "");
  const found: (readonly [string, string])[] = [];
  for (let at = 0; buffer[at] !== 0; ) {
    const size = Number.parseInt(text(at + 124, 12), 8);
    const prefix = text(at + 345, 155);
    const path = `${prefix === "" ? "" : `${prefix}/`}${text(at, 100)}`;
    if (text(at + 156, 1) === "0") found.push([path, buffer.toString("hex", at + 512, at + 512 + size)]);
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return found;
}
