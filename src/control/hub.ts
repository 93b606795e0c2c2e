/** Tells watching sidecars what they should have: level-triggered, so that nothing queues and nothing is missed. */

import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  type BundleRef,
  type EncodedChunk,
  type WatchRequest,
  type WatchResponse,
  WatchResponseSchema,
} from "../gen/sallyport/control/v1/control_pb.ts";
import { type Caller, mayBe } from "./access.ts";
import { isAhead, targetOf } from "./channels.ts";
import type { Fleet } from "./fleet.ts";
import type { ControlMetrics } from "./metrics.ts";
import type { Standing } from "./orders.ts";
import type { PodWatch, WatchHealth } from "./workloads/watch.ts";

/** Streams of pieces that are written at once; the others wait, so that a first start of the fleet fits in memory. */
const FETCHES_MAX = 32;

/** A heartbeat comes this share of its interval early at most, so that a fleet's do not beat as one. */
const JITTER = 0.2;

/** A receiver that has not taken a message for this many heartbeats is dropped. */
const SLOW_HEARTBEATS = 4;

export interface HubOptions {
  readonly fleet: Fleet;
  readonly standing: Standing;
  /** `undefined`: no cluster is watched. */
  readonly pods: Pick<PodWatch, "feed" | "loaded" | "health"> | undefined;
  readonly metrics: ControlMetrics;
  readonly sidecarsMax: number;
  readonly heartbeatMs: number;
  /** Whether channels are known; nobody is told to have nothing before that. */
  readonly loaded: () => boolean;
  readonly now: () => number;
  readonly random: () => number;
}

/** One call, as far as it can be ended and asked again who makes it. */
export interface Call {
  readonly signal: AbortSignal;
  /** @throws {ConnectError} once the caller may no longer call */
  readonly caller: () => Caller;
  /** Cuts the connection's stream: a receiver that reads nothing hears nothing else. */
  readonly cut: () => void;
}

interface Sending {
  sinceMs: number | undefined;
  readonly cut: () => void;
}

export class Hub {
  private readonly options: HubOptions;
  private readonly sleepers = new Set<() => void>();
  private readonly sendings = new Set<Sending>();
  private readonly waiting: (() => void)[] = [];
  private readonly sweeper: NodeJS.Timeout;
  private fetches = 0;
  private watching = 0;
  private draining = false;

  constructor(options: HubOptions) {
    this.options = options;
    options.fleet.onChange(() => this.wake());
    this.sweeper = setInterval(() => this.dropSlow(), options.heartbeatMs);
    this.sweeper.unref();
  }

  get watchers(): number {
    return this.watching;
  }

  /** Ends every watch; sidecars come back elsewhere, or here once this process is up again. */
  drain(): void {
    this.draining = true;
    clearInterval(this.sweeper);
    this.wake();
  }

  async *watch(request: WatchRequest, call: Call): AsyncGenerator<WatchResponse> {
    const { fleet, sidecarsMax, metrics, heartbeatMs, now } = this.options;
    if (!this.options.loaded()) throw new ConnectError("the store was not reached yet", Code.Unavailable);
    if (this.watching >= sidecarsMax) {
      metrics.refusedCalls.inc({ reason: "full" });
      throw new ConnectError(`this control plane has its ${sidecarsMax} sidecars`, Code.ResourceExhausted);
    }
    const sending = this.register(call);
    let has: BundleRef | undefined = request.has;
    let dueMs = 0;
    const { standing } = this.options;
    const pods = request.wantsWorkloads ? this.options.pods : undefined;
    let knows = pods?.feed.versionOf(request.workloadsState);
    let toldBroken = false;
    let heeds = request.ordersState === standing.state ? standing.current : undefined;
    // Told even where nothing has changed: the sidecar then knows that it heeds what it should.
    let ordered = false;
    while (!call.signal.aborted) {
      if (this.draining) throw new ConnectError("this control plane is stopping", Code.Unavailable);
      const channel = fleet.channelOf(request);
      if (!mayBe(call.caller(), request.labels, channel?.name)) {
        throw new ConnectError("not allowed as a sidecar with these labels", Code.PermissionDenied);
      }
      const target = channel === undefined ? undefined : targetOf(channel, request);
      // Locks first: a bundle may take its time.
      while (heeds !== standing.current || !ordered) {
        const version = standing.current;
        const messages = standing.since(heeds);
        for (const value of messages) {
          sending.sinceMs = now();
          yield create(WatchResponseSchema, { news: { case: "orders", value } });
          sending.sinceMs = undefined;
        }
        heeds = version;
        ordered = true;
      }
      while (pods?.loaded === true && knows !== pods.feed.current) {
        const version = pods.feed.current;
        for (const value of pods.feed.since(knows)) {
          sending.sinceMs = now();
          yield create(WatchResponseSchema, { news: { case: "workloads", value } });
          sending.sinceMs = undefined;
        }
        knows = version;
      }
      if (target !== undefined && target.digest !== has?.digest && !isAhead(has, target)) {
        const revision = fleet.library.revision(target.digest, has?.digest);
        if (revision !== undefined) {
          has = target;
          metrics.revisionsSent.inc();
          sending.sinceMs = now();
          yield create(WatchResponseSchema, { news: { case: "revision", value: revision } });
          sending.sinceMs = undefined;
        }
      }
      const health = pods?.loaded === true ? pods.health : undefined;
      // A watch that breaks, or is whole again, is not kept back until the next beat.
      if (now() >= dueMs || (health?.broken ?? false) !== toldBroken) {
        toldBroken = health?.broken ?? false;
        const heartbeat = {
          serverTime: timestampFromMs(now()),
          intervalMs: heartbeatMs,
          channel: channel?.name ?? "",
          ...(target === undefined ? {} : { current: target }),
          ...(health === undefined ? {} : { workloads: told(health) }),
        };
        sending.sinceMs = now();
        yield create(WatchResponseSchema, { news: { case: "heartbeat", value: heartbeat } });
        sending.sinceMs = undefined;
        dueMs = now() + heartbeatMs * (1 - JITTER * this.options.random());
      }
      await this.sleep(Math.max(1, dueMs - now()), call.signal);
    }
  }

  /**
   * Pieces in the order asked for; `undefined` now and then while others are served first.
   * @throws {ConnectError} NOT_FOUND for a piece that no bundle in use has
   */
  async *chunks(names: readonly Uint8Array[], call: Call): AsyncGenerator<EncodedChunk | undefined> {
    const { fleet, metrics, now, sidecarsMax } = this.options;
    if (this.waiting.length >= sidecarsMax) {
      metrics.refusedCalls.inc({ reason: "full" });
      throw new ConnectError("too many are fetching", Code.ResourceExhausted);
    }
    // Whoever waits in line is told that it does: it would take the silence for a server that hangs.
    const turn = this.turn(call.signal).then(() => true);
    while (!(await Promise.race([turn, this.pause(call.signal)]))) {
      if (this.draining) throw new ConnectError("this control plane is stopping", Code.Unavailable);
      yield undefined;
    }
    const sending: Sending = { sinceMs: undefined, cut: call.cut };
    this.sendings.add(sending);
    call.signal.addEventListener("abort", () => this.sendings.delete(sending), { once: true });
    for (const name of names) {
      if (call.signal.aborted) return;
      const chunk = fleet.library.chunk(name);
      if (chunk === undefined) throw new ConnectError("a piece is no longer in use; watch again", Code.NotFound);
      metrics.chunksSent.inc();
      metrics.chunkBytesSent.inc(chunk.data.length);
      sending.sinceMs = now();
      yield chunk;
      sending.sinceMs = undefined;
    }
    this.sendings.delete(sending);
  }

  /** The end of a call is heard by its signal: a generator whose receiver went away may never be resumed. */
  private register({ signal, cut }: Call): Sending {
    const sending: Sending = { sinceMs: undefined, cut };
    this.watching++;
    this.sendings.add(sending);
    signal.addEventListener(
      "abort",
      () => {
        this.watching--;
        this.sendings.delete(sending);
      },
      { once: true },
    );
    return sending;
  }

  /** Waits until few enough are fetching; the place is given back when the call ends, however it does. */
  private async turn(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const take = (): void => {
      this.fetches++;
      const giveBack = (): void => {
        this.fetches--;
        this.waiting.shift()?.();
      };
      signal.addEventListener("abort", giveBack, { once: true });
    };
    if (this.fetches < FETCHES_MAX) return take();
    await new Promise<void>((resolve) => {
      const grant = (): void => {
        signal.removeEventListener("abort", giveUp);
        take();
        resolve();
      };
      const giveUp = (): void => {
        this.waiting.splice(this.waiting.indexOf(grant), 1);
        resolve();
      };
      this.waiting.push(grant);
      signal.addEventListener("abort", giveUp, { once: true });
    });
  }

  private async pause(signal: AbortSignal): Promise<false> {
    await this.sleep(this.options.heartbeatMs, signal);
    return false;
  }

  private sleep(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.sleepers.delete(done);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.sleepers.add(done);
      signal.addEventListener("abort", done, { once: true });
      if (signal.aborted || this.draining) done();
    });
  }

  /** Something has changed that every watcher is to look at. */
  wake(): void {
    for (const wake of [...this.sleepers]) wake();
  }

  private dropSlow(): void {
    const since = this.options.now() - SLOW_HEARTBEATS * this.options.heartbeatMs;
    for (const sending of [...this.sendings]) {
      if (sending.sinceMs === undefined || sending.sinceMs > since) continue;
      this.options.metrics.dropped.inc({ reason: "slow" });
      this.sendings.delete(sending);
      sending.cut();
    }
  }
}

/** Longer silences than the wire can tell are told as the longest. */
const SILENT_MS_MAX = 2 ** 32 - 1;

function told({ silentMs, broken }: WatchHealth): { readonly silentMs: number; readonly broken: boolean } {
  return { silentMs: Math.min(SILENT_MS_MAX, Math.ceil(silentMs)), broken };
}
