/** Builds a bundle that nobody has signed yet: the same inputs give the same bytes, on every machine. */

import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  type Bundle,
  BundleSchema,
  ChunkRefSchema,
  ChunkSchema,
  FileSchema,
  ManifestSchema,
} from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { BUNDLE_BYTES_MAX, CHUNKS_MAX, MANIFEST_BYTES_MAX } from "./bundle-file.ts";
import { cut } from "./chunks.ts";
import { readManifestPayload, writeManifestPayload } from "./manifest.ts";

export interface BundleInput {
  readonly name: string;
  readonly revision: number;
  readonly issuedAtMs: number;
  readonly expiresAtMs: number;
  /** The policy file among `files`. */
  readonly policy: string;
  /** Content by the name that the policy gives. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** Signed roots after the first. */
  readonly roots: readonly string[];
  /** Version of the last root. */
  readonly rootVersion: number;
}

/**
 * Builds a bundle without signatures.
 * @throws {OperatingError} ERR_BUNDLE_INVALID or ERR_BUNDLE_TOO_LARGE when no verifier would take it
 */
export function buildBundle(input: BundleInput): Bundle {
  const label = `bundle ${input.name}`;
  const total = [...input.files.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  if (total > BUNDLE_BYTES_MAX) throw tooLarge(label, `files of at most ${BUNDLE_BYTES_MAX} bytes`, total);
  const pieces = new Map<string, Uint8Array>();
  const files = [...input.files]
    // By code units, not by anybody's alphabet: the order is the same everywhere.
    .sort(([left], [right]) => (left < right ? -1 : 1))
    .map(([name, content]) => {
      const chunks = cut(content).map((data) => {
        const sha256 = createHash("sha256").update(data).digest();
        pieces.set(sha256.toString("hex"), data);
        return create(ChunkRefSchema, { sha256, size: data.byteLength });
      });
      return create(FileSchema, { name, size: BigInt(content.byteLength), chunks });
    });
  if (pieces.size > CHUNKS_MAX) throw tooLarge(label, `at most ${CHUNKS_MAX} chunks`, pieces.size);
  const payload = writeManifestPayload(
    create(ManifestSchema, {
      name: input.name,
      revision: BigInt(input.revision),
      issuedAt: timestampFromMs(input.issuedAtMs),
      expiresAt: timestampFromMs(input.expiresAtMs),
      policy: input.policy,
      files,
      rootVersion: input.rootVersion,
    }),
  );
  const read = readManifestPayload(payload);
  if (typeof read === "string") throw new OperatingError("ERR_BUNDLE_INVALID", `${label}: ${read}`);
  const manifest = JSON.stringify({ payload: Buffer.from(payload).toString("base64url"), signatures: [] });
  // Room is left for the signatures to come.
  if (manifest.length > MANIFEST_BYTES_MAX - SIGNATURES_BYTES_MAX) {
    throw tooLarge(label, `a manifest of at most ${MANIFEST_BYTES_MAX - SIGNATURES_BYTES_MAX} bytes`, manifest.length);
  }
  return create(BundleSchema, {
    roots: [...input.roots],
    manifest,
    chunks: [...pieces.values()].map((data) => create(ChunkSchema, { data })),
  });
}

/** Room for two hundred signatures of some 300 bytes each. */
const SIGNATURES_BYTES_MAX = 128 * 1024;

function tooLarge(label: string, expected: string, got: number): OperatingError {
  return new OperatingError("ERR_BUNDLE_TOO_LARGE", `${label}: expected ${expected}, got ${got}`);
}
