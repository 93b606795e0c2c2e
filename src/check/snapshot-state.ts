/** What a snapshot holds, and in which order its parts of one kind follow each other. */

import type { Baseline, Population } from "../baseline/baseline.ts";
import type { Lock, PostureFacts } from "../model/policy.ts";
import type { Calibrations } from "../score/calibration.ts";

/** What a snapshot is read into. */
export interface SnapshotState {
  readonly population: Population;
  readonly baselines: readonly Baseline[];
  /** Bucket and mark of names that were forgotten, one pair after the other, oldest first. */
  readonly forgotten: readonly number[];
  readonly calibrations: Calibrations;
  readonly locks: readonly Lock[];
  readonly posture: readonly (readonly [subject: string, facts: PostureFacts])[];
}

/** Live memory that a snapshot is written of; what it lists may go on changing between two slices. */
export interface SnapshotSource {
  readonly population: Population;
  readonly baselines: readonly Baseline[];
  /** Names that were forgotten: see `ForgottenNames`. */
  readonly forgotten: Iterable<readonly [bucket: number, mark: number]>;
  readonly calibrations: Calibrations;
  readonly locks: Iterable<Lock>;
  /** Subjects with posture facts. */
  readonly subjects: readonly string[];
  /** `undefined` when they were forgotten meanwhile. */
  readonly postureOf: (subject: string) => PostureFacts | undefined;
}

export const SHARES = [
  "networkGivenAddress",
  "blockGivenNetwork",
  "countryGivenBlock",
  "cipherGivenFingerprint",
  "productGivenAgent",
  "fingerprintAtNewAddress",
  "agentAtNewAddress",
  "routeAtNewAddress",
  "oldCredentialAtNewAddress",
  "largeAfterLarge",
  "sharedCredential",
] as const satisfies readonly (keyof Population)[];

export const RUNS = ["unknownRuns", "foreignRuns", "errorRuns"] as const satisfies readonly (keyof Population)[];

export const TAILS = ["rate", "bytes", "spread"] as const satisfies readonly (keyof Population)[];

export const POOLS = ["newcomers", "established"] as const satisfies readonly (keyof Calibrations)[];
