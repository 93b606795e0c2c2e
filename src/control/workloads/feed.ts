/** Tells sidecars of pods: all of them once, then what has changed, each made once for all sidecars. Bounded. */

import { gzipSync } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import { WorkloadsSchema } from "../../gen/sallyport/control/v1/control_pb.ts";
import { isSamePod, type KnownPod, type PodKind } from "./pod.ts";

/** Changes are gathered for this long, so that a roll-out is some messages and not thousands. */
const GATHER_MS = 250;
/** Changes that are told as such; whoever missed more is told everything. */
const CHANGES_KEPT = 1_000;
/** Pods in one message: some 100 KiB before they are compressed. */
const MESSAGE_PODS = 1_000;
/** Everything is written anew once what has changed since it was written is this share of it. */
const REWRITE_SHARE = 0.25;
/** Fast: most of what there is to gain, in a third of the time (`test/bench/workloads.ts`). */
const GZIP_LEVEL = 3;

interface Change {
  readonly version: number;
  readonly put: readonly KnownPod[];
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
  private readonly pods = new Map<string, KnownPod>();
  private readonly kinds = new Map<string, { readonly kind: PodKind; pods: number }>();
  /** What the next version changes: a pod, or `undefined` for one that is gone. */
  private pending = new Map<string, KnownPod | undefined>();
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
    if (known !== undefined && isSamePod(known, pod)) return;
    if (known !== undefined) this.leave(known.kind);
    const kept = { ...pod, kind: this.join(pod.kind) };
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
    const put: KnownPod[] = [];
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
    const last = new Map<string, KnownPod | undefined>();
    for (const change of this.changes) {
      if (change.version <= version) continue;
      for (const uid of change.removed) last.set(uid, undefined);
      for (const pod of change.put) last.set(pod.uid, pod);
    }
    const put = [...last.values()].filter((pod) => pod !== undefined);
    const removed = [...last].flatMap(([uid, pod]) => (pod === undefined ? [uid] : []));
    const messages = this.write(put, removed, false);
    this.deltas.set(version, messages);
    return messages;
  }

  private write(put: readonly KnownPod[], removed: readonly string[], first: boolean): readonly Uint8Array[] {
    const messages: Uint8Array[] = [];
    for (let from = 0; from === 0 || from < put.length; from += MESSAGE_PODS) {
      const last = from + MESSAGE_PODS >= put.length;
      const kinds = new Map<PodKind, number>();
      const pods = put.slice(from, from + MESSAGE_PODS).map(({ uid, kind, addresses, facts, shared }) => {
        const index = kinds.get(kind) ?? kinds.size;
        kinds.set(kind, index);
        return { uid, kind: index, addresses: [...addresses], facts, shared };
      });
      const message = create(WorkloadsSchema, {
        kinds: [...kinds.keys()].map(({ principals, facts }) => ({ principals: [...principals], facts })),
        put: pods,
        removed: from === 0 ? [...removed] : [],
        first: first && from === 0,
        last,
        state: last ? `${this.options.epoch}:${this.version}` : "",
      });
      messages.push(gzipSync(toBinary(WorkloadsSchema, message), { level: GZIP_LEVEL }));
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

  private note(uid: string, pod: KnownPod | undefined): void {
    this.pending.delete(uid);
    this.pending.set(uid, pod);
    this.timer ??= setTimeout(() => this.flush(), GATHER_MS).unref();
  }

  /** Replicas share one object. */
  private join(kind: PodKind): PodKind {
    const key = keyOf(kind);
    const known = this.kinds.get(key) ?? { kind, pods: 0 };
    known.pods++;
    this.kinds.set(key, known);
    return known.kind;
  }

  private leave(kind: PodKind): void {
    const key = keyOf(kind);
    const known = this.kinds.get(key);
    if (known !== undefined && --known.pods === 0) this.kinds.delete(key);
  }
}

function keyOf({ principals, facts }: PodKind): string {
  return JSON.stringify([principals, facts]);
}
