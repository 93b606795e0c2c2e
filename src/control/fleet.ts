/** The fleet: what is offered to whom, changed by operators, told to sidecars. Joins store, library and verification. */

import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { suggest } from "../bundle/problem.ts";
import type { Bundle } from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import {
  type BundleRef,
  type Channel,
  type ChannelSummary,
  ChannelSummarySchema,
  type Selector,
  type Sidecar,
  SidecarSchema,
} from "../gen/sallyport/control/v1/control_pb.ts";
import { OperatingError } from "../model/errors.ts";
import {
  type Author,
  afterAbort,
  CHANNELS_MAX,
  canaryAborted,
  canaryPromoted,
  canaryStarted,
  canaryWidened,
  channelOf,
  inCanary,
  isAhead,
  keptOf,
  type Member,
  newChannel,
  published,
  selectorSet,
  targetOf,
} from "./channels.ts";
import { Library } from "./library.ts";
import type { FleetStore } from "./store.ts";

/** A bundle that was read, and verified where keys are known. */
export interface Examined {
  readonly ref: BundleRef;
  readonly bundle: Bundle;
  /** The trust that its verification led to, as text; empty where nothing is verified. */
  readonly trust: string;
  /** A later root has begun revisions anew, and this is of that root. */
  readonly restarts: boolean;
  readonly warnings: readonly string[];
}

/** Decides whether a bundle is to be believed. */
export interface Examiner {
  /**
   * @param trust what the channel's last bundle led to; empty before the first
   * @throws {OperatingError} ERR_BUNDLE_*
   */
  examine(bytes: Uint8Array, label: string, trust: string): Promise<Examined>;
  /** Reads a bundle that was examined when it was published. */
  read(bytes: Uint8Array, label: string): { readonly digest: string; readonly bundle: Bundle };
}

export interface FleetOptions {
  readonly store: FleetStore;
  readonly examiner: Examiner;
  readonly revisionsKept: number;
  /** Told of a kept bundle that cannot be handed out. */
  readonly onUnusable: (ref: BundleRef, error: unknown) => void;
}

const RETRY_MS = 5_000;

export class Fleet {
  readonly library = new Library();
  private readonly options: FleetOptions;
  private readonly listeners = new Set<() => void>();
  private catchingUp: Promise<void> | undefined;
  private again = false;
  private retry: NodeJS.Timeout | undefined;
  /** Bundles that could not be used are told once. */
  private readonly unusable = new Set<string>();

  constructor(options: FleetOptions) {
    this.options = options;
  }

  /** Told whenever the store has changed, before anything is fetched. */
  onStore: () => void = () => {};

  async start(): Promise<void> {
    await this.options.store.start(() => {
      this.onStore();
      void this.catchUp();
    });
    await this.catchUp();
  }

  close(): void {
    clearTimeout(this.retry);
  }

  /** Called after what should be in force may have changed, once it can be handed out. */
  onChange(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  channels(): readonly Channel[] {
    return [...this.options.store.channels().values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  channelOf(member: Member): Channel | undefined {
    return channelOf(this.options.store.channels().values(), member.labels);
  }

  async publish(name: string, bytes: Uint8Array, author: Author) {
    const { examined, channel } = await this.put(name, bytes, (known, candidate) =>
      published(known, candidate, this.options.revisionsKept, author),
    );
    return { channel, published: examined.ref, warnings: examined.warnings };
  }

  async startCanary(
    name: string,
    bytes: Uint8Array,
    who: { readonly share: number; readonly selectors: readonly Selector[] },
    author: Author,
  ) {
    const { examined, channel } = await this.put(name, bytes, (known, candidate) =>
      canaryStarted(known, candidate, who, this.options.revisionsKept, author),
    );
    return { channel, warnings: examined.warnings };
  }

  widenCanary(name: string, who: { readonly share: number; readonly selectors: readonly Selector[] }, author: Author) {
    return this.change(name, (known) => canaryWidened(known, who, author));
  }

  promoteCanary(name: string, author: Author): Promise<Channel> {
    return this.change(name, (known) => canaryPromoted(known, author));
  }

  async abortCanary(name: string, author: Author) {
    let aborted: BundleRef | undefined;
    const channel = await this.change(name, (known) => {
      aborted = known.canary?.candidate;
      return canaryAborted(known, author);
    });
    let holders = 0;
    for (const { status } of this.options.store.reports()) if (status.inForce?.digest === aborted?.digest) holders++;
    return { channel, holders, nextStep: afterAbort(aborted!, channel.stable, holders) };
  }

  setChannel(name: string, selector: Selector | undefined, author: Author): Promise<Channel> {
    return this.options.store.update(name, (known) => {
      if (known === undefined && this.options.store.channels().size >= CHANNELS_MAX) {
        throw new OperatingError("ERR_CONTROL", `channel ${name}: there are ${CHANNELS_MAX} channels already`);
      }
      return selectorSet(known ?? newChannel(name), selector, author);
    });
  }

  /** Sidecars that reported lately, by id. */
  sidecars(): readonly Sidecar[] {
    const found: Sidecar[] = [];
    for (const { status, atMs } of this.options.store.reports()) {
      const channel = this.channelOf(status);
      const wanted = channel === undefined ? undefined : targetOf(channel, status);
      const ahead = wanted !== undefined && isAhead(status.inForce, wanted);
      const lagging = wanted !== undefined && !ahead && status.inForce?.digest !== wanted.digest;
      const old = status.freshness === "stale" || status.freshness === "expired";
      found.push(
        create(SidecarSchema, {
          status,
          channel: channel?.name ?? "",
          ...(wanted === undefined ? {} : { wanted }),
          ahead,
          lagging,
          failing: old || (lagging && status.refusals.length > 0),
          canary: channel !== undefined && inCanary(channel, status),
          reportedAt: timestampFromMs(atMs),
        }),
      );
    }
    return found.sort((a, b) => (a.status!.sidecarId < b.status!.sidecarId ? -1 : 1));
  }

  summaries(): readonly ChannelSummary[] {
    const byName = new Map(
      this.channels().map((channel) => [channel.name, create(ChannelSummarySchema, { channel })] as const),
    );
    for (const sidecar of this.sidecars()) {
      const summary = byName.get(sidecar.channel);
      if (summary === undefined) continue;
      summary.sidecars++;
      if (sidecar.ahead) summary.ahead++;
      else if (sidecar.lagging) summary.lagging++;
      else summary.current++;
      if (sidecar.failing) summary.failing++;
      if (sidecar.canary) summary.inCanary++;
    }
    return [...byName.values()];
  }

  private async put(
    name: string,
    bytes: Uint8Array,
    change: (channel: Channel, candidate: Examined) => Channel,
  ): Promise<{ examined: Examined; channel: Channel }> {
    const { store, examiner } = this.options;
    const before = this.known(name, store.channels().get(name));
    const examined = await examiner.examine(bytes, "bundle", before.trust);
    change(before, examined); // refused before anything is written
    this.library.add(examined.ref, examined.bundle);
    await store.putBundle(examined.ref.digest, bytes);
    const channel = await store.update(name, (found) => change(this.known(name, found), examined));
    return { examined, channel };
  }

  private change(name: string, change: (channel: Channel) => Channel): Promise<Channel> {
    return this.options.store.update(name, (found) => change(this.known(name, found)));
  }

  private known(name: string, channel: Channel | undefined): Channel {
    if (channel !== undefined) return channel;
    const meant = suggest(name, [...this.options.store.channels().keys()]);
    throw new OperatingError(
      "ERR_NOT_FOUND",
      `no channel ${JSON.stringify(name)}${meant === undefined ? "" : `; did you mean ${meant}?`}`,
    );
  }

  /** Fetches the bundles that channels name, forgets those that none names, and tells the sidecars. */
  private catchUp(): Promise<void> {
    this.again = true;
    this.catchingUp ??= this.catchUpInTurn().finally(() => {
      this.catchingUp = undefined;
    });
    return this.catchingUp;
  }

  private async catchUpInTurn(): Promise<void> {
    while (this.again) {
      this.again = false;
      const { store } = this.options;
      const channels = [...store.channels().values()];
      let whole = true;
      for (const channel of channels) {
        for (const ref of [channel.stable, channel.canary?.candidate, ...channel.kept]) {
          if (ref === undefined || this.library.has(ref.digest)) continue;
          whole = (await this.fetch(ref)) && whole;
        }
      }
      const kept = keptOf(store.channels().values());
      this.library.keep(kept);
      for (const listener of this.listeners) listener();
      await store.keepBundles(kept).catch(() => {}); // what is left over is forgotten the next time
      clearTimeout(this.retry);
      if (!whole) this.retry = setTimeout(() => void this.catchUp(), RETRY_MS).unref();
    }
  }

  private async fetch(ref: BundleRef): Promise<boolean> {
    try {
      const bytes = await this.options.store.bundle(ref.digest);
      if (bytes === undefined) throw new OperatingError("ERR_BUNDLE_INVALID", "its bytes are not in the store");
      const { digest, bundle } = this.options.examiner.read(bytes, "kept bundle");
      if (digest !== ref.digest) {
        throw new OperatingError("ERR_BUNDLE_INVALID", "the store holds another bundle under its name");
      }
      this.library.add(ref, bundle);
      this.unusable.delete(ref.digest);
      return true;
    } catch (error) {
      // Keeps handing out the others; sidecars keep what they have.
      if (!this.unusable.has(ref.digest)) this.options.onUnusable(ref, error);
      this.unusable.add(ref.digest);
      return false;
    }
  }
}
