/**
 * The control plane's memory in NATS JetStream, shared by several processes: channels in a key-value bucket (changed by
 * compare-and-set, followed by a watch), bundles in an object store, sidecars' reports in a bucket whose entries expire.
 *
 * A watch that breaks silently would leave this process with old channels, so everything is also read again after each
 * reconnect and every half minute.
 */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fromBinary, fromJsonString, toBinary, toJsonString } from "@bufbuild/protobuf";
import { JetStreamApiError, jetstream } from "@nats-io/jetstream";
import { type KV, Kvm } from "@nats-io/kv";
import { type ObjectStore, Objm } from "@nats-io/obj";
import { connect, credsAuthenticator, type NatsConnection, type NodeConnectionOptions } from "@nats-io/transport-node";
import {
  type Channel,
  ChannelSchema,
  type Order,
  OrderSchema,
  StatusReportSchema,
} from "../gen/sallyport/control/v1/control_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { DEFAULT_CHANNEL, newChannel } from "./channels.ts";
import { Reports } from "./reports.ts";
import { type FleetStore, REPORT_TTL_MS, type Reported, type StoreHealth } from "./store.ts";

const RESYNC_MS = 30_000;
const RETRY_MS = 1_000;
const CALL_MS_MAX = 10_000;
/** Tries of a change that others were faster with. */
const TRIES_MAX = 8;
/** A bundle that no channel names may be about to be named by a process that has just put it there. */
const UNNAMED_MS_MIN = 600_000;
/** JetStream's code for "wrong last sequence": another process changed the key. */
const WRONG_LAST_SEQUENCE = 10_071;
/** Reports on their way to NATS; further ones stay in this process's memory alone. */
const REPORTS_PENDING_MAX = 1_000;

export interface NatsStoreOptions {
  readonly servers: readonly string[];
  /** Path of a credentials file. */
  readonly credentials: string | undefined;
  /** Path of the authorities of the servers' certificates. */
  readonly ca: string | undefined;
  readonly prefix: string;
  readonly replicas: number;
  readonly bundleBytesMax: number;
  readonly reportsMax: number;
  readonly now: () => number;
  /** Told when NATS goes and comes. */
  readonly onState: (connected: boolean, detail: string) => void;
}

interface Buckets {
  readonly channels: KV;
  readonly reports: KV;
  readonly bundles: ObjectStore;
  readonly orders: KV;
}

export class NatsStore implements FleetStore {
  private readonly options: NatsStoreOptions;
  private readonly states = new Map<string, Channel>();
  private readonly standing = new Map<string, Order>();
  private readonly words: Reports;
  /** Counts changes of orders. */
  private generation = 0;
  private onChange: () => void = () => {};
  private connection: NatsConnection | undefined;
  private buckets: Buckets | undefined;
  private timer: NodeJS.Timeout | undefined;
  private connected = false;
  private loaded = false;
  private closed = false;
  private pending = 0;
  private trouble = "NATS is not reachable yet";

  constructor(options: NatsStoreOptions) {
    this.options = options;
    this.words = new Reports(options.reportsMax, options.now);
  }

  async start(onChange: () => void): Promise<void> {
    this.onChange = onChange;
    const options = this.connectionOptions();
    void this.keepTrying(async () => {
      this.connection ??= await connect(options);
      void this.followState(this.connection);
      this.buckets = await this.open(this.connection);
      await this.resync();
      this.setConnected(true, "ok");
      void this.follow((buckets) => this.followChannels(buckets));
      void this.follow((buckets) => this.followReports(buckets));
      void this.follow((buckets) => this.followOrders(buckets));
      this.timer = setInterval(() => void this.resync().catch(() => {}), RESYNC_MS); // the next one may succeed
      this.timer.unref();
    });
  }

  channels(): ReadonlyMap<string, Channel> {
    return this.states;
  }

  async update(name: string, change: (channel: Channel | undefined) => Channel): Promise<Channel> {
    const { channels } = this.reached();
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const entry = await this.calling(() => channels.get(name));
      const there = entry === null || entry.operation !== "PUT" ? undefined : channelFrom(entry.value);
      const changed = change(there ?? (name === DEFAULT_CHANNEL ? newChannel(name) : undefined));
      const text = toJsonString(ChannelSchema, changed);
      try {
        // Of two processes that change the same revision of the entry, JetStream lets one through.
        await this.calling(() =>
          entry === null ? channels.create(name, text) : channels.update(name, text, entry.revision),
        );
      } catch (error) {
        if (isConflict(error)) continue;
        throw error;
      }
      this.take(changed);
      return changed;
    }
    throw new OperatingError("ERR_CONTROL", `channel ${name}: others keep changing it; try again`);
  }

  orders(): ReadonlyMap<string, Order> {
    return this.standing;
  }

  async order(put: readonly Order[], removed: readonly string[]): Promise<void> {
    const { orders } = this.reached();
    for (const id of removed) {
      await this.calling(() => orders.purge(keyOf(id)));
      this.standing.delete(id);
      this.generation++;
    }
    for (const one of put) {
      await this.calling(() => orders.put(keyOf(one.id), toBinary(OrderSchema, one)));
      this.stand(one);
      this.generation++;
    }
    if (this.loaded) this.onChange();
  }

  async putBundle(digest: string, bytes: Uint8Array): Promise<void> {
    const { bundles } = this.reached();
    if ((await this.calling(() => bundles.info(digest))) !== null) return;
    await this.calling(() => bundles.putBlob({ name: digest }, bytes));
  }

  async bundle(digest: string): Promise<Uint8Array | undefined> {
    const { bundles } = this.reached();
    const info = await this.calling(() => bundles.info(digest));
    if (info === null || info.size > this.options.bundleBytesMax) return undefined;
    return (await this.calling(() => bundles.getBlob(digest))) ?? undefined;
  }

  async keepBundles(digests: ReadonlySet<string>): Promise<void> {
    const { bundles } = this.reached();
    for (const { name, mtime, deleted } of await this.calling(() => bundles.list())) {
      if (deleted || digests.has(name) || this.options.now() - Date.parse(mtime) < UNNAMED_MS_MIN) continue;
      await this.calling(() => bundles.delete(name));
    }
  }

  report(reported: Reported): void {
    this.words.put(reported);
    if (!this.connected || this.buckets === undefined || this.pending >= REPORTS_PENDING_MAX) return;
    this.pending++;
    this.buckets.reports
      .put(keyOf(reported.status.sidecarId), toBinary(StatusReportSchema, reported.status))
      .catch(() => {}) // the next report comes in 30 s, and this process has it in memory
      .finally(() => {
        this.pending--;
      });
  }

  reports(): Iterable<Reported> {
    return this.words.list();
  }

  health(): StoreHealth {
    return { ok: this.connected, loaded: this.loaded, detail: this.connected ? "ok" : this.trouble };
  }

  async close(): Promise<void> {
    this.closed = true;
    clearInterval(this.timer);
    // Nothing is waited for: what matters was acknowledged when it was written.
    await this.connection?.close().catch(() => {});
  }

  private connectionOptions(): NodeConnectionOptions {
    const { servers, credentials, ca } = this.options;
    return {
      servers: [...servers],
      name: "sallyport-control",
      maxReconnectAttempts: -1,
      reconnectTimeWait: RETRY_MS,
      reconnectJitter: RETRY_MS,
      timeout: CALL_MS_MAX,
      // A server that is gone without a word is noticed within half a minute.
      pingInterval: 10_000,
      maxPingOut: 2,
      ...(credentials === undefined
        ? {}
        : { authenticator: credsAuthenticator(readBytes("nats-credentials", credentials)) }),
      ...(ca === undefined ? {} : { tls: { caFile: ca } }),
    };
  }

  private async open(connection: NatsConnection): Promise<Buckets> {
    const { prefix, replicas } = this.options;
    const kvm = new Kvm(jetstream(connection, { timeout: CALL_MS_MAX }));
    const objm = new Objm(jetstream(connection, { timeout: CALL_MS_MAX }));
    return {
      channels: await kvm.create(`${prefix}-channels`, { replicas, history: 1 }),
      reports: await kvm.create(`${prefix}-reports`, { replicas, history: 1, ttl: REPORT_TTL_MS }),
      bundles: await objm.create(`${prefix}-bundles`, { replicas }),
      orders: await kvm.create(`${prefix}-orders`, { replicas, history: 1 }),
    };
  }

  /** Reads all channels. Readers see the old ones until all are read. */
  private async resync(): Promise<void> {
    const { buckets } = this;
    if (buckets === undefined) return;
    const found: Channel[] = [];
    for await (const name of await buckets.channels.keys()) {
      const entry = await buckets.channels.get(name);
      if (entry !== null && entry.operation === "PUT") found.push(channelFrom(entry.value));
    }
    const { generation } = this;
    const standing = await this.readOrders(buckets);
    // What changed meanwhile is newer than what was read; the next reading is soon enough for the rest.
    if (generation === this.generation || !this.loaded) {
      for (const id of [...this.standing.keys()]) if (!standing.has(id)) this.standing.delete(id);
      for (const order of standing.values()) this.stand(order);
    }
    this.loaded = true;
    if (!this.states.has(DEFAULT_CHANNEL)) this.states.set(DEFAULT_CHANNEL, newChannel(DEFAULT_CHANNEL));
    for (const channel of found) this.take(channel);
    this.onChange();
  }

  /** A watch that gives all that there is ends with it; reading key by key would take a round trip for each. */
  private async readOrders({ orders }: Buckets): Promise<Map<string, Order>> {
    const found = new Map<string, Order>();
    const { values } = await orders.status();
    if (values === 0) return found;
    const watch = await orders.watch();
    let left = values;
    for await (const entry of watch) {
      if (entry.operation === "PUT") {
        const order = fromBinary(OrderSchema, entry.value);
        found.set(order.id, order);
      }
      if (entry.delta === 0 || --left === 0) break;
    }
    watch.stop();
    return found;
  }

  private async followOrders({ orders }: Buckets): Promise<void> {
    for await (const entry of await orders.watch()) {
      if (entry.operation === "PUT") {
        this.stand(fromBinary(OrderSchema, entry.value));
      } else {
        for (const id of this.standing.keys()) if (keyOf(id) === entry.key) this.standing.delete(id);
      }
      this.generation++;
      if (entry.delta === 0 && this.loaded) this.onChange();
    }
  }

  /** Keeps the very same object for the same order, so that it does not count as changed. */
  private stand(order: Order): void {
    const known = this.standing.get(order.id);
    const same = known !== undefined && toJsonString(OrderSchema, known) === toJsonString(OrderSchema, order);
    if (!same) this.standing.set(order.id, order);
  }

  private async followChannels({ channels }: Buckets): Promise<void> {
    for await (const entry of await channels.watch()) {
      if (entry.operation === "PUT") this.take(channelFrom(entry.value));
    }
  }

  private async followReports({ reports }: Buckets): Promise<void> {
    for await (const entry of await reports.watch()) {
      if (entry.operation !== "PUT") continue;
      // Told just now: this process's clock counts, for those of others may differ.
      const atMs = entry.isUpdate ? this.options.now() : entry.created.getTime();
      this.words.put({ status: fromBinary(StatusReportSchema, entry.value), atMs });
    }
  }

  private take(channel: Channel): void {
    const known = this.states.get(channel.name);
    if (known !== undefined && toJsonString(ChannelSchema, known) === toJsonString(ChannelSchema, channel)) return;
    this.states.set(channel.name, channel);
    if (this.loaded) this.onChange();
  }

  /** Follows for as long as the store is open; a watch that ends or fails is begun anew. */
  private async follow(watch: (buckets: Buckets) => Promise<void>): Promise<void> {
    while (!this.closed) {
      try {
        await watch(this.buckets!);
      } catch {
        // Keeps serving what it has; what was missed comes with the new watch, or with the next reading of everything.
      }
      await pause(RETRY_MS);
    }
  }

  private async followState(connection: NatsConnection): Promise<void> {
    for await (const { type } of connection.status()) {
      if (type === "disconnect") this.setConnected(false, "NATS is not reachable");
      if (type === "reconnect") {
        void this.keepTrying(async () => {
          this.buckets = await this.open(connection);
          await this.resync();
          this.setConnected(true, "ok");
        });
      }
    }
  }

  private async keepTrying(job: () => Promise<void>): Promise<void> {
    while (!this.closed) {
      try {
        return await job();
      } catch (error) {
        // Keeps serving what it has, and tries again.
        this.setConnected(false, `NATS: ${error instanceof Error ? error.message : String(error)}`);
        await pause(RETRY_MS);
      }
    }
  }

  private setConnected(connected: boolean, detail: string): void {
    const news = connected !== this.connected || (!connected && detail !== this.trouble);
    this.connected = connected;
    if (!connected) this.trouble = detail;
    if (news && !this.closed) this.options.onState(connected, detail);
  }

  private reached(): Buckets {
    if (this.connected && this.buckets !== undefined) return this.buckets;
    throw new OperatingError("ERR_CONTROL", `nothing was changed: ${this.trouble}`);
  }

  private async calling<Result>(call: () => Promise<Result>): Promise<Result> {
    try {
      return await call();
    } catch (cause) {
      if (isConflict(cause)) throw cause;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new OperatingError("ERR_CONTROL", `NATS did not answer as it should (${why}); look before trying again`, {
        cause,
      });
    }
  }
}

function isConflict(error: unknown): boolean {
  return error instanceof JetStreamApiError && error.code === WRONG_LAST_SEQUENCE;
}

/** Keys of a bucket know few characters; ids of sidecars may hold any. */
function keyOf(sidecarId: string): string {
  return createHash("sha256").update(sidecarId).digest("hex");
}

function channelFrom(value: Uint8Array): Channel {
  return fromJsonString(ChannelSchema, Buffer.from(value).toString("utf8"), { ignoreUnknownFields: true });
}

function readBytes(setting: string, path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new OperatingError("ERR_CONFIG_INVALID", `${setting} ${path}: expected a file that can be read`, { cause });
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
