/** The bundles that are handed out: their manifests, the differences between them, and their pieces as they travel. */

import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import { readJws } from "../bundle/jws.ts";
import { readManifestPayload } from "../bundle/manifest.ts";
import type { Bundle, ChunkRef, Manifest } from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import {
  type BundleRef,
  ChunkEncoding,
  type EncodedChunk,
  EncodedChunkSchema,
  RevisionSchema,
} from "../gen/sallyport/control/v1/control_pb.ts";
import { OperatingError } from "../model/errors.ts";

/** Compressed pieces that stay larger than this share of themselves travel as they are. */
const GZIP_PAYS = 0.9;

/** Pieces that travel with the news itself, all together; more is fetched by whoever needs it. */
const INLINE_BYTES_MAX = 64 * 1024;

/** Differences kept ready; the oldest goes. Few bases are in use at a time: a fleet moves together. */
const DIFFERENCES_MAX = 64;

interface Volume {
  readonly ref: BundleRef;
  readonly roots: readonly string[];
  readonly manifest: string;
  readonly chunks: ReadonlyMap<string, ChunkRef>;
}

export class Library {
  private readonly volumes = new Map<string, Volume>();
  private readonly chunks = new Map<string, EncodedChunk>();
  private readonly differences = new Map<string, Uint8Array>();
  private bytesHeld = 0;

  /** Bundles held. */
  get size(): number {
    return this.volumes.size;
  }

  /** Bytes of all pieces as they travel. */
  get bytes(): number {
    return this.bytesHeld;
  }

  has(digest: string): boolean {
    return this.volumes.has(digest);
  }

  /**
   * Takes a bundle in. Whether it is to be believed was decided before.
   * @throws {OperatingError} ERR_BUNDLE_INVALID when pieces are missing: it could not be handed out whole
   */
  add(ref: BundleRef, bundle: Bundle): void {
    if (this.volumes.has(ref.digest)) return;
    const chunks = chunksOf(bundle.manifest);
    const given = new Map(bundle.chunks.map(({ data }) => [createHash("sha256").update(data).digest("hex"), data]));
    for (const name of chunks.keys()) {
      if (!given.has(name) && !this.chunks.has(name)) {
        throw new OperatingError("ERR_BUNDLE_INVALID", `bundle ${ref.name}:${ref.revision}: a piece is missing`);
      }
    }
    for (const [name, { sha256 }] of chunks) {
      if (!this.chunks.has(name)) this.chunks.set(name, encoded(sha256, given.get(name)!));
    }
    this.volumes.set(ref.digest, { ref, roots: bundle.roots, manifest: bundle.manifest, chunks });
    this.count();
  }

  /** Forgets all other bundles, and the pieces that only they had. */
  keep(digests: ReadonlySet<string>): void {
    for (const digest of this.volumes.keys()) if (!digests.has(digest)) this.volumes.delete(digest);
    const needed = new Set([...this.volumes.values()].flatMap(({ chunks }) => [...chunks.keys()]));
    for (const name of this.chunks.keys()) if (!needed.has(name)) this.chunks.delete(name);
    for (const key of this.differences.keys()) {
      if (!this.volumes.has(key.slice(key.indexOf(" ") + 1))) this.differences.delete(key);
    }
    this.count();
  }

  chunk(sha256: Uint8Array): EncodedChunk | undefined {
    return this.chunks.get(Buffer.from(sha256).toString("hex"));
  }

  /**
   * The news of a bundle to those who have `base`: encoded once, the same bytes for all of them.
   * @returns `undefined` when the bundle is not held
   */
  revision(digest: string, base: string | undefined): Uint8Array | undefined {
    const target = this.volumes.get(digest);
    if (target === undefined) return undefined;
    const from = base === undefined ? undefined : this.volumes.get(base);
    const key = `${from?.ref.digest ?? ""} ${digest}`;
    const ready = this.differences.get(key);
    if (ready !== undefined) return ready;
    const missing = [...target.chunks].filter(([name]) => from?.chunks.has(name) !== true);
    const parts = missing.map(([name]) => this.chunks.get(name)!);
    const inline = parts.reduce((sum, { data }) => sum + data.length, 0) <= INLINE_BYTES_MAX ? parts : [];
    const made = toBinary(
      RevisionSchema,
      create(RevisionSchema, {
        bundle: target.ref,
        roots: [...target.roots],
        manifest: target.manifest,
        missing: missing.map(([, ref]) => ref),
        chunks: inline,
        baseKnown: from !== undefined,
      }),
    );
    const oldest = this.differences.keys().next();
    if (this.differences.size >= DIFFERENCES_MAX && oldest.done !== true) this.differences.delete(oldest.value);
    this.differences.set(key, made);
    return made;
  }

  private count(): void {
    this.bytesHeld = [...this.chunks.values()].reduce((sum, { data }) => sum + data.length, 0);
  }
}

/**
 * The pieces that a manifest names, each once, by SHA-256 in hex.
 * @param manifest JWS; its signatures are not looked at
 * @throws {OperatingError} ERR_BUNDLE_INVALID
 */
export function chunksOf(manifest: string): ReadonlyMap<string, ChunkRef> {
  const { files } = manifestOf(manifest).manifest;
  return new Map(
    files.flatMap((file) => file.chunks.map((ref) => [Buffer.from(ref.sha256).toString("hex"), ref] as const)),
  );
}

/**
 * What a manifest says, whether or not it is to be believed.
 * @throws {OperatingError} ERR_BUNDLE_INVALID
 */
export function manifestOf(text: string): { readonly manifest: Manifest; readonly digest: string } {
  const { bytes } = readJws(text, "manifest");
  const manifest = readManifestPayload(bytes);
  if (typeof manifest === "string") throw new OperatingError("ERR_BUNDLE_INVALID", `manifest: ${manifest}`);
  return { manifest, digest: createHash("sha256").update(bytes).digest("hex") };
}

function encoded(sha256: Uint8Array, data: Uint8Array): EncodedChunk {
  const packed = gzipSync(data);
  const pays = packed.length < data.length * GZIP_PAYS;
  return create(EncodedChunkSchema, {
    sha256,
    size: data.length,
    encoding: pays ? ChunkEncoding.GZIP : ChunkEncoding.IDENTITY,
    data: pays ? new Uint8Array(packed) : new Uint8Array(data),
  });
}
