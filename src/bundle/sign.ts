/** Signs bundles and roots, one key after another; and keeps the chain of roots in a file between rotations. */

import { create } from "@bufbuild/protobuf";
import { type Bundle, BundleSchema } from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import type { TrustRoot } from "../model/bundle.ts";
import { OperatingError } from "../model/errors.ts";
import { addSignature, readJws, type SigningKey, unsignedJws, writeJws } from "./jws.ts";
import { parseTrustRoot, readRootPayload, writeRootPayload, writeTrustRoot } from "./trust.ts";

/** Adds the signature of a key to a bundle's manifest. */
export async function signBundle(bundle: Bundle, key: SigningKey, label = "bundle"): Promise<Bundle> {
  const jws = await addSignature(readJws(bundle.manifest, `${label}: manifest`), "sallyport-manifest+jws", key);
  return create(BundleSchema, { roots: bundle.roots, manifest: writeJws(jws), chunks: bundle.chunks });
}

/** A root that nobody has signed yet, as text. */
export function unsignedRoot(root: TrustRoot): string {
  return writeJws(unsignedJws(writeRootPayload(root)));
}

/** Adds the signature of a key to a root. */
export async function signRoot(text: string, key: SigningKey, label = "root"): Promise<string> {
  return writeJws(await addSignature(readJws(text, label), "sallyport-root+jws", key));
}

/** The root in a signed text, of which no signature was looked at. */
export function claimedRoot(text: string, label: string): TrustRoot {
  const root = readRootPayload(readJws(text, label).bytes);
  if (typeof root === "string") throw new OperatingError("ERR_BUNDLE_INVALID", `${label}: ${root}`);
  return root;
}

/** The first root, as it was handed out, and all that came after it, signed. */
export interface RootChain {
  readonly first: TrustRoot;
  readonly roots: readonly string[];
}

/** The text of a roots file. */
export function writeRootChain({ first, roots }: RootChain): string {
  return `${JSON.stringify({ first, roots: roots.map((text) => JSON.parse(text) as unknown) }, undefined, 2)}\n`;
}

/**
 * Reads a roots file, or a key file as a chain of one. Signatures are not looked at.
 * @throws {OperatingError} ERR_KEY_INVALID
 */
export function readRootChain(text: string, file: string): RootChain {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Fails closed: the reader of key files says what is wrong, and where.
  }
  if (typeof value !== "object" || value === null || !("first" in value)) {
    return { first: parseTrustRoot(text, file), roots: [] };
  }
  const { first, roots, ...others } = value as Record<string, unknown>;
  if (!Array.isArray(roots) || Object.keys(others).length > 0) {
    throw new OperatingError("ERR_KEY_INVALID", `${file}: expected a roots file of first and roots, got other members`);
  }
  return {
    first: parseTrustRoot(writeTrustRoot(first as TrustRoot), `${file}: first`),
    roots: roots.map((root) => JSON.stringify(root)),
  };
}
