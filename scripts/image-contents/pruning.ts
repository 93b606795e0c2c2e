/** Says which files of the packages that the program needs are of use at run time. */

import { posix } from "node:path";

/** Types for the compiler, maps for debuggers and pages for people: nothing that Node loads. */
const KINDS_LEFT_OUT = /\.(?:[cm]?ts|tsx|map|md|markdown|flow|tsbuildinfo)$/i;

/** Folders at the top of a package that hold what its authors work with. */
const TOP_FOLDERS_LEFT_OUT = new Set([
  ".github",
  "benchmark",
  "benchmarks",
  "coverage",
  "doc",
  "docs",
  "example",
  "examples",
  "test",
  "tests",
]);

/** Kept whatever it is called: the licences ask for it. */
const LEGAL = /^(?:licen[cs]e|notice|copying|copyright|authors)/i;

/**
 * Folders by package that the program never loads. That nothing in it can ask for them is tested by following every
 * import from `dist/`.
 */
export const FOLDERS_LEFT_OUT: Readonly<Record<string, readonly string[]>> = {
  // The same code once more for `require`; all that import it are ES modules.
  "@bufbuild/cel": ["dist/cjs"],
  "@bufbuild/cel-spec": ["dist/cjs", "dist/esm/testdata"],
  "@bufbuild/protobuf": ["dist/commonjs"],
  "@bufbuild/protovalidate": ["dist/cjs"],
  "@bufbuild/re2": ["dist/cjs"],
  "@connectrpc/connect": ["dist/cjs"],
  "@connectrpc/connect-node": ["dist/cjs"],
  // For browsers.
  "csv-parse": ["dist"],
  protobufjs: ["dist"],
  yaml: ["browser"],
};

/**
 * Packages that others ask for and the program never loads: type declarations, and what only the command-line tool of
 * `@grpc/proto-loader` uses. An image goes without them, so that scanners have no more to report than what can run; an npm
 * package keeps them, since npm would fetch what is missing. Test as above.
 */
export const PACKAGES_LEFT_OUT: readonly string[] = [
  "node_modules/@types/node",
  "node_modules/cliui",
  "node_modules/color-convert",
  "node_modules/color-name",
  "node_modules/escalade",
  "node_modules/get-caller-file",
  "node_modules/require-directory",
  "node_modules/undici-types",
  "node_modules/y18n",
  "node_modules/yargs",
  "node_modules/yargs-parser",
];

/** Whether the package at `place` can be reached; what lies inside one that cannot goes with it. */
export function isRunPackage(place: string): boolean {
  return !PACKAGES_LEFT_OUT.some((left) => place === left || place.startsWith(`${left}/`));
}

/** @param path of a file inside the package, with `/` */
export function isRunFile(packageName: string, path: string): boolean {
  if (LEGAL.test(posix.basename(path)) && !/\.[cm]?[jt]s$/i.test(path)) return true;
  if (KINDS_LEFT_OUT.test(path)) return false;
  const top = path.slice(0, Math.max(0, path.indexOf("/")));
  if (TOP_FOLDERS_LEFT_OUT.has(top)) return false;
  const folders = Object.hasOwn(FOLDERS_LEFT_OUT, packageName) ? FOLDERS_LEFT_OUT[packageName] : undefined;
  return folders === undefined || !folders.some((folder) => path.startsWith(`${folder}/`));
}
