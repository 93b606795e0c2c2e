/** Pods behind source addresses, as the control plane tells of them. */

import type { EpochMs } from "./units.ts";

/** One pod. Replaced whole, never edited. */
export interface Workload {
  /** `metadata.uid`. */
  readonly uid: string;
  /** How its service account is named as a caller: its SPIFFE ID, and `issuer|subject` of its tokens. */
  readonly principals: readonly string[];
  /** Canonical texts. */
  readonly addresses: readonly string[];
  /** Its addresses name nobody: it is on its node's network, or ending. */
  readonly shared: boolean;
  /** Posture facts that its replicas share, one object for all of them: `namespace`, `image_digest` and so on. */
  readonly common: Readonly<Record<string, string>>;
  /** Posture facts of this pod alone: `pod` (its name), `node` and so on. They go before the common ones. */
  readonly own: Readonly<Record<string, string>>;
}

/** All pods, or what has changed of them, in one or more parts: thousands at once would hold up requests. */
export interface WorkloadChange {
  /** Begins anew: what is not put until `last` is there no longer. */
  readonly first: boolean;
  /** Nothing of this change is still to come. */
  readonly last: boolean;
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
  /** Takes a part of a change that was told at `at`; once one begins anew, nothing is certain until it is confirmed. */
  change(change: WorkloadChange, at: EpochMs): void;
  /**
   * What was told is complete as of `at`.
   * @param at `undefined`: changes are being missed, and one that has begun will not be completed
   */
  confirm(at: EpochMs | undefined): void;
  /** Forgets everything. */
  clear(): void;
  /** Pods known. */
  readonly size: number;
}
