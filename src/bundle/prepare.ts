/** Does all of a policy's work that can be done away from requests, and packs what comes of it for a quick start. */

import type { PolicyFile } from "../gen/sallyport/policy/v1/policy_pb.ts";
import { type PackedIdentity, packIdentity } from "./compile-identity.ts";
import { type FileContents, Files } from "./files.ts";
import {
  type PackedAddresses,
  type PackedFingerprints,
  type PackedGeo,
  type PackedPosture,
  packAddresses,
  packFingerprints,
  packGeo,
  packPostureFacts,
} from "./pack-data.ts";
import type { PolicyDocument } from "./parse.ts";
import { cut, type Pieces } from "./pieces.ts";
import type { Problem } from "./problem.ts";

/**
 * A policy, checked and with its data read. It can be cloned from one thread to another, and what is large in it can be
 * transferred; see `transferable`.
 */
export interface Prepared {
  /** What the policy states, without the data that is packed beside it. */
  readonly message: Pieces;
  readonly revision: string;
  /** Whether any rule has a condition. */
  readonly hasConditions: boolean;
  readonly identity: PackedIdentity;
  readonly addresses: PackedAddresses;
  readonly fingerprints: PackedFingerprints;
  readonly geo: PackedGeo;
  readonly posture: PackedPosture;
}

export type PrepareResult =
  | { readonly ok: true; readonly prepared: Prepared }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/**
 * Prepares a document.
 *
 * @param contents the files that it names (see `namedFiles`), by name
 * @param revision counts where the document states none
 * @returns all problems with the files when there are any
 */
export function preparePolicy(document: PolicyDocument, contents: FileContents, revision: string): PrepareResult {
  const { metadata, spec } = document.policy;
  const files = new Files(document.source, contents);
  const prepared: Prepared = {
    message: cut(withoutData(document.policy)),
    revision: metadata?.revision || revision,
    hasConditions: (spec?.rules ?? []).some(({ when }) => when !== ""),
    identity: packIdentity(spec?.identity, files),
    addresses: packAddresses(spec?.lists?.addresses ?? [], files),
    fingerprints: packFingerprints(spec?.lists?.fingerprints ?? [], files),
    geo: packGeo(spec?.geo, files),
    posture: packPostureFacts(spec?.posture, files),
  };
  return files.problems.length > 0 ? { ok: false, problems: files.problems } : { ok: true, prepared };
}

/** What is packed need not be carried twice. */
function withoutData(policy: PolicyFile): PolicyFile {
  const { spec } = policy;
  if (spec === undefined) return policy;
  const { identity, posture } = spec;
  return {
    ...policy,
    spec: {
      ...spec,
      lists: undefined as never,
      ...(posture === undefined ? {} : { posture: { ...posture, facts: [] } }),
      ...(identity === undefined
        ? {}
        : {
            identity: {
              ...identity,
              trustDomains: [],
              ...(identity.apiKeys === undefined ? {} : { apiKeys: { ...identity.apiKeys, keys: [] } }),
            },
          }),
    },
  };
}

/** The buffers of a prepared policy that another thread can take over whole. */
export function transferable(value: unknown, found = new Set<ArrayBuffer>()): readonly ArrayBuffer[] {
  if (ArrayBuffer.isView(value)) {
    // A part of a buffer is copied: the rest of it may be in use.
    const { buffer, byteLength } = value;
    if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) found.add(buffer);
  } else if (typeof value === "object" && value !== null) {
    for (const member of Object.values(value)) transferable(member, found);
  }
  return [...found];
}
