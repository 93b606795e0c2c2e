/** Whose signatures count: the key file that operators hand out, and what a verifier remembers of what it accepted. */

import { createHash } from "node:crypto";
import { create, fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { createValidator } from "@bufbuild/protovalidate";
import { type Root, RootSchema } from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import type { BundleFacts, Trust, TrustedKey, TrustRoot } from "../model/bundle.ts";
import { OperatingError } from "../model/errors.ts";
import { decode } from "./decode.ts";
import { formatProblem } from "./problem.ts";
import { parseTree } from "./tree.ts";
import { rootDigest } from "./trust-text.ts";
import { reportViolations } from "./violations.ts";

const validator = createValidator();

/** Most problems of one key file that a message lists. */
const PROBLEMS_SHOWN_MAX = 10;

/**
 * Reads a key file: `{"version": 1, "threshold": 1, "keys": [{"kid", "x", "owner"}]}`.
 *
 * @param file its name, for messages
 * @throws {OperatingError} ERR_KEY_INVALID with every problem and its place
 */
export function parseTrustRoot(text: string, file: string): TrustRoot {
  const mistaken = mistakenFor(text);
  if (mistaken !== undefined) throw new OperatingError("ERR_KEY_INVALID", `${file}: ${mistaken}`);
  const parsed = parseTree(text, file);
  const problems = parsed.ok ? parsed.source.problems : [...parsed.problems];
  if (parsed.ok) {
    const message = decode(RootSchema, parsed.tree, parsed.source);
    reportViolations(RootSchema, message, parsed.source);
    if (problems.length === 0) {
      const root = toTrustRoot(message);
      const fault = rootFault(root);
      if (fault === undefined) return root;
      throw new OperatingError("ERR_KEY_INVALID", `${file}: ${fault}`);
    }
  }
  const shown = problems.slice(0, PROBLEMS_SHOWN_MAX).map(formatProblem);
  if (problems.length > shown.length) shown.push(`${problems.length - shown.length} problems more`);
  throw new OperatingError("ERR_KEY_INVALID", shown.join("\n"));
}

/** What was given in a key file's place, when it is another of the files that lie beside it; nothing of it is repeated. */
function mistakenFor(text: string): string | undefined {
  if (/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text)) return "expected a key file, got a private key";
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined; // what reads key files says what is wrong, and where
  }
  if (!isObject(value)) return undefined;
  if ("first" in value && "roots" in value) {
    return "expected a key file, got a roots file; `bundle root --from ROOTS --keys-out FILE` writes its newest root as a key file";
  }
  if (!("kty" in value)) return undefined;
  const key = "d" in value ? "a private signing key, which belongs nowhere but with its owner" : "a public key";
  return `expected a key file, got ${key}; \`bundle root --key PUBLIC --out FILE\` makes a key file of public keys`;
}

/** The text of a key file. */
export function writeTrustRoot(root: TrustRoot): string {
  return `${JSON.stringify(root, undefined, 2)}\n`;
}

/**
 * Reads the payload of a signed root, in the JSON form of the schema.
 * @returns the root, or what is wrong with it
 */
export function readRootPayload(payload: Uint8Array): TrustRoot | string {
  let message: Root;
  try {
    message = fromJson(RootSchema, JSON.parse(Buffer.from(payload).toString("utf8")) as JsonValue);
  } catch {
    // Fails closed: a root that does not fit the schema is no root.
    return "expected the JSON form of a root, got something else";
  }
  const result = validator.validate(RootSchema, message);
  if (result.kind !== "valid") return `a root breaks its schema: ${result.error.message}`;
  const root = toTrustRoot(message);
  return rootFault(root) ?? root;
}

/** The bytes of a root to sign; the same root gives the same bytes. */
export function writeRootPayload(root: TrustRoot): Uint8Array {
  const { version, threshold, restartsRevisions = false } = root;
  const message = create(RootSchema, {
    version,
    threshold,
    restartsRevisions,
    keys: root.keys.map(({ kid, x, owner }) => ({ kid, x, owner })),
  });
  return Buffer.from(JSON.stringify(toJson(RootSchema, message)));
}

/** The RFC 7638 thumbprint of a public Ed25519 key, base64url. */
export function thumbprint(x: string): string {
  return createHash("sha256")
    .update(`{"crv":"Ed25519","kty":"OKP","x":${JSON.stringify(x)}}`)
    .digest("base64url");
}

/** Whether two roots are one and the same to a verifier. */
export function sameRoot(left: TrustRoot, right: TrustRoot): boolean {
  return rootDigest(left) === rootDigest(right);
}

/**
 * What to verify by: the key file that was handed out, and what is remembered from before.
 *
 * As long as the key file is the one that the memory began with, the memory goes on, with the roots that it has walked
 * up to. Another key file is the operator's word, and begins anew from itself; the last bundle accepted still holds
 * back older ones, unless no key of the remembered root is left, so that nothing signed before can come back.
 */
export function trustFor(handedOut: TrustRoot, remembered: Trust | undefined): Trust {
  const anchor = rootDigest(handedOut);
  if (remembered === undefined) return { root: handedOut, accepted: undefined, anchor };
  if (remembered.anchor === anchor) return remembered;
  const kept = handedOut.keys.some(({ kid }) => remembered.root.keys.some((key) => key.kid === kid));
  return { root: handedOut, accepted: kept ? remembered.accepted : undefined, anchor };
}

/**
 * Reads a state file that `writeTrust` wrote.
 * @throws {OperatingError} ERR_STATE_INVALID
 */
export function readTrust(text: string, file: string): Trust {
  let state: unknown;
  try {
    state = JSON.parse(text);
  } catch (cause) {
    // Fails closed: a torn state is not guessed at; its owner decides whether to begin anew.
    throw new OperatingError("ERR_STATE_INVALID", `${file}: expected JSON, got something else`, { cause });
  }
  const { root, accepted, anchor } = isObject(state) ? state : {};
  const read = readRootPayload(Buffer.from(JSON.stringify(root ?? null)));
  if (typeof read === "string") throw new OperatingError("ERR_STATE_INVALID", `${file}: root: ${read}`);
  if (accepted !== undefined && !isFacts(accepted)) {
    throw new OperatingError("ERR_STATE_INVALID", `${file}: accepted: expected the facts of a bundle, got others`);
  }
  if (typeof anchor !== "string" || !/^[0-9a-f]{64}$/.test(anchor)) {
    throw new OperatingError("ERR_STATE_INVALID", `${file}: anchor: expected a SHA-256 in hex, got something else`);
  }
  return { root: read, accepted, anchor };
}

function toTrustRoot({ version, threshold, keys, restartsRevisions }: Root): TrustRoot {
  return {
    version,
    threshold,
    keys: keys.map(({ kid, x, owner }): TrustedKey => ({ kid, x, owner })),
    ...(restartsRevisions ? { restartsRevisions } : {}),
  };
}

/** What is wrong with a root that fits the schema; `undefined` when nothing is. */
function rootFault({ threshold, keys }: TrustRoot): string | undefined {
  if (threshold > keys.length) return `threshold: expected at most the ${keys.length} keys, got ${threshold}`;
  for (const [index, { kid, x }] of keys.entries()) {
    const bytes = Buffer.from(x, "base64url");
    if (bytes.byteLength !== 32 || bytes.toString("base64url") !== x) {
      return `keys[${index}].x: expected 32 bytes as base64url, got another text`;
    }
    if (thumbprint(x) !== kid) return `keys[${index}].kid: expected ${thumbprint(x)}, the thumbprint of x, got ${kid}`;
    if (keys.findIndex((key) => key.kid === kid) !== index)
      return `keys[${index}]: expected every key once, got it twice`;
  }
  return undefined;
}

function isFacts(value: unknown): value is BundleFacts {
  if (!isObject(value)) return false;
  const { name, revision, digest, issuedAtMs, expiresAtMs } = value;
  return (
    typeof name === "string" &&
    Number.isSafeInteger(revision) &&
    (revision as number) >= 1 &&
    typeof digest === "string" &&
    /^[0-9a-f]{64}$/.test(digest) &&
    Number.isSafeInteger(issuedAtMs) &&
    Number.isSafeInteger(expiresAtMs)
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
