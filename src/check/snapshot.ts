/**
 * Everything learned, as bytes: one header line with format, version and time, then what is packed, then a checksum of
 * all before it. Torn or foreign bytes are told apart from good ones before anything is taken over.
 *
 * Ten thousand principals are some megabytes and tens of milliseconds of work. It is therefore done in small steps, in
 * between which requests are answered; `test/bench/snapshots.ts` measures them.
 */

import { createHash } from "node:crypto";
import { OperatingError } from "../model/errors.ts";
import type { EpochMs } from "../model/units.ts";
import { Packer, Unpacker } from "./packing.ts";
import { fromJson } from "./snapshot-json.ts";
import { packState, unpackState } from "./snapshot-packed.ts";
import type { SnapshotSource, SnapshotState } from "./snapshot-state.ts";

const MAGIC = "sallyport-state";
/** Raised whenever the meaning of the bytes changes; versions other than this and the one before are refused. */
const VERSION = 3;
/** One JSON text, its checksum in the header. */
const VERSION_JSON = 2;

const HEADER_BYTES_MAX = 200;
const CHECKSUM_BYTES = 32;
const NEWLINE = 10;

/** Bytes that are handed out at a time, about. */
const SLICE_BYTES = 32 * 1024;

/**
 * Writes a snapshot in small steps. Each principal is as it is at the moment it is written; one that was forgotten
 * meanwhile is left out, one that is new since the first step comes with the next snapshot.
 * @returns the bytes in order, each view good until the next step; `undefined` after a step that has nothing to write yet
 */
export function* snapshotSteps(source: SnapshotSource, now: EpochMs): Generator<Uint8Array | undefined, void> {
  const hash = createHash("sha256");
  const packer = new Packer(SLICE_BYTES);
  packer.raw(Buffer.from(`${MAGIC} ${VERSION} ${Math.floor(now)}\n`));
  for (const _ of packState(source, packer)) {
    if (packer.size < SLICE_BYTES) {
      yield undefined;
      continue;
    }
    const slice = packer.written();
    hash.update(slice);
    yield slice;
    packer.reset();
  }
  hash.update(packer.written());
  packer.raw(hash.digest());
  yield packer.written();
}

/** The same at once. */
export function writeSnapshot(source: SnapshotSource, now: EpochMs): Uint8Array {
  const slices: Uint8Array[] = [];
  for (const slice of snapshotSteps(source, now)) if (slice !== undefined) slices.push(Buffer.from(slice));
  return Buffer.concat(slices);
}

/** @throws {OperatingError} ERR_STATE_INVALID when the bytes are torn, foreign or of another version */
export function readSnapshot(bytes: Uint8Array): SnapshotState {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const newline = buffer.subarray(0, HEADER_BYTES_MAX).indexOf(NEWLINE);
  const header = newline < 0 ? [] : buffer.toString("latin1", 0, newline).split(" ");
  const [magic, version, , headerChecksum = ""] = header;
  if (magic !== MAGIC) throw invalid(`expected a file that begins with "${MAGIC}"`);
  if (version !== String(VERSION) && version !== String(VERSION_JSON)) {
    throw invalid(`expected version ${VERSION_JSON} or ${VERSION}, got ${version?.slice(0, 12)}`);
  }
  const packed = version === String(VERSION);
  const start = newline + 1;
  const end = packed ? buffer.length - CHECKSUM_BYTES : buffer.length;
  const checked = packed ? buffer.subarray(0, Math.max(0, end)) : buffer.subarray(start);
  const checksum = packed ? buffer.toString("hex", Math.max(0, end)) : headerChecksum;
  if (end < start || createHash("sha256").update(checked).digest("hex") !== checksum) {
    throw invalid("the checksum does not match: the file is torn or was changed");
  }
  try {
    return packed ? unpackState(new Unpacker(buffer, start, end)) : fromJson(buffer.toString("utf8", start));
  } catch (cause) {
    // The checksum held, so this is a defect of the writer; memory stays as it was.
    throw new OperatingError("ERR_STATE_INVALID", "state: the content does not have the expected form", { cause });
  }
}

function invalid(message: string): OperatingError {
  return new OperatingError("ERR_STATE_INVALID", `state: ${message}`);
}
