/** Files in pieces: cut where their content says so, named by their SHA-256, and put together again. */

import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import type { Bundle, Chunk, File, Manifest } from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import { BundleSchema, ChunkSchema } from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import { OperatingError } from "../model/errors.ts";

/** Bounds of a piece; ends of files may be shorter. */
export const CHUNK_MIN = 16 * 1024;
export const CHUNK_MAX = 256 * 1024;

/**
 * Where a piece may end: the rolling hash has these bits clear. Below the mean length more bits are asked for, above
 * it fewer, so that lengths stay near 64 KiB (normalised chunking, Xia et al., FastCDC, USENIX ATC 2016).
 */
const MEAN = 64 * 1024;
const MASK_BEFORE_MEAN = 0xffff_c000;
const MASK_AFTER_MEAN = 0xfffc_0000;

/**
 * A number for each byte value, taken from SHA-256: part of the format, in that other numbers would cut elsewhere.
 */
const GEAR: Uint32Array = Uint32Array.from({ length: 256 }, (_, byte) =>
  createHash("sha256").update(`sallyport chunk ${byte}`).digest().readUInt32BE(0),
);

/**
 * Cuts content into pieces. A cut depends on the 32 bytes before it alone, so that what is added or removed at one
 * place moves few of the cuts after it.
 *
 * @returns views of `content`, in order; none of empty content
 */
export function cut(content: Uint8Array): readonly Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let start = 0; start < content.byteLength; ) {
    const end = endOfPiece(content, start);
    pieces.push(content.subarray(start, end));
    start = end;
  }
  return pieces;
}

function endOfPiece(content: Uint8Array, start: number): number {
  const last = Math.min(start + CHUNK_MAX, content.byteLength);
  const mean = start + MEAN;
  let hash = 0;
  // The hash forgets a byte after 32 more: it is warm at the first place where a piece may end.
  for (let at = Math.min(start + CHUNK_MIN - 32, last); at < last; at++) {
    hash = ((hash << 1) + GEAR[content[at]!]!) | 0;
    if (at + 1 >= start + CHUNK_MIN && (hash & (at < mean ? MASK_BEFORE_MEAN : MASK_AFTER_MEAN)) === 0) return at + 1;
  }
  return last;
}

/** The name of a piece: its SHA-256, hex. */
export function chunkId(data: Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

/** Names of all pieces of a manifest, each once, in the order in which bundles hold them. */
export function chunkIds({ files }: Manifest): ReadonlySet<string> {
  return new Set(files.flatMap(({ chunks }) => chunks.map(({ sha256 }) => Buffer.from(sha256).toString("hex"))));
}

/** A bundle without the pieces that its receiver has. */
export function deltaOf(bundle: Bundle, known: ReadonlySet<string>): Bundle {
  return withChunks(
    bundle,
    bundle.chunks.filter(({ data }) => !known.has(chunkId(data))),
  );
}

/**
 * A delta with the pieces that it leaves out.
 *
 * @param manifest the delta's own, verified or not: what is put together is verified after
 * @param store gives a piece that the receiver has, by its name
 * @throws {OperatingError} ERR_BUNDLE_INVALID when a piece is in neither
 */
export function completeDelta(
  delta: Bundle,
  manifest: Manifest,
  store: (id: string) => Uint8Array | undefined,
  label: string,
): Bundle {
  const sent = new Map(delta.chunks.map(({ data }) => [chunkId(data), data]));
  const chunks = [...chunkIds(manifest)].map((id) => {
    const data = sent.get(id) ?? store(id);
    if (data === undefined) {
      throw new OperatingError("ERR_BUNDLE_INVALID", `${label}: expected chunk ${id}, got a delta without it`);
    }
    return create(ChunkSchema, { data });
  });
  return withChunks(delta, chunks);
}

/**
 * Puts the files of a verified manifest together. Each piece is hashed once; every one that is named must be there,
 * and every one that is there must be named.
 *
 * @param bytesMax most bytes of all files together: one piece may stand in many files
 * @returns content by name
 * @throws {OperatingError} ERR_BUNDLE_INVALID or ERR_BUNDLE_TOO_LARGE
 */
export function joinFiles(
  manifest: Manifest,
  chunks: readonly Chunk[],
  bytesMax: number,
  label: string,
): ReadonlyMap<string, Uint8Array> {
  const pieces = new Map<string, Uint8Array>();
  const unused = new Set<string>();
  for (const { data } of chunks) {
    const id = chunkId(data);
    if (pieces.has(id)) throw invalid(label, "each chunk once", `chunk ${id} twice`);
    pieces.set(id, data);
    unused.add(id);
  }
  let total = 0;
  for (const { size } of manifest.files) total += Number(size);
  if (total > bytesMax) {
    throw new OperatingError(
      "ERR_BUNDLE_TOO_LARGE",
      `${label}: expected files of at most ${bytesMax} bytes, got ${total}`,
    );
  }
  const files = new Map<string, Uint8Array>();
  for (const file of manifest.files) files.set(file.name, joinFile(file, pieces, unused, label));
  const [left] = unused;
  if (left !== undefined) throw invalid(label, "chunks that the manifest names", `chunk ${left}`);
  return files;
}

function joinFile(
  { name, size, chunks }: File,
  pieces: ReadonlyMap<string, Uint8Array>,
  unused: Set<string>,
  label: string,
): Uint8Array {
  const sizes = chunks.reduce((sum, chunk) => sum + chunk.size, 0);
  if (BigInt(sizes) !== size) throw invalid(`${label}: ${name}`, `${size} bytes`, `chunks of ${sizes} bytes`);
  const parts = chunks.map((chunk) => {
    const id = Buffer.from(chunk.sha256).toString("hex");
    const data = pieces.get(id);
    if (data === undefined) throw invalid(`${label}: ${name}`, `chunk ${id}`, "none of that content");
    if (data.byteLength !== chunk.size) {
      throw invalid(`${label}: ${name}`, `chunk ${id} of ${chunk.size} bytes`, `${data.byteLength} bytes`);
    }
    unused.delete(id);
    return data;
  });
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
}

function withChunks(bundle: Bundle, chunks: Chunk[]): Bundle {
  return create(BundleSchema, { roots: bundle.roots, manifest: bundle.manifest, chunks });
}

function invalid(label: string, expected: string, got: string): OperatingError {
  return new OperatingError("ERR_BUNDLE_INVALID", `${label}: expected ${expected}, got ${got}`);
}
