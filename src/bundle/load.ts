/** Loads a policy, together with every file that it names: from a file, a folder or a signed bundle. */

import { createHash, type Hash } from "node:crypto";
import { constants } from "node:fs";
import { open, readdir, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Bundle } from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import type { BundleFacts, Trust } from "../model/bundle.ts";
import { type ErrorCode, OperatingError } from "../model/errors.ts";
import type { Policy } from "../model/policy.ts";
import { BUNDLE_BYTES_MAX, isBundle, readBundle } from "./bundle-file.ts";
import { type FileContent, namedFiles } from "./files.ts";
import { finishPolicy } from "./paced.ts";
import { parsePolicy } from "./parse.ts";
import { type Prepared, preparePolicy } from "./prepare.ts";
import { fileProblem, formatProblem, type Problem } from "./problem.ts";
import { shippedNetworks } from "./shipped-networks.ts";
import { TEXT_BYTES_MAX } from "./tree.ts";
import { claimedManifest, factsOf, verifyBundle } from "./verify.ts";

/** Where a policy comes from. */
export type PolicyOrigin =
  | { readonly kind: "path"; readonly path: string }
  /** A bundle that was fetched; `label` names it in messages. */
  | { readonly kind: "bytes"; readonly label: string; readonly bytes: Uint8Array };

export interface LoadOptions {
  /** Whose signatures count. Once it is given, everything unsigned is refused. */
  readonly trust?: Trust | undefined;
  /** The only name of a bundle that is taken; in a folder no others are considered. */
  readonly bundleName?: string | undefined;
  /** The time by which a bundle's own time is judged, milliseconds since the epoch. Default: the clock's. */
  readonly nowMs?: number | undefined;
  /** Takes a bundle whose time is over: for the last good one, when nothing newer can be had. */
  readonly acceptExpired?: boolean | undefined;
}

export type LoadResult = Loaded | NotLoaded;

export interface Loaded extends Read {
  readonly ok: true;
  readonly policy: Policy;
  /** What was verified of it; `undefined` for a policy that no bundle brought. */
  readonly bundle: BundleFacts | undefined;
  /** What to remember once it is in force: the root that it has led to, and the bundle itself. */
  readonly trust: Trust | undefined;
  readonly warnings: readonly string[];
  /** Those of the warnings that are about other files of its folder. */
  readonly passedOver: readonly string[];
}

export interface NotLoaded extends Read {
  readonly ok: false;
  /** Why, for metrics and status. */
  readonly code: ErrorCode;
  readonly problems: readonly Problem[];
  /** What a refused bundle says of itself, believed by nobody: only to tell what is worth a word. */
  readonly claimed?: Claimed | undefined;
}

type Claimed = Pick<BundleFacts, "name" | "revision">;

interface Read {
  /** Absolute paths of all files read, the policy's first; of a folder that was searched, its own path before them. */
  readonly files: readonly string[];
  /** SHA-256 of the content of everything read, hex; empty when a load ended before that was known. */
  readonly digest: string;
}

/**
 * Loads a policy. Names of files in it are relative to its own folder.
 *
 * @param path a policy file, a bundle file, or a folder: the `policy.yaml` or `policy.yml` in it, else of the files named
 *   `*.bundle` the one with the highest revision that verifies
 * @returns the policy, or all problems with it and its files; never throws for bad input
 */
export function loadPolicy(path: string, options: LoadOptions = {}): Promise<LoadResult> {
  return load({ kind: "path", path }, options);
}

/** Loads a bundle's bytes. */
export function loadBytes(label: string, bytes: Uint8Array, options: LoadOptions = {}): Promise<LoadResult> {
  return load({ kind: "bytes", label, bytes }, options);
}

async function load(origin: PolicyOrigin, options: LoadOptions): Promise<LoadResult> {
  const result = await prepareOrigin(origin, options);
  if (!result.ok) return result;
  const { prepared, ...rest } = result;
  return { ...rest, policy: await finishPolicy(prepared, shippedNetworks()) };
}

/** A load up to what can be done on another thread. */
export type PreparedLoad = (Omit<Loaded, "policy"> & { readonly prepared: Prepared }) | NotLoaded;

/** Does all of a load but the making of the policy. Never throws for bad input. */
export async function prepareOrigin(origin: PolicyOrigin, options: LoadOptions): Promise<PreparedLoad> {
  if (origin.kind === "bytes") return prepareBundle(origin.label, origin.bytes, [], options);
  const absolute = resolve(origin.path);
  return (await isFolder(absolute))
    ? prepareFolder(origin.path, absolute, options)
    : prepareFile(origin.path, absolute, options);
}

const POLICY_NAMES: readonly string[] = ["policy.yaml", "policy.yml"];
const BUNDLE_ENDING = ".bundle";
/** Most bundles of a folder that are looked at: the last by name. */
const BUNDLES_MAX = 100;

async function prepareFolder(label: string, folder: string, options: LoadOptions): Promise<PreparedLoad> {
  let names: readonly string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    // Fails closed: the caller keeps the last good policy.
    return refused([fileProblem(label, "a folder that can be read", faultOf(error))], [folder]);
  }
  const written = POLICY_NAMES.find((name) => names.includes(name));
  const bundles = names.filter((name) => name.endsWith(BUNDLE_ENDING)).sort();
  // Where signatures count, an unsigned policy beside bundles is no reason to do without them.
  if (written !== undefined && (options.trust === undefined || bundles.length === 0)) {
    return within(folder, await prepareFile(join(label, written), join(folder, written), options));
  }
  let best: PreparedLoad | undefined;
  const unusable: NotLoaded[] = [];
  for (const name of bundles.slice(-BUNDLES_MAX)) {
    const next = await prepareFile(join(label, name), join(folder, name), options);
    if (!next.ok) unusable.push(next);
    if (best === undefined || isBetter(next, best)) best = next;
  }
  const none = [fileProblem(label, "a folder with policy.yaml or a *.bundle file", "neither")];
  if (best === undefined) return refused(none, [folder]);
  if (!best.ok) return within(folder, best);
  const passedOver = unusable.filter(({ claimed }) => !isOrdinary(claimed, best.bundle, options)).map(passedOverText);
  if (written !== undefined) passedOver.push(`${join(label, written)}: passed over: it is not signed`);
  return within(folder, { ...best, warnings: [...best.warnings, ...passedOver], passedOver });
}

/** Whether a bundle that cannot be used is one of those that a folder keeps: older ones, or of a name not asked for. */
function isOrdinary(claimed: Claimed | undefined, best: BundleFacts | undefined, { bundleName }: LoadOptions): boolean {
  if (claimed === undefined || best === undefined) return false;
  if (claimed.name === best.name) return claimed.revision < best.revision;
  return bundleName !== undefined;
}

function passedOverText({ problems: [first], files: [file] }: NotLoaded): string {
  return first === undefined ? `${file}: passed over` : `passed over: ${formatProblem(first)}`;
}

/** One that can be used is better than one that cannot, and of two the newer. */
function isBetter(next: PreparedLoad, best: PreparedLoad): boolean {
  // Of those that cannot, one of the name that is wanted tells more.
  if (!next.ok) return !best.ok && best.code === "ERR_BUNDLE_NAME" && next.code !== "ERR_BUNDLE_NAME";
  return !best.ok || (next.bundle?.revision ?? 0) > (best.bundle?.revision ?? 0);
}

function within(folder: string, load: PreparedLoad): PreparedLoad {
  return { ...load, files: [folder, ...load.files] };
}

async function prepareFile(label: string, absolute: string, options: LoadOptions): Promise<PreparedLoad> {
  const bundled = absolute.endsWith(BUNDLE_ENDING);
  const content = await readBounded(absolute, bundled ? BUNDLE_BYTES_MAX : TEXT_BYTES_MAX);
  if (!content.ok) {
    return refused([fileProblem(label, "a file that can be read", content.fault)], [absolute], "ERR_POLICY_UNREADABLE");
  }
  if (bundled || isBundle(content.bytes)) return prepareBundle(label, content.bytes, [absolute], options);
  return prepareText(label, absolute, content.bytes, options);
}

/** A policy file as people write it, and the files beside it. */
async function prepareText(
  label: string,
  absolute: string,
  bytes: Uint8Array,
  { trust }: LoadOptions,
): Promise<PreparedLoad> {
  const hash = createHash("sha256");
  addTo(hash, "policy", { ok: true, bytes });
  const refuse = (problems: readonly Problem[]): NotLoaded => refused(problems, [absolute], undefined, digestOf(hash));
  if (trust !== undefined) {
    const problem = fileProblem(label, "a signed bundle, because keys are configured", "an unsigned policy");
    return { ...refuse([problem]), code: "ERR_BUNDLE_SIGNATURE" };
  }
  const parsed = parseText(bytes, label);
  if (!parsed.ok) return refuse(parsed.problems);
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
  const digest = digestOf(hash);
  const result = preparePolicy(document, contents, `sha256:${digest.slice(0, 12)}`);
  if (!result.ok) return refused(result.problems, files, undefined, digest);
  return {
    ok: true,
    prepared: result.prepared,
    files,
    digest,
    bundle: undefined,
    trust: undefined,
    warnings: [],
    passedOver: [],
  };
}

async function prepareBundle(
  label: string,
  bytes: Uint8Array,
  files: readonly string[],
  { trust, nowMs, acceptExpired, bundleName }: LoadOptions,
): Promise<PreparedLoad> {
  const digest = createHash("sha256").update(bytes).digest("hex");
  if (trust === undefined) {
    const problem = fileProblem(label, "keys to verify a bundle with", "none configured");
    return refused([problem], files, "ERR_BUNDLE_SIGNATURE", digest);
  }
  let claimed: Claimed | undefined;
  try {
    const bundle = readBundle(bytes, label);
    claimed = claimOf(bundle, label);
    const verified = await verifyBundle(bundle, trust, nowMs ?? Date.now(), {
      label,
      name: bundleName,
      acceptExpired: acceptExpired ?? false,
    });
    const { facts, manifest } = verified;
    const text = verified.files.get(manifest.policy);
    const parsed = parseText(text ?? new Uint8Array(), `${label}#${manifest.policy}`);
    if (!parsed.ok) return refused(parsed.problems, files, undefined, digest);
    const { document } = parsed;
    const contents = new Map<string, FileContent>();
    for (const { name, bytesMax } of namedFiles(document.policy)) {
      contents.set(name, bounded(verified.files.get(name), bytesMax));
    }
    const revision = `${facts.name}:${facts.revision}`;
    const result = preparePolicy(document, contents, revision);
    if (!result.ok) return refused(result.problems, files, undefined, digest);
    // Whatever the policy itself states: the bundle's revision is the one that was signed.
    const prepared = { ...result.prepared, revision };
    return {
      ok: true,
      prepared,
      files,
      digest,
      bundle: facts,
      trust: verified.trust,
      warnings: verified.warnings,
      passedOver: [],
    };
  } catch (error) {
    // Fails closed: the caller keeps the last good policy.
    if (!(error instanceof OperatingError)) throw error;
    return { ...refused([problemOf(error, label)], files, error.code, digest), claimed };
  }
}

function claimOf(bundle: Bundle, label: string): Claimed | undefined {
  try {
    const { name, revision } = factsOf(claimedManifest(bundle, label));
    return { name, revision };
  } catch (error) {
    // Fails closed: verifying it will say what is wrong.
    if (!(error instanceof OperatingError)) throw error;
    return undefined;
  }
}

function bounded(bytes: Uint8Array | undefined, bytesMax: number): FileContent {
  if (bytes === undefined) return { ok: false, fault: "no such file in the bundle" };
  if (bytes.byteLength > bytesMax) return { ok: false, fault: `${bytes.byteLength} bytes, more than ${bytesMax}` };
  return { ok: true, bytes };
}

/** `LABEL: PLACE: expected WANTED, got FOUND` as the problem that it tells of; the place may be left out. */
function problemOf({ message }: OperatingError, label: string): Problem {
  const told = message.startsWith(`${label}: `) ? message.slice(label.length + 2) : message;
  const [, place, expected, got] = /^(?:([^,]*): )?expected (.*?), got (.*)$/s.exec(told) ?? [];
  return expected === undefined || got === undefined
    ? fileProblem(label, "a bundle that can be used", `one with a fault (${told})`)
    : { ...fileProblem(label, expected, got), path: place ?? "" };
}

function parseText(bytes: Uint8Array, label: string): ReturnType<typeof parsePolicy> {
  const text = textOf(bytes);
  if (text === undefined) return { ok: false, problems: [fileProblem(label, "UTF-8 text", "other bytes")] };
  return parsePolicy(text, label);
}

function refused(
  problems: readonly Problem[],
  files: readonly string[],
  code: ErrorCode = "ERR_POLICY_INVALID",
  digest = digestOf(createHash("sha256").update(JSON.stringify(problems))),
): NotLoaded {
  return { ok: false, code, problems, files, digest };
}

function digestOf(hash: Hash): string {
  return hash.digest("hex");
}

/** Name and length come first, so that no two sets of files give the same bytes. */
function addTo(hash: Hash, name: string, content: FileContent): void {
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

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false; // reading it will say what is wrong
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
