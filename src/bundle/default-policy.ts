/** The policy that counts where no file is given. */

import { create } from "@bufbuild/protobuf";
import { AutoLockScope, ChallengeKind, Mode, PolicyFileSchema } from "../gen/sallyport/policy/v1/policy_pb.ts";
import type { Policy } from "../model/policy.ts";
import { policySteps } from "./compile.ts";
import { noConditions } from "./compile-rules.ts";
import { HitsBuilder } from "./list-hits.ts";
import type { Networks } from "./networks.ts";
import { TableBuilder, TextsBuilder } from "./packed-table.ts";
import { cut } from "./pieces.ts";
import type { Prepared } from "./prepare.ts";
import { RangesBuilder } from "./ranges.ts";
import { finish } from "./steps.ts";

/** The shipped policy as a file would hold it: the defaults, spelt out. */
export const DEFAULT_POLICY_TEXT = `apiVersion: sallyport.dev/v1
kind: Policy
metadata:
  name: default
  revision: shipped-1
spec:
  # enforce: decisions are carried out. observe: they are only logged.
  mode: enforce
  # Ten points for every factor of ten in rarity among legitimate requests.
  thresholds:
    challenge: 26 # at most about one legitimate request in 400; far fewer in practice
    deny: 36 # at most one in 4,000, and only after a challenge
    terminate: 70 # one in ten million
  challenge:
    kinds: [dpop, step_up] # the first that the caller can answer
    triesMax: 3
    ttl: 5m
    discharge: 12h
  posture:
    maxAge: 1h
    missingBits: 10
    staleBits: 6
  autoLock: 1h
  autoLockScope: origin
  response:
    revealReasons: false
    upstreamHeaders: true
`;

/** What the text says, ready made: a start need not read it. */
export function shippedPolicy(): Prepared {
  const policy = create(PolicyFileSchema, {
    apiVersion: "sallyport.dev/v1",
    kind: "Policy",
    metadata: { name: "default", revision: "shipped-1" },
    spec: {
      mode: Mode.ENFORCE,
      thresholds: { challenge: 26, deny: 36, terminate: 70 },
      challenge: {
        kinds: [ChallengeKind.DPOP, ChallengeKind.STEP_UP],
        triesMax: 3,
        ttl: { seconds: 300n },
        discharge: { seconds: 43_200n },
      },
      posture: { maxAge: { seconds: 3_600n }, missingBits: 10, staleBits: 6 },
      autoLock: { seconds: 3_600n },
      autoLockScope: AutoLockScope.ORIGIN,
      response: { revealReasons: false, upstreamHeaders: true },
    },
  });
  const table = new TableBuilder().pack();
  const texts = new TextsBuilder().pack();
  const hits = new HitsBuilder().pack();
  const none = new Uint32Array(0);
  return {
    message: cut(policy),
    revision: "shipped-1",
    hasConditions: false,
    identity: { apiKeys: { table, names: texts }, keySets: [], trustDomains: [], registeredKeys: [] },
    addresses: { hits, ranges: new RangesBuilder((earlier) => earlier).pack() },
    fingerprints: { hits, table, hitOf: none },
    geo: { databases: [], shipped: true },
    posture: { table, facts: texts, factsOf: none },
  };
}

/** The shipped policy. */
export function defaultPolicy(networks?: Networks): Policy {
  return finish(policySteps(shippedPolicy(), networks, noConditions));
}
