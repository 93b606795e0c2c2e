/** Decides whether a bundle may be handed out: signed by enough of the configured keys, or, where that is wanted, by anybody. */

import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { readBundle } from "../bundle/bundle-file.ts";
import { readTrust, trustFor, writeTrust } from "../bundle/trust.ts";
import { verifyBundle } from "../bundle/verify.ts";
import { BundleRefSchema } from "../gen/sallyport/control/v1/control_pb.ts";
import type { TrustRoot } from "../model/bundle.ts";
import type { Examiner } from "./fleet.ts";
import { manifestOf } from "./library.ts";

/** What the keys say; sidecars verify again, by their own. */
export function verifyingExaminer(keys: TrustRoot, bytesMax: number, now: () => number): Examiner {
  return {
    examine: async (bytes, label, trust, kept) => {
      const bundle = readBundle(bytes, label, bytesMax);
      const remembered = trust === "" ? undefined : readTrust(trust, "trust of the channel");
      const expected = trustFor(keys, remembered);
      // A kept bundle was in its place already; it may have expired meanwhile, and a later one may have come.
      const { facts, trust: next, warnings } = await verifyBundle(
        bundle,
        kept ? { root: keys, accepted: undefined } : expected,
        now(),
        { label, acceptExpired: kept },
      );
      const { name, revision, digest } = facts;
      const ref = create(BundleRefSchema, { name, revision: BigInt(revision), digest });
      return { ref, bundle, trust: writeTrust(next), warnings };
    },
  };
}

/** Takes every bundle that is whole. */
export function trustingExaminer(bytesMax: number): Examiner {
  return {
    examine: async (bytes, label) => {
      const bundle = readBundle(bytes, label, bytesMax);
      const { name, revision } = manifestOf(bundle.manifest);
      const { payload } = JSON.parse(bundle.manifest) as { payload: string };
      const digest = createHash("sha256").update(Buffer.from(payload, "base64url")).digest("hex");
      return {
        ref: create(BundleRefSchema, { name, revision, digest }),
        bundle,
        trust: "",
        warnings: ["signatures were not looked at"],
      };
    },
  };
}
