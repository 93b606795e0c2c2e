/** One process of many simulated sidecars for `fan-out.ts`: real clients that verify what comes, told to start by messages. */

import { readFileSync } from "node:fs";
import { readBundle } from "../../src/bundle/bundle-file.ts";
import { controlSource } from "../../src/bundle/sync/control-source.ts";
import { systemClock } from "../../src/bundle/sync/source.ts";
import { parseTrustRoot } from "../../src/bundle/trust.ts";
import { verifyBundle } from "../../src/bundle/verify.ts";
import type { BundleFacts, Trust } from "../../src/model/bundle.ts";
import { OperatingError } from "../../src/model/errors.ts";

const [address, keyFile, tokenFile, first, count] = process.argv.slice(2) as [string, string, string, string, string];
const root = parseTrustRoot(readFileSync(keyFile, "utf8"), keyFile);
/** One copy of the bytes in force for all clients of this process: they hold the same, and memory is not measured here. */
const shared = new Map<string, Uint8Array>();

for (let index = 0; index < Number(count); index++) startOne(`sidecar-${Number(first) + index}`);

function startOne(sidecarId: string): void {
  let trust: Trust = { root, accepted: undefined };
  let bundle: BundleFacts | undefined;
  let heard = false;
  const tell = (what: string, value = 0): void => void process.send?.({ what, value, atMs: Date.now() });
  controlSource({
    address,
    sidecarId,
    labels: {},
    version: "bench",
    tokenFile,
    certFile: undefined,
    keyFile: undefined,
    caFile: undefined,
    bytesMax: 64 * 1024 * 1024,
    pollMs: 60_000,
    held: async () => (bundle === undefined ? undefined : shared.get(bundle.digest)),
    clock: systemClock,
    onOrders: { orders: () => {}, heard: () => {}, told: () => {} },
    report: () => ({
      policyName: "bench",
      policyRevision: "",
      bundle,
      freshness: "fresh",
      mode: "enforce",
      problem: undefined,
      checks: 0,
      decisions: { allow: 0, challenge: 0, deny: 0, terminate: 0 },
      scoreBands: [],
      riskEvents: [],
    }),
  }).start({
    offer: async (origin) => {
      if (origin.kind !== "bytes") throw new RangeError("expected bytes");
      try {
        const verified = await verifyBundle(readBundle(origin.bytes, origin.label), trust, Date.now());
        ({ trust } = verified);
        bundle = verified.facts;
        if (!shared.has(bundle.digest)) shared.set(bundle.digest, origin.bytes);
        tell("verified", bundle.revision);
        return { kind: "in_force", bundle, files: [] };
      } catch (error) {
        if (!(error instanceof OperatingError)) throw error;
        tell("refused");
        return { kind: "refused", error, files: [] };
      }
    },
    confirmed: () => {},
    // Before anything is published the server says that it has nothing: then the stream stands.
    failed: ({ message }) => {
      const standing = message.includes("has no bundle");
      if (standing && heard) return;
      heard ||= standing;
      tell(standing ? "connected" : "failed");
    },
  });
}
