/** Loads a policy from disk, together with every file that it names. */

import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import type { BundleFacts, Trust } from "../model/bundle.ts";
import { type ErrorCode, OperatingError } from "../model/errors.ts";
import type { Policy } from "../model/policy.ts";
import { readBundle } from "./bundle-file.ts";
import { compilePolicy } from "./compile.ts";
import { type FileContent, namedFiles } from "./files.ts";
import { type PolicyDocument, parsePolicy } from "./parse.ts";
import { fileProblem, type Problem } from "./problem.ts";
import { shippedNetworks } from "./shipped-networks.ts";
import { TEXT_BYTES_MAX } from "./tree.ts";
import { verifyBundle } from "./verify.ts";

export type LoadResult = Loaded | NotLoaded;

export interface Loaded {
  readonly ok: true;
  readonly policy: Policy;
  readonly document: PolicyDocument;
  /** Absolute paths of all files read, the policy's first. */
  readonly files: readonly string[];
  /** SHA-256 of the content of everything read, hex. */
  readonly digest: string;
  /** `undefined`: unsigned. */
  readonly bundle: BundleFacts | undefined;
  /** What to keep once it is in force. */
  readonly trust: Trust | undefined;
  readonly warnings: readonly string[];
}

export interface LoadOptions {
  readonly trust?: Trust;
  readonly nowMs?: number;
  readonly acceptExpired?: boolean;
}

export interface NotLoaded {
  readonly code: ErrorCode;
  readonly ok: false;
  readonly problems: readonly Problem[];
  readonly files: readonly string[];
  readonly digest: string;
}

/**
 * Loads a policy. Names of files in it are relative to its own folder.
 *
 * @param path the policy file
 * @returns the policy, or all problems with it and its files; never throws for bad input
 */
export async function loadPolicy(path: string, _options: LoadOptions = {}): Promise<LoadResult> {
  const absolute = resolve(path);
  const hash = createHash("sha256");
  const content = await readBounded(absolute, TEXT_BYTES_MAX);
  addTo(hash, "policy", content);
  const text = content.ok ? textOf(content.bytes) : undefined;
  if (text === undefined) {
    const problem = content.ok
      ? fileProblem(path, "UTF-8 text", "other bytes")
      : fileProblem(path, "a file that can be read", content.fault);
    return {
      ok: false,
      code: "ERR_POLICY_INVALID",
      problems: [problem],
      files: [absolute],
      digest: hash.digest("hex"),
    };
  }
  const parsed = parsePolicy(text, path);
  if (!parsed.ok)
    return {
      ok: false,
      code: "ERR_POLICY_INVALID",
      problems: parsed.problems,
      files: [absolute],
      digest: hash.digest("hex"),
    };
  const { document } = parsed;
  const named = namedFiles(document.policy);
  const folder = dirname(absolute);
  const contents = new Map<string, FileContent>();
  for (const { name, bytesMax } of named) {
    const read = await readBounded(resolve(folder, name), bytesMax);
    contents.set(name, read);
    addTo(hash, name, read);
  }
  const files = [absolute, ...named.map(({ name }) => resolve(folder, name))];
  const digest = hash.digest("hex");
  const compiled = compilePolicy(document, contents, `sha256:${digest.slice(0, 12)}`, shippedNetworks());
  if (!compiled.ok) return { ok: false, code: "ERR_POLICY_INVALID", problems: compiled.problems, files, digest };
  return {
    ok: true,
    policy: compiled.policy,
    document,
    files,
    digest,
    bundle: undefined,
    trust: undefined,
    warnings: [],
  };
}

export async function loadBytes(label: string, bytes: Uint8Array, options: LoadOptions = {}): Promise<LoadResult> {
  const digest = createHash("sha256").update(bytes).digest("hex");
  const refused = (problem: Problem, code: ErrorCode): NotLoaded => ({
    ok: false,
    code,
    problems: [problem],
    files: [],
    digest,
  });
  if (options.trust === undefined)
    return refused(fileProblem(label, "keys", "none configured"), "ERR_BUNDLE_SIGNATURE");
  try {
    const verified = await verifyBundle(readBundle(bytes, label), options.trust, options.nowMs ?? 0, {
      label,
      acceptExpired: options.acceptExpired ?? false,
    });
    const { facts, manifest } = verified;
    const parsed = parsePolicy(textOf(verified.files.get(manifest.policy)!) ?? "", label);
    if (!parsed.ok) return { ...refused(parsed.problems[0]!, "ERR_POLICY_INVALID"), problems: parsed.problems };
    const revision = `${facts.name}:${facts.revision}`;
    const compiled = compilePolicy(parsed.document, new Map(), revision, shippedNetworks());
    if (!compiled.ok) return { ...refused(compiled.problems[0]!, "ERR_POLICY_INVALID"), problems: compiled.problems };
    return {
      ok: true,
      policy: { ...compiled.policy, revision },
      document: parsed.document,
      files: [],
      digest,
      bundle: facts,
      trust: verified.trust,
      warnings: verified.warnings,
    };
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    return refused(fileProblem(label, "a bundle", error.message), error.code);
  }
}

/** Name and length come first, so that no two sets of files give the same bytes. */
function addTo(hash: ReturnType<typeof createHash>, name: string, content: FileContent): void {
  hash.update(JSON.stringify([name, content.ok ? content.bytes.byteLength : content.fault]));
  if (content.ok) hash.update(content.bytes);
}

function textOf(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    // Fails closed: bytes that are no text are not guessed at.
    return undefined;
  }
}

async function readBounded(path: string, bytesMax: number): Promise<FileContent> {
  try {
    // Non-blocking, so that opening a pipe by mistake does not wait for its writer.
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const stat = await file.stat();
      if (!stat.isFile()) return { ok: false, fault: "something other than a file" };
      if (stat.size > bytesMax) return { ok: false, fault: `${stat.size} bytes, more than ${bytesMax}` };
      return { ok: true, bytes: await file.readFile() };
    } finally {
      await file.close();
    }
  } catch (error) {
    // Fails closed: the caller keeps the last good policy.
    return { ok: false, fault: faultOf(error) };
  }
}

function faultOf(error: unknown): string {
  const code = error instanceof Error && "code" in error ? String(error.code) : "an error";
  if (code === "ENOENT") return "no such file";
  return code === "EACCES" ? "a file without permission to read it" : code;
}
