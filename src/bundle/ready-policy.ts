/**
 * The shipped policy, made without the schema of policies: a sidecar that is given no other starts with it, and need not
 * load what reads policies. It says what {@link defaultPolicy} compiles.
 */

import type { Policy } from "../model/policy.ts";
import * as defaults from "./defaults.ts";
import { geoLookup } from "./geo.ts";
import type { Networks } from "./networks.ts";

/** @param networks the shipped table of autonomous systems */
export function readyPolicy(networks: Networks | undefined): Policy {
  return {
    name: "default",
    revision: "shipped-1",
    mode: "enforce",
    thresholds: defaults.THRESHOLDS,
    rules: [],
    peerGroups: [],
    signal: () => undefined,
    challenge: defaults.CHALLENGE,
    response: defaults.RESPONSE,
    identity: {
      issuers: [],
      xfccHops: [],
      apiKeyHeader: undefined,
      apiKeys: new Map(),
      trustedSpiffe: [],
      delegations: [],
      singleUseIssuers: [],
      trustDomains: new Map(),
      registeredKeys: [],
      requireBoundProof: "challenge",
    },
    posture: {
      maxAgeMs: defaults.POSTURE_MAX_AGE_MS,
      missingBits: defaults.POSTURE_MISSING_BITS,
      staleBits: defaults.POSTURE_STALE_BITS,
      required: [],
      forbid: [],
    },
    addresses: { size: 0, lookup: () => undefined },
    fingerprints: new Map(),
    geo: geoLookup([], networks),
    locks: [],
    postureFacts: new Map(),
    streams: { hold: "long", endWithCredential: true, endOnChallenge: false },
    autoLockMs: defaults.AUTO_LOCK_MS,
    autoLockScope: "origin",
  };
}
