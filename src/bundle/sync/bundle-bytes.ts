/** Reads a bundle file within bounds, from the bytes that are read once. */

import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { OperatingError } from "../../model/errors.ts";

/** How a bundle file begins, as it is or as gzip. */
const BEGINNINGS = [Buffer.from("SPBUNDLE1"), Buffer.from([0x1f, 0x8b])];
const BUNDLE_NAME = /\.bundle(?:\.gz)?$/;
const READ_BYTES = 1024 * 1024;

/**
 * The bytes of a bundle file; `undefined` when the file is something else, is missing or cannot be read: whoever loads
 * it says so in its own words.
 * @throws {OperatingError} ERR_BUNDLE_TOO_LARGE, told by the length before a byte of it is read
 */
export async function readBundleFile(path: string, label: string, bytesMax: number): Promise<Uint8Array | undefined> {
  let file: FileHandle;
  try {
    // Non-blocking, so that opening a pipe by mistake does not wait for its writer.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return undefined; // fails closed: the loader reports it, the last good policy stays
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) return undefined;
    const head = Buffer.alloc(BEGINNINGS[0]!.length);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    const begins = BEGINNINGS.some((beginning) =>
      beginning.equals(head.subarray(0, Math.min(bytesRead, beginning.length))),
    );
    if (!begins && !BUNDLE_NAME.test(path)) return undefined;
    if (stat.size > bytesMax) throw tooLarge(label, `${stat.size} bytes`, bytesMax);
    return await readAll(file, label, bytesMax);
  } finally {
    await file.close();
  }
}

export function tooLarge(label: string, found: string, bytesMax: number): OperatingError {
  return new OperatingError(
    "ERR_BUNDLE_TOO_LARGE",
    `${label}: expected a bundle of at most ${bytesMax} bytes (policy-bytes-max), got ${found}`,
  );
}

/** A file may grow while it is read: the bound holds for what is read, not for what the length said. */
async function readAll(file: FileHandle, label: string, bytesMax: number): Promise<Uint8Array> {
  const pieces: Buffer[] = [];
  let total = 0;
  for (;;) {
    const piece = Buffer.alloc(READ_BYTES);
    const { bytesRead } = await file.read(piece, 0, piece.length, total);
    if (bytesRead === 0) return Buffer.concat(pieces, total);
    total += bytesRead;
    if (total > bytesMax) throw tooLarge(label, "more", bytesMax);
    pieces.push(piece.subarray(0, bytesRead));
  }
}
