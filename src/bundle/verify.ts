/** Verifies a bundle: who signed it, that it is the next one, that its time is not over, and that its files are whole. */

import { createHash } from "node:crypto";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { Bundle, Manifest } from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import type { BundleFacts, Trust, TrustRoot } from "../model/bundle.ts";
import { OperatingError } from "../model/errors.ts";
import { BUNDLE_BYTES_MAX } from "./bundle-file.ts";
import { joinFiles } from "./chunks.ts";
import { type Jws, type JwsType, readJws, type Signers, signersOf } from "./jws.ts";
import { readManifestPayload } from "./manifest.ts";
import { readRootPayload, sameRoot } from "./trust.ts";
import { rootDigest } from "./trust-text.ts";

/** How far a bundle's issue time may lie ahead of this machine's clock before that is worth a word. */
const AHEAD_MS_MAX = 10 * 60_000;

export interface VerifyOptions {
  /** The bundle's file or address, for messages. */
  readonly label?: string;
  /** The only name that is taken; without it, whatever name a trusted key has signed, until one was accepted. */
  readonly name?: string | undefined;
  /** Takes a bundle whose time is over, with a warning: for the last good one from disk, when there is nothing newer. */
  readonly acceptExpired?: boolean;
  /** Most bytes of all files together. */
  readonly bytesMax?: number;
}

export interface Verified {
  readonly manifest: Manifest;
  readonly facts: BundleFacts;
  /** Content by name. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** Names of the keys whose signatures of the manifest counted. */
  readonly signers: readonly string[];
  /** What to remember once the bundle is in force. */
  readonly trust: Trust;
  /** What does not stand in the way, but should be seen. */
  readonly warnings: readonly string[];
}

/**
 * Verifies a bundle against what is trusted. Nothing of it is used before its signatures are found good.
 *
 * @throws {OperatingError} ERR_BUNDLE_SIGNATURE, ERR_BUNDLE_NAME, ERR_BUNDLE_ROLLBACK, ERR_BUNDLE_EXPIRED,
 *   ERR_BUNDLE_INVALID or ERR_BUNDLE_TOO_LARGE, with what was found and what was wanted
 */
export async function verifyBundle(
  bundle: Bundle,
  trust: Trust,
  nowMs: number,
  options: VerifyOptions = {},
): Promise<Verified> {
  const label = options.label ?? "bundle";
  const walked = await walkRoots(bundle.roots, trust.root, label);
  const { manifest, digest, signers, warnings } = await verifyManifest(bundle.manifest, walked.root, label);
  const facts = factsOf({ manifest, digest });
  if (options.name !== undefined && facts.name !== options.name) {
    throw new OperatingError("ERR_BUNDLE_NAME", `${label}: expected bundle ${options.name}, got bundle ${facts.name}`);
  }
  refuseRollback(facts, trust.accepted, walked.restarted, label);
  const late = checkTimes(facts, nowMs, options.acceptExpired === true, label);
  const files = joinFiles(manifest, bundle.chunks, options.bytesMax ?? BUNDLE_BYTES_MAX, label);
  return {
    manifest,
    facts,
    files,
    signers,
    trust: { root: walked.root, accepted: facts, anchor: trust.anchor ?? rootDigest(trust.root) },
    warnings: [...walked.warnings, ...warnings, ...late],
  };
}

/** A manifest, and the SHA-256 of the bytes that are signed. */
export interface Claimed {
  readonly manifest: Manifest;
  readonly digest: string;
}

/**
 * What a bundle says of itself. Nothing is verified.
 * @throws {OperatingError} ERR_BUNDLE_INVALID
 */
export function claimedManifest(bundle: Bundle, label: string): Claimed {
  const jws = readJws(bundle.manifest, `${label}: manifest`);
  const manifest = readManifestPayload(jws.bytes);
  if (typeof manifest === "string") throw invalid(`${label}: manifest: ${manifest}`);
  return { manifest, digest: digestOf(jws) };
}

/** What a manifest, verified or not, says of its bundle in few words. */
export function factsOf({ manifest, digest }: Claimed): BundleFacts {
  return {
    name: manifest.name,
    revision: Number(manifest.revision),
    digest,
    issuedAtMs: timestampMs(manifest.issuedAt!),
    expiresAtMs: timestampMs(manifest.expiresAt!),
  };
}

function digestOf({ bytes }: Jws): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The root that a bundle leads to. */
interface Walked {
  readonly root: TrustRoot;
  /** Whether one of the roots on the way begins revisions anew. */
  readonly restarted: boolean;
  readonly warnings: readonly string[];
}

/**
 * Walks from the root that a verifier has up to the last one of a bundle.
 *
 * @param texts signed roots, each one version after the one before
 * @throws {OperatingError} ERR_BUNDLE_SIGNATURE or ERR_BUNDLE_INVALID
 */
export async function walkRoots(texts: readonly string[], from: TrustRoot, label: string): Promise<Walked> {
  let root = from;
  let restarted = false;
  let before: number | undefined;
  const warnings: string[] = [];
  for (const [index, text] of texts.entries()) {
    const where = `${label}: roots[${index}]`;
    const jws = readJws(text, where);
    const next = readRootPayload(jws.bytes);
    if (typeof next === "string") throw invalid(`${where}: ${next}`);
    if (before !== undefined && next.version !== before + 1) {
      throw invalid(`${where}: expected root ${before + 1} after root ${before}, got root ${next.version}`);
    }
    before = next.version;
    if (next.version < root.version) continue;
    if (next.version === root.version) {
      // Whoever signs a second root of the same version leads another fleet, or this one astray.
      if (sameRoot(next, root)) continue;
      throw signature(`${where}: expected the root ${root.version} that this verifier has, got another one`);
    }
    if (next.version > root.version + 1) {
      throw signature(
        `${where}: expected root ${root.version + 1} next, got root ${next.version}; the roots between are missing: hand out a newer key file`,
      );
    }
    const byOld = await requireSigners(jws, "sallyport-root+jws", root, where);
    const byNew = await requireSigners(jws, "sallyport-root+jws", next, where);
    // A key that comes or goes is foreign to one of the two: only what counts for neither is worth a word.
    warnings.push(...byNew.warnings.filter((warning) => byOld.warnings.includes(warning)));
    if (next.restartsRevisions === true) restarted = true;
    root = next;
  }
  return { root, restarted, warnings };
}

async function verifyManifest(
  text: string,
  root: TrustRoot,
  label: string,
): Promise<Claimed & Pick<Verified, "signers" | "warnings">> {
  const where = `${label}: manifest`;
  const jws = readJws(text, where);
  const { kids, warnings } = await requireSigners(jws, "sallyport-manifest+jws", root, where, claimOf(jws, root));
  const manifest = readManifestPayload(jws.bytes);
  if (typeof manifest === "string") throw invalid(`${where}: ${manifest}`);
  if (manifest.rootVersion !== root.version) {
    throw signature(
      `${where}: expected to be made for root ${root.version}, got one for root ${manifest.rootVersion}; ${
        manifest.rootVersion < root.version ? "what older keys signed no longer counts" : "it lacks the newer roots"
      }`,
    );
  }
  return { manifest, digest: digestOf(jws), signers: [...kids], warnings };
}

/** What a manifest that was not signed by enough says of itself, where that explains it; only for a message. */
function claimOf(jws: Jws, root: TrustRoot): string {
  if (jws.signatures.length === 0) return "; nobody has signed it";
  const claimed = readManifestPayload(jws.bytes);
  if (typeof claimed === "string" || claimed.rootVersion === root.version) return "";
  return `; it says that it is for root ${claimed.rootVersion}, and this verifier has root ${root.version}`;
}

async function requireSigners(jws: Jws, type: JwsType, root: TrustRoot, where: string, claim = ""): Promise<Signers> {
  const signers = await signersOf(jws, type, root.keys, where);
  const { kids, warnings } = signers;
  if (kids.size >= root.threshold) return signers;
  const reasons = warnings.slice(0, REASONS_SHOWN_MAX).map((warning) => `; ${warning.slice(where.length + 2)}`);
  throw signature(
    `${where}: expected ${root.threshold} of the ${root.keys.length} keys of root ${root.version} to have signed, got ${kids.size}${claim}${reasons.join("")}`,
  );
}

/** Most signatures of which one message says why they do not count. */
const REASONS_SHOWN_MAX = 5;

function refuseRollback(
  facts: BundleFacts,
  accepted: BundleFacts | undefined,
  restarted: boolean,
  label: string,
): void {
  if (accepted === undefined) return;
  if (facts.name !== accepted.name) {
    throw rollback(`${label}: expected bundle ${accepted.name}, which was accepted before, got bundle ${facts.name}`);
  }
  if (restarted) return;
  if (facts.revision < accepted.revision) {
    throw rollback(
      `${label}: expected revision ${accepted.revision} of ${accepted.name}, which was accepted before, or a later one, got revision ${facts.revision}`,
    );
  }
  if (facts.revision === accepted.revision && facts.digest !== accepted.digest) {
    throw rollback(
      `${label}: expected the revision ${accepted.revision} that was accepted before (${accepted.digest.slice(0, 12)}), got another one of the same number (${facts.digest.slice(0, 12)})`,
    );
  }
}

/** @returns what the times of the bundle say of the clocks */
function checkTimes(
  { issuedAtMs, expiresAtMs }: BundleFacts,
  nowMs: number,
  acceptExpired: boolean,
  label: string,
): readonly string[] {
  const [now, issued, expires] = [nowMs, issuedAtMs, expiresAtMs].map((ms) => new Date(ms).toISOString());
  if (nowMs >= expiresAtMs) {
    const text = `${label}: expected a bundle whose time is not over by this machine's clock, which says ${now}, got one issued at ${issued} and expired at ${expires}`;
    if (!acceptExpired) throw new OperatingError("ERR_BUNDLE_EXPIRED", text);
    return [text];
  }
  if (issuedAtMs > nowMs + AHEAD_MS_MAX) {
    return [
      `${label}: it was issued at ${issued}, but this machine's clock says ${now}: one of the two clocks is wrong`,
    ];
  }
  return [];
}

function invalid(message: string): OperatingError {
  return new OperatingError("ERR_BUNDLE_INVALID", message);
}

function signature(message: string): OperatingError {
  return new OperatingError("ERR_BUNDLE_SIGNATURE", message);
}

function rollback(message: string): OperatingError {
  return new OperatingError("ERR_BUNDLE_ROLLBACK", message);
}
