/** The manifest: what a bundle holds, as the JSON that is signed. */

import { fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { createValidator } from "@bufbuild/protovalidate";
import { type Manifest, ManifestSchema } from "../gen/sallyport/bundle/v1/bundle_pb.ts";

const validator = createValidator();

/** The bytes to sign; the same manifest gives the same bytes. */
export function writeManifestPayload(manifest: Manifest): Uint8Array {
  return Buffer.from(JSON.stringify(toJson(ManifestSchema, manifest)));
}

/**
 * Reads the payload of a manifest.
 * @returns the manifest, or what is wrong with it
 */
export function readManifestPayload(payload: Uint8Array): Manifest | string {
  let manifest: Manifest;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(payload);
    manifest = fromJson(ManifestSchema, JSON.parse(text) as JsonValue);
  } catch {
    // Fails closed: a manifest that does not fit the schema names nothing.
    return "expected the JSON form of a manifest, got something else";
  }
  const result = validator.validate(ManifestSchema, manifest);
  if (result.kind !== "valid") return `it breaks its schema: ${result.error.message}`;
  return manifestFault(manifest);
}

function manifestFault(manifest: Manifest): Manifest | string {
  const names = new Set<string>();
  for (const { name } of manifest.files) {
    const fault = fileNameFault(name);
    if (fault !== undefined) return `files: expected ${fault}, got ${JSON.stringify(name)}`;
    if (names.has(name)) return `files: expected every name once, got ${JSON.stringify(name)} twice`;
    names.add(name);
  }
  if (!names.has(manifest.policy)) {
    return `policy: expected one of its files, got ${JSON.stringify(manifest.policy)}`;
  }
  if (timestampMs(manifest.expiresAt!) <= timestampMs(manifest.issuedAt!))
    return "expected to expire after it is issued";
  return manifest;
}

/** What the name of a file in a bundle must be and is not; `undefined` for a name that stays within the bundle. */
export function fileNameFault(name: string): string | undefined {
  if (name === "" || name.startsWith("/") || /^[A-Za-z]:/.test(name)) return "a name relative to the policy's folder";
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for.
  if (/[\u0000-\u001f\u007f\\]/.test(name)) return "a name without control characters and backslashes";
  return name.split("/").includes("..") ? "a name that does not leave the policy's folder" : undefined;
}
