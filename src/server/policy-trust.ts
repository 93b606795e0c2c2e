/** Whose signatures count at the start: the operator's key file, and what was learned since from signed bundles. */

import { readFile } from "node:fs/promises";
import type { PolicyState } from "../bundle/sync/state.ts";
import { parseTrustRoot, readTrust, trustFor } from "../bundle/trust.ts";
import type { Trust, TrustRoot } from "../model/bundle.ts";
import { OperatingError } from "../model/errors.ts";
import { errorFields, type Logger } from "../telemetry/log.ts";

/**
 * @param keyFile `bundle-keys`
 * @param kept text of the trust file in the state folder
 * @throws {OperatingError} ERR_KEY_INVALID when the key file cannot be used
 */
export async function startTrust(
  keyFile: string,
  kept: string | undefined,
  state: PolicyState | undefined,
  log: Logger,
): Promise<Trust> {
  const root = await readKeyFile(keyFile);
  if (kept === undefined || state === undefined) return trustFor(root, undefined);
  try {
    return trustFor(root, readTrust(kept, state.trustPath));
  } catch (error) {
    // Begins with the operator's own keys: they are what everything else was derived from.
    await state.setAside(state.trustPath).catch(() => undefined); // it will be replaced at the next bundle
    log.error(
      { event: "policy.trust.unusable", path: state.trustPath, ...errorFields(error) },
      "starts with bundle-keys; an older bundle would not be noticed until the next one is in force",
    );
    return trustFor(root, undefined);
  }
}

/** @throws {OperatingError} ERR_KEY_INVALID */
export async function readKeyFile(path: string): Promise<TrustRoot> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    throw new OperatingError("ERR_KEY_INVALID", `bundle-keys ${path}: expected a file that can be read`, { cause });
  }
  return parseTrustRoot(text, path);
}
