/** Keys given to a command: once they are, nothing unsigned is taken. */

import { parseTrustRoot, trustFor } from "../bundle/trust.ts";
import type { Trust, TrustRoot } from "../model/bundle.ts";
import { type Flag, type Invocation, type Terminal, usage } from "./command.ts";
import { readInput } from "./named-files.ts";

/** Most bytes of a key file. */
export const KEY_FILE_BYTES_MAX = 1024 * 1024;

/** For every command that takes a policy. */
export const BUNDLE_KEYS: Flag = {
  name: "bundle-keys",
  value: "FILE",
  summary:
    "Key file (see `sallyport bundle root`): takes only bundles signed by enough of its keys. Default $SALLYPORT_BUNDLE_KEYS.",
};

/**
 * What a command verifies by; `undefined` when no keys are given, and unsigned policies are taken.
 * @throws {OperatingError} ERR_KEY_INVALID, ERR_DATA_UNREADABLE; ERR_USAGE for an empty name, which is no way to turn it off
 */
export async function trustFrom(
  { values }: Pick<Invocation, "values">,
  { environment }: Pick<Terminal, "environment">,
  flag = BUNDLE_KEYS.name,
): Promise<Trust | undefined> {
  const path = values[flag] ?? environment.SALLYPORT_BUNDLE_KEYS;
  if (path === undefined) return undefined;
  if (path === "") throw usage(`--${flag} or SALLYPORT_BUNDLE_KEYS: expected a key file, got an empty name`);
  return trustFor(await readKeyFile(path), undefined);
}

/** @throws {OperatingError} ERR_KEY_INVALID, ERR_DATA_UNREADABLE */
export async function readKeyFile(path: string): Promise<TrustRoot> {
  return parseTrustRoot((await readInput(path, KEY_FILE_BYTES_MAX)).toString("utf8"), path);
}
