/** Pods behind source addresses, as the control plane tells of them. */

import type { EpochMs } from "./units.ts";

/** One pod. Replaced whole, never edited. */
export interface Workload {
  /** `metadata.uid`. */
  readonly uid: string;
  /** `namespace/name`, for people. */
  readonly name: string;
  /** How its service account is named as a caller: its SPIFFE ID, and `issuer|subject` of its tokens. */
  readonly principals: readonly string[];
  /** Canonical texts. */
  readonly addresses: readonly string[];
  /** Its addresses name nobody: it is on its node's network, or ending. */
  readonly shared: boolean;
  /** Posture facts. */
  readonly facts: Readonly<Record<string, string>>;
}

/** All pods, or what has changed of them. */
export interface WorkloadChange {
  /** What is not put is there no longer. */
  readonly whole: boolean;
  readonly put: readonly Workload[];
  /** Uids. */
  readonly removed: readonly string[];
}

/** What the source address says of the caller; `own` and `other` only where it is certain whose address it is. */
export type PeerPod =
  /** A pod of the principal's own service account. */
  | { readonly kind: "own"; readonly workload: Workload }
  /** A pod of another one, while the principal's own pods are elsewhere. */
  | { readonly kind: "other"; readonly workload: Workload };

/** Which pod has which address. Told at run time, never kept over a restart. Bounded. */
export interface WorkloadTable {
  /** Takes a change that was told at `at`; after a whole one nothing is certain until it is confirmed. */
  change(change: WorkloadChange, at: EpochMs): void;
  /**
   * What was told is complete as of `at`.
   * @param at `undefined`: changes are being missed
   */
  confirm(at: EpochMs | undefined): void;
  /** Forgets everything. */
  clear(): void;
  /** Pods known. */
  readonly size: number;
}
