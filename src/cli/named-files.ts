/** Reads and writes the files that a command names. */

import { createReadStream } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { OperatingError } from "../model/errors.ts";

/**
 * Reads a file, or a pipe to its end, so that keys need not lie on disk.
 * @throws {OperatingError} ERR_DATA_UNREADABLE when it cannot be read or is longer than `bytesMax`
 */
export async function readInput(path: string, bytesMax: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let length = 0;
  try {
    for await (const part of createReadStream(path) as AsyncIterable<Buffer>) {
      length += part.byteLength;
      if (length > bytesMax) break;
      parts.push(part);
    }
  } catch (cause) {
    // Fails closed: a command does nothing with half of its input.
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "an error";
    const got = code === "ENOENT" ? "no such file" : code;
    throw new OperatingError("ERR_DATA_UNREADABLE", `${path}: expected a file that can be read, got ${got}`, { cause });
  }
  if (length > bytesMax) {
    throw new OperatingError("ERR_DATA_UNREADABLE", `${path}: expected at most ${bytesMax} bytes, got more`);
  }
  return Buffer.concat(parts);
}

/**
 * Writes a file whole or not at all, in place of an earlier one.
 * @throws {OperatingError} ERR_STATE_UNWRITABLE
 */
export async function writeOutput(path: string, content: Uint8Array | string): Promise<void> {
  const draft = `${path}.${process.pid}.tmp`;
  try {
    const file = await open(draft, "wx", 0o644);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(draft, path);
  } catch (cause) {
    // Fails closed: what stood there before stays as it was.
    await rm(draft, { force: true }).catch(() => {});
    throw unwritable(path, cause);
  }
}

/**
 * Writes a private file that must not be there yet: mode 0600, never over another.
 * @throws {OperatingError} ERR_STATE_UNWRITABLE
 */
export async function writePrivate(path: string, content: string): Promise<void> {
  try {
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (cause) {
    // Fails closed: an earlier key is never lost to a later one.
    throw unwritable(path, cause);
  }
}

function unwritable(path: string, cause: unknown): OperatingError {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "an error";
  const got = code === "EEXIST" ? "a file that is there already" : code;
  return new OperatingError("ERR_STATE_UNWRITABLE", `${path}: expected a place to write to, got ${got}`, { cause });
}
