/** What the control plane remembers, whatever keeps it: a folder of its own, or NATS shared with its likes. */

import type { Channel, Order, StatusReport } from "../gen/sallyport/control/v1/control_pb.ts";

/** A sidecar's last word. */
export interface Reported {
  readonly status: StatusReport;
  readonly atMs: number;
}

export interface StoreHealth {
  readonly ok: boolean;
  /** Whether the channels are known at all; before that nobody can be told what to have. */
  readonly loaded: boolean;
  /** For readiness: `ok`, or what is wrong. */
  readonly detail: string;
}

export interface FleetStore {
  /**
   * Reads what there is, or keeps trying to, and follows what others change.
   * @param onChange called after channels have changed, by this process or another one
   * @throws {OperatingError} ERR_CONTROL, ERR_STATE_INVALID or ERR_STATE_UNWRITABLE
   */
  start(onChange: () => void): Promise<void>;
  /** Channels by name, as last heard. */
  channels(): ReadonlyMap<string, Channel>;
  /**
   * Changes one channel, all or nothing, against every other process.
   * @param change told the channel, or `undefined` when there is none; may be called again when another was faster
   * @throws {OperatingError} what `change` throws; ERR_CONTROL when the store cannot be reached, ERR_STATE_UNWRITABLE
   */
  update(name: string, change: (channel: Channel | undefined) => Channel): Promise<Channel>;
  /** Keeps a bundle file under the digest of its manifest, before a channel names it. */
  putBundle(digest: string, bytes: Uint8Array): Promise<void>;
  /** `undefined`: it is not there, or torn. */
  bundle(digest: string): Promise<Uint8Array | undefined>;
  /** Forgets all bundles but these. */
  keepBundles(digests: ReadonlySet<string>): Promise<void>;
  /** Orders by id, as last heard; expired ones may be among them. */
  orders(): ReadonlyMap<string, Order>;
  /**
   * Puts orders in force and takes others away; a later call sees what an earlier one did.
   * @throws {OperatingError} ERR_CONTROL or ERR_STATE_UNWRITABLE; some of a NATS store's may be done then
   */
  order(put: readonly Order[], removed: readonly string[]): Promise<void>;
  report(reported: Reported): void;
  /** Sidecars that reported within the last two minutes, to whichever process. */
  reports(): Iterable<Reported>;
  health(): StoreHealth;
  close(): Promise<void>;
}

/** For how long a report counts; a sidecar reports every 30 s. */
export const REPORT_TTL_MS = 120_000;
