/** Stand-in. */
import { OperatingError } from "../model/errors.ts";
export const BUNDLE_BYTES_MAX = 256 * 1024 * 1024;
export function isBundle(bytes: Uint8Array): boolean {
  return Buffer.from(bytes.subarray(0, 8)).toString("latin1") === "SPBUNDLE";
}
export function readBundle(_bytes: Uint8Array, label: string): never {
  throw new OperatingError("ERR_BUNDLE_INVALID", `${label}: expected a bundle, got other bytes`);
}
