/** Reads from the lockfile which packages the program needs at run time, and how they hang together. */

import { readFileSync } from "node:fs";
import { join, posix } from "node:path";

/** One entry of `packages` in package-lock.json (lockfileVersion 3), as far as it is read here. */
export interface LockedPackage {
  readonly name?: string;
  readonly version: string;
  /** Subresource integrity: `ALGORITHM-BASE64`, several separated by blanks. */
  readonly integrity?: string;
  /** SPDX licence identifier or expression, as the package states it. */
  readonly license?: string;
  readonly dev?: boolean;
  readonly devOptional?: boolean;
  readonly optional?: boolean;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

export interface Lock {
  readonly name: string;
  readonly version: string;
  /** By place, such as `node_modules/a/node_modules/b`; the project itself is `""`. */
  readonly packages: Readonly<Record<string, LockedPackage>>;
}

export interface ProductionPackage {
  /** Where it is installed, such as `node_modules/@grpc/grpc-js`. */
  readonly place: string;
  readonly name: string;
  readonly version: string;
  readonly license: string;
  readonly integrity: string;
  /** Places of the packages that it asks for, as Node finds them from there; sorted. */
  readonly needs: readonly string[];
}

/** @throws {Error} when it is not a lockfile of version 3, the only one that tells what is for development */
export function readLock(root: string): Lock {
  const path = join(root, "package-lock.json");
  const lock = JSON.parse(readFileSync(path, "utf8")) as Lock & { readonly lockfileVersion?: number };
  if (lock.lockfileVersion !== 3) throw new Error(`${path}: expected lockfileVersion 3, got ${lock.lockfileVersion}`);
  return lock;
}

/**
 * Every package that an installation without development dependencies has, sorted by place.
 * @throws {Error} naming the package that has no licence or integrity, or that is asked for and not locked
 */
export function productionPackages(lock: Lock): readonly ProductionPackage[] {
  return Object.entries(lock.packages)
    .filter(([place, { dev, devOptional }]) => place !== "" && dev !== true && devOptional !== true)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([place, entry]) => ({
      place,
      name: entry.name ?? nameOf(place),
      version: entry.version,
      license: stated(entry.license, `${place}: license`),
      integrity: stated(entry.integrity, `${place}: integrity`),
      needs: needsOf(lock, place),
    }));
}

/** Places of what the package at `place` (`""`: the project) asks for at run time; sorted. */
export function needsOf(lock: Lock, place: string): readonly string[] {
  const entry = lock.packages[place];
  if (entry === undefined) throw new Error(`package-lock.json: expected an entry ${JSON.stringify(place)}, found none`);
  const needs: string[] = [];
  for (const name of Object.keys(entry.dependencies ?? {})) {
    const found = resolvedPlace(lock, place, name);
    if (found === undefined)
      throw new Error(`package-lock.json: ${place || "the project"} asks for ${name}, which is not locked`);
    needs.push(found);
  }
  // What is optional may be for another platform, and is then not there.
  for (const name of Object.keys(entry.optionalDependencies ?? {})) {
    const found = resolvedPlace(lock, place, name);
    if (found !== undefined) needs.push(found);
  }
  return needs.sort();
}

/** Node's own search: the package's node_modules first, then those of each folder above. */
function resolvedPlace(lock: Lock, from: string, name: string): string | undefined {
  for (let folder = from; ; folder = posix.dirname(folder)) {
    if (folder === ".") folder = "";
    const place = posix.join(folder, "node_modules", name);
    if (Object.hasOwn(lock.packages, place)) return place;
    if (folder === "") return undefined;
  }
}

function nameOf(place: string): string {
  return place.slice(place.lastIndexOf("node_modules/") + "node_modules/".length);
}

function stated(value: string | undefined, what: string): string {
  if (value === undefined || value === "") throw new Error(`package-lock.json: ${what}: expected a value, found none`);
  return value;
}
