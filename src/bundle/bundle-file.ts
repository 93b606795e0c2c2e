/** The bytes of a bundle file: read within bounds, and written the same way every time. */

import { gunzipSync } from "node:zlib";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { type Bundle, BundleSchema } from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import { OperatingError } from "../model/errors.ts";

/** Most bytes of a bundle, and of all its files together, unless a caller says otherwise. */
export const BUNDLE_BYTES_MAX = 256 * 1024 * 1024;

/** Most bytes of a signed manifest: 32,768 chunks and 10,000 files with names of ordinary length. */
export const MANIFEST_BYTES_MAX = 16 * 1024 * 1024;

/** Most bytes of a signed root, and most roots after the first. */
export const ROOT_BYTES_MAX = 1_000_000;
export const ROOTS_MAX = 1_000;

export const CHUNKS_MAX = 32_768;
export const CHUNK_BYTES_MAX = 1024 * 1024;

const MAGIC = Buffer.from("SPBUNDLE1\n");
/** How every form of bundle begins, those of later versions of this program too. */
const FAMILY = Buffer.from("SPBUNDLE");
const GZIP = Buffer.from([0x1f, 0x8b]);

/** Whether bytes claim to be a bundle: by how they begin, compressed with gzip or not. */
export function isBundle(bytes: Uint8Array): boolean {
  return startsWith(bytes, FAMILY) || startsWith(bytes, GZIP);
}

/**
 * Reads a bundle, as it is or compressed with gzip. Nothing in it is verified.
 *
 * @param label its file or address, for messages
 * @param bytesMax most bytes once uncompressed
 * @throws {OperatingError} ERR_BUNDLE_TOO_LARGE or ERR_BUNDLE_INVALID
 */
export function readBundle(bytes: Uint8Array, label: string, bytesMax = BUNDLE_BYTES_MAX): Bundle {
  const plain = startsWith(bytes, GZIP) ? uncompressed(bytes, label, bytesMax) : bytes;
  if (plain.byteLength > bytesMax) throw tooLarge(label, `at most ${bytesMax} bytes`, `${plain.byteLength}`);
  if (!startsWith(plain, MAGIC)) {
    throw invalid(label, "a bundle of form SPBUNDLE1", startsWith(plain, FAMILY) ? "a bundle of another form" : "none");
  }
  const body = plain.subarray(MAGIC.byteLength);
  let bundle: Bundle;
  try {
    measure(body, label);
    bundle = fromBinary(BundleSchema, body, { readUnknownFields: false });
  } catch (cause) {
    // Fails closed: nothing is taken from a bundle that is cut off or damaged.
    if (cause instanceof OperatingError) throw cause;
    throw new OperatingError("ERR_BUNDLE_INVALID", `${label}: expected a whole bundle, got damaged or missing bytes`, {
      cause,
    });
  }
  return bundle;
}

/** The bytes of a bundle file; the same bundle gives the same bytes. */
export function writeBundle(bundle: Bundle): Uint8Array {
  return Buffer.concat([MAGIC, toBinary(BundleSchema, bundle, { writeUnknownFields: false })]);
}

function uncompressed(bytes: Uint8Array, label: string, bytesMax: number): Uint8Array {
  try {
    // Stops as soon as more than the bound has come out, however little went in.
    return gunzipSync(bytes, { maxOutputLength: bytesMax });
  } catch (cause) {
    // Fails closed: what cannot be uncompressed within the bound is refused whole.
    if (cause instanceof Error && "code" in cause && cause.code === "ERR_BUFFER_TOO_LARGE") {
      throw tooLarge(label, `at most ${bytesMax} bytes`, `more, compressed to ${bytes.byteLength}`);
    }
    throw new OperatingError("ERR_BUNDLE_INVALID", `${label}: expected whole gzip data, got damaged or missing bytes`, {
      cause,
    });
  }
}

/** Counts and measures the parts before any is built: a few bytes each could stand for millions of objects. */
function measure(body: Uint8Array, label: string): void {
  const reader = new BinaryReader(body);
  let roots = 0;
  let manifests = 0;
  let chunks = 0;
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (wire !== WireType.LengthDelimited) throw invalid(label, "fields with a length", `field ${field} without`);
    const { byteLength: length } = reader.bytes();
    if (field === 1) {
      if (++roots > ROOTS_MAX) throw tooLarge(label, `at most ${ROOTS_MAX} roots`, "more");
      if (length > ROOT_BYTES_MAX) throw tooLarge(label, `roots of at most ${ROOT_BYTES_MAX} bytes`, `${length}`);
    } else if (field === 2) {
      if (++manifests > 1) throw invalid(label, "one manifest", "several");
      if (length > MANIFEST_BYTES_MAX) {
        throw tooLarge(label, `a manifest of at most ${MANIFEST_BYTES_MAX} bytes`, `${length}`);
      }
    } else if (field === 3) {
      if (++chunks > CHUNKS_MAX) throw tooLarge(label, `at most ${CHUNKS_MAX} chunks`, "more");
      // A chunk is a message of one field: up to four bytes more than its data.
      if (length > CHUNK_BYTES_MAX + 8)
        throw tooLarge(label, `chunks of at most ${CHUNK_BYTES_MAX} bytes`, `${length}`);
    } else throw invalid(label, "roots, a manifest and chunks", `field ${field}`);
  }
  if (manifests === 0) throw invalid(label, "a manifest", "none");
}

function startsWith(bytes: Uint8Array, prefix: Uint8Array): boolean {
  return bytes.byteLength >= prefix.byteLength && prefix.every((byte, index) => bytes[index] === byte);
}

function invalid(label: string, expected: string, got: string): OperatingError {
  return new OperatingError("ERR_BUNDLE_INVALID", `${label}: expected ${expected}, got ${got}`);
}

function tooLarge(label: string, expected: string, got: string): OperatingError {
  return new OperatingError("ERR_BUNDLE_TOO_LARGE", `${label}: expected ${expected}, got ${got}`);
}
