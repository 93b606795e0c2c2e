/** Tells sidecars of pods: all of them once, then what has changed, each made once for all sidecars. Bounded. */

import { gzipSync } from "node:zlib";
import { writeKind, writePod, writeWorkloads } from "../../bundle/sync/workload-wire.ts";
import { isSamePod, type KnownPod, type PodKind } from "./pod.ts";

/** Changes are gathered for this long, so that a roll-out is some messages and not thousands. */
const GATHER_MS = 250;
/** Changes that are told as such; whoever missed more is told everything. */
const CHANGES_KEPT = 1_000;
/** Pods in one message: a sidecar takes some milliseconds for them, between which it answers requests. */
const MESSAGE_PODS = 250;
/** Everything is written anew once what has changed since it was written is this share of it. */
const REWRITE_SHARE = 0.25;
/** The fastest: more is no tenth smaller, and takes three times as long (`test/bench/workloads.ts`). */
const GZIP_LEVEL = 1;

/** What replicas have in common, written once. */
interface Kind {
  readonly key: string;
  readonly bytes: Uint8Array;
  pods: number;
}

interface Kept {
  readonly pod: KnownPod;
  readonly kind: Kind;
  readonly bytes: Uint8Array;
}

interface Change {
  readonly version: number;
  readonly put: readonly Kept[];
  readonly removed: readonly string[];
}

export interface FeedOptions {
  /** Names this process's line of versions: 16 hex digits, random. */
  readonly epoch: string;
  /** Further pods are left out. */
  readonly podsMax: number;
  /** Told after there is something new to tell. */
  readonly onChange: () => void;
  readonly onLeftOut: () => void;
}

export class WorkloadFeed {
  private readonly options: FeedOptions;
  private readonly pods = new Map<string, Kept>();
  private readonly kinds = new Map<string, Kind>();
  /** What the next version changes: a pod, or `undefined` for one that is gone. */
  private pending = new Map<string, Kept | undefined>();
  private timer: NodeJS.Timeout | undefined;
  private changes: readonly Change[] = [];
  private version = 0;
  private whole: { readonly version: number; readonly messages: readonly Uint8Array[] } | undefined;
  private readonly deltas = new Map<number, readonly Uint8Array[]>();

  constructor(options: FeedOptions) {
    this.options = options;
  }

  get size(): number {
    return this.pods.size;
  }

  /** Counts changes that are told. */
  get current(): number {
    return this.version;
  }

  has(uid: string): boolean {
    return this.pods.has(uid);
  }

  put(pod: KnownPod): void {
    const known = this.pods.get(pod.uid);
    if (known === undefined && this.pods.size >= this.options.podsMax) {
      this.options.onLeftOut();
      return;
    }
    if (known !== undefined && isSamePod(known.pod, pod)) return;
    if (known !== undefined) this.leave(known.kind);
    const kept = { pod, kind: this.join(pod.kind), bytes: writePod(pod) };
    this.pods.set(pod.uid, kept);
    this.note(pod.uid, kept);
  }

  remove(uid: string): void {
    const known = this.pods.get(uid);
    if (known === undefined) return;
    this.pods.delete(uid);
    this.leave(known.kind);
    this.note(uid, undefined);
  }

  close(): void {
    clearTimeout(this.timer);
  }

  /** Makes what was gathered a version of its own, now. */
  flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.pending.size === 0) return;
    const put: Kept[] = [];
    const removed: string[] = [];
    for (const [uid, pod] of this.pending) {
      if (pod === undefined) removed.push(uid);
      else put.push(pod);
    }
    this.pending = new Map();
    this.version++;
    this.changes = this.bounded([...this.changes, { version: this.version, put, removed }]);
    this.deltas.clear();
    this.options.onChange();
  }

  /** The version that a sidecar has; `undefined`: none of this process that can be gone on from. */
  versionOf(state: string): number | undefined {
    const [epoch, version] = state.split(":");
    const found = epoch === this.options.epoch ? Number(version) : Number.NaN;
    return found <= this.version ? found : undefined;
  }

  /** Messages that bring a sidecar up to {@link current}. */
  since(version: number | undefined): readonly Uint8Array[] {
    if (version !== undefined && this.reaches(version)) return this.delta(version);
    const { whole } = this;
    if (whole !== undefined && this.reaches(whole.version) && this.isWorthIt(whole.version)) {
      return whole.version === this.version ? whole.messages : [...whole.messages, ...this.delta(whole.version)];
    }
    // What is pending is in the pods already, and told once more with its version: twice does no harm.
    const messages = this.write([...this.pods.values()], [], true);
    this.whole = { version: this.version, messages };
    return messages;
  }

  private delta(version: number): readonly Uint8Array[] {
    const known = this.deltas.get(version);
    if (known !== undefined) return known;
    const last = new Map<string, Kept | undefined>();
    for (const change of this.changes) {
      if (change.version <= version) continue;
      for (const uid of change.removed) last.set(uid, undefined);
      for (const kept of change.put) last.set(kept.pod.uid, kept);
    }
    const put = [...last.values()].filter((pod) => pod !== undefined);
    const removed = [...last].flatMap(([uid, pod]) => (pod === undefined ? [uid] : []));
    const messages = this.write(put, removed, false);
    this.deltas.set(version, messages);
    return messages;
  }

  private write(put: readonly Kept[], removed: readonly string[], first: boolean): readonly Uint8Array[] {
    // Replicas come together, so that each message says little of what they have in common.
    const byKind = put.toSorted((a, b) => (a.kind.key < b.kind.key ? -1 : a.kind.key > b.kind.key ? 1 : 0));
    const messages: Uint8Array[] = [];
    for (let from = 0; from === 0 || from < put.length; from += MESSAGE_PODS) {
      const last = from + MESSAGE_PODS >= put.length;
      const kinds = new Map<Kind, number>();
      const pods = byKind.slice(from, from + MESSAGE_PODS).map(({ bytes, kind }) => {
        const place = kinds.get(kind) ?? kinds.size;
        kinds.set(kind, place);
        return { pod: bytes, kind: place };
      });
      const message = writeWorkloads({
        kinds: [...kinds.keys()].map(({ bytes }) => bytes),
        put: pods,
        removed: from === 0 ? removed : [],
        first: first && from === 0,
        last,
        state: last ? `${this.options.epoch}:${this.version}` : "",
      });
      messages.push(gzipSync(message, { level: GZIP_LEVEL }));
    }
    return messages;
  }

  /** Whether all changes since are still known. */
  private reaches(version: number): boolean {
    return version <= this.version && version >= (this.changes[0]?.version ?? this.version + 1) - 1;
  }

  private isWorthIt(version: number): boolean {
    let changed = 0;
    for (const change of this.changes) {
      if (change.version > version) changed += change.put.length + change.removed.length;
    }
    return changed <= REWRITE_SHARE * this.pods.size;
  }

  /** The newest changes, as many as are worth telling as such. */
  private bounded(changes: readonly Change[]): readonly Change[] {
    let from = Math.max(0, changes.length - CHANGES_KEPT);
    let pods = 0;
    for (let at = changes.length - 1; at >= from; at--) {
      pods += changes[at]!.put.length + changes[at]!.removed.length;
      if (pods > this.options.podsMax) from = at + 1;
    }
    return changes.slice(from);
  }

  private note(uid: string, pod: Kept | undefined): void {
    this.pending.delete(uid);
    this.pending.set(uid, pod);
    this.timer ??= setTimeout(() => this.flush(), GATHER_MS).unref();
  }

  private join(kind: PodKind): Kind {
    const key = JSON.stringify([kind.principals, kind.facts]);
    const known = this.kinds.get(key) ?? { key, bytes: writeKind(kind), pods: 0 };
    known.pods++;
    this.kinds.set(key, known);
    return known;
  }

  private leave(kind: Kind): void {
    if (--kind.pods === 0) this.kinds.delete(kind.key);
  }
}
