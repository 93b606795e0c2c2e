/** Decides whether a bundle may be handed out: signed by enough of the configured keys, or, where that is wanted, by anybody. */

import { create } from "@bufbuild/protobuf";
import { readBundle } from "../bundle/bundle-file.ts";
import { readTrust, trustFor } from "../bundle/trust.ts";
import { writeTrust } from "../bundle/trust-text.ts";
import { verifyBundle } from "../bundle/verify.ts";
import { BundleRefSchema } from "../gen/sallyport/control/v1/control_pb.ts";
import type { TrustRoot } from "../model/bundle.ts";
import type { Examiner } from "./fleet.ts";
import { manifestOf } from "./library.ts";

/** What the keys say; sidecars verify again, by their own. */
export function verifyingExaminer(keys: TrustRoot, bytesMax: number, now: () => number): Examiner {
  const { read } = trustingExaminer(bytesMax);
  return {
    read,
    examine: async (bytes, label, remembered) => {
      const bundle = readBundle(bytes, label, bytesMax);
      const trust = trustFor(keys, remembered === "" ? undefined : readTrust(remembered, "trust of the channel"));
      const verified = await verifyBundle(bundle, trust, now(), { label, bytesMax });
      const { name, revision, digest } = verified.facts;
      const { rootVersion } = verified.manifest;
      return {
        ref: create(BundleRefSchema, { name, revision: BigInt(revision), digest, rootVersion }),
        bundle,
        trust: writeTrust(verified.trust),
        // Verification lets a lower revision through only under a root that says so.
        restarts: trust.accepted !== undefined && revision < trust.accepted.revision,
        warnings: verified.warnings,
      };
    },
  };
}

/** Takes every bundle that is whole. */
export function trustingExaminer(bytesMax: number): Examiner {
  const read: Examiner["read"] = (bytes, label) => {
    const bundle = readBundle(bytes, label, bytesMax);
    return { digest: manifestOf(bundle.manifest).digest, bundle };
  };
  return {
    read,
    examine: async (bytes, label) => {
      const { digest, bundle } = read(bytes, label);
      const { name, revision, rootVersion } = manifestOf(bundle.manifest).manifest;
      return {
        ref: create(BundleRefSchema, { name, revision, digest, rootVersion }),
        bundle,
        trust: "",
        restarts: false,
        warnings: ["signatures were not looked at"],
      };
    },
  };
}
