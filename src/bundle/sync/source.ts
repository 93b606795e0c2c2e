/** The seams between whoever brings policy (a file, a URL, a control plane) and the keeper that puts it in force. */

import type { BundleFacts, PolicyFreshness } from "../../model/bundle.ts";
import type { OperatingError } from "../../model/errors.ts";
import type { Lock, PostureFacts } from "../../model/policy.ts";
import type { DecisionKind } from "../../model/verdict.ts";
import type { WorkloadChange } from "../../model/workloads.ts";
import type { LoadOptions, LoadResult, PolicyOrigin } from "../load.ts";

/** Label of metrics and logs; a folder counts as a file. */
export type SourceKind = "file" | "url" | "control";

/** Brings policy from one place, for as long as it is not closed. */
export interface PolicySource {
  readonly kind: SourceKind;
  /** Where it looks, for messages: never holds a token or a query. */
  readonly label: string;
  /** Begins to look, at once. */
  start(listener: SourceListener): void;
  /** Looks now, whatever the time of the next look; one look at a time. */
  check?(): Promise<void>;
  /** Ends looking; what is under way is given up. */
  close(): void;
}

/** What a source tells. */
export interface SourceListener {
  /** Something that may be new. The source waits for the answer before it offers again. Never rejects. */
  offer(origin: PolicyOrigin, note: OfferNote): Promise<OfferResult>;
  /** The source has answered, and what it last offered with success is still what should be in force. */
  confirmed(): void;
  /** The source could not be asked, or answered with nothing that could be offered. */
  failed(error: OperatingError): void;
}

export interface OfferNote {
  /** Where it comes from, for people; never a secret. */
  readonly from: string;
}

export type OfferResult =
  /** It is the policy in force from now on. */
  | { readonly kind: "in_force"; readonly bundle: BundleFacts | undefined; readonly files: readonly string[] }
  /** It is what is in force already. */
  | { readonly kind: "unchanged"; readonly files: readonly string[] }
  /** The last good policy stays in force. */
  | { readonly kind: "refused"; readonly error: OperatingError; readonly files: readonly string[] };

/** Loads what was offered; never throws for bad input. `PolicyLoader` of `loader.ts` does so beside the event loop. */
export interface OriginLoader {
  load(origin: PolicyOrigin, options: LoadOptions): Promise<LoadResult>;
}

/** Time and chance as a source sees them; injected so that back-off is tested without waiting. */
export interface SourceClock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** 0 up to but not including 1. */
  random(): number;
  /** Resolves after `ms`, or at once when the signal is aborted; never rejects. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

/** The machine's own time and chance. */
export const systemClock: SourceClock = {
  now: Date.now,
  random: Math.random,
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const done = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      timer.unref();
      signal.addEventListener("abort", done, { once: true });
    }),
};

/** What a sidecar says of itself to a control plane; asked for whenever a report goes out. */
export interface SidecarReport {
  readonly policyName: string;
  readonly policyRevision: string;
  /** The bundle in force; `undefined`: the shipped policy or an unsigned file. */
  readonly bundle: BundleFacts | undefined;
  readonly freshness: PolicyFreshness;
  readonly mode: "enforce" | "observe";
  /** Why the newest candidate was refused; `undefined` when the policy in force is the newest. */
  readonly problem: { readonly code: string; readonly message: string } | undefined;
  /** Check calls answered since the start. */
  readonly checks: number;
  /** The same by what was decided. */
  readonly decisions: Readonly<Record<DecisionKind, number>>;
  /** What happened to proven callers and was not told yet. */
  readonly riskEvents: readonly RiskTold[];
  /** How often scores reached each level, beside what the level promises. */
  readonly scoreBands: readonly {
    readonly score: number;
    readonly promised: number;
    readonly observed: number;
    readonly requests: number;
  }[];
}

/** A proven caller was refused for its risk. */
export interface RiskTold {
  readonly id: string;
  readonly kind: "terminated" | "denied";
  readonly principal: string;
  readonly principalKind: "spiffe" | "jwt";
  readonly score: number;
  readonly atMs: number;
}

/** What the control plane wants all sidecars to heed: locks and posture facts. */
export interface OrderListener {
  /** A whole change, from its first message to its last. */
  orders(change: OrderChange): void;
  /** The control plane has spoken, and all that it has ordered was heard. */
  heard(): void;
  /** The report with these events was taken. */
  told(events: readonly RiskTold[]): void;
}

export interface OrderChange {
  /** What is not put holds no longer. */
  readonly whole: boolean;
  readonly locks: readonly Lock[];
  readonly posture: readonly { readonly subject: string; readonly facts: PostureFacts }[];
  readonly removed: readonly string[];
}

/** What the control plane tells of pods. */
export interface WorkloadListener {
  /** Names what is known, as {@link changed} last said; empty: nothing that could be gone on from. */
  readonly state: string;
  /**
   * A part of a change.
   * @param state with the last part: names what is known now
   */
  changed(change: WorkloadChange, state: string): void;
  /**
   * All that was told is complete, as of so long ago.
   * @param broken changes are being missed meanwhile
   */
  heard(silentMs: number, broken: boolean): void;
  /**
   * Nobody tells anything for now.
   * @param unreadable what was told could not be read: it takes everything anew to go on
   */
  lost(unreadable: boolean): void;
}

/** What `controlSource(options): PolicySource` of `control-source.ts` needs. */
export interface ControlSourceOptions {
  /** `https://HOST:PORT`, or `http://` on loopback. */
  readonly address: string;
  readonly sidecarId: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Version of this program. */
  readonly version: string;
  /** Files are read anew at every connection, so that rotated ones count. */
  readonly tokenFile: string | undefined;
  readonly certFile: string | undefined;
  readonly keyFile: string | undefined;
  readonly caFile: string | undefined;
  /** Largest bundle taken. */
  readonly bytesMax: number;
  /** How long the control plane may be silent before it is asked again. */
  readonly pollMs: number;
  /** Bytes of the bundle in force, from which deltas are applied; `undefined` when there is none. */
  readonly held: () => Promise<Uint8Array | undefined>;
  readonly report: () => SidecarReport;
  readonly onOrders: OrderListener;
  /** `undefined`: it wants none. */
  readonly onWorkloads?: WorkloadListener | undefined;
  readonly clock: SourceClock;
}
