/** Keeps our stream at a transmitter as it should be, and asks now and then whether events still come through. */

import { join } from "node:path";
import { HOUR_MS, MINUTE_MS } from "../model/units.ts";
import { backoffMs, pause } from "./backoff.ts";
import type { SourceConfig } from "./config.ts";
import { EVENTS_WANTED } from "./events.ts";
import type { Intake } from "./intake.ts";
import { Journal } from "./journal.ts";
import {
  POLL_METHOD,
  PUSH_METHOD,
  type StreamClient,
  type StreamDescription,
  type StreamWanted,
} from "./stream-client.ts";
import { record } from "./subjects.ts";
import { type Surroundings, tellError } from "./surroundings.ts";

const RETRY_MIN_MS = 1_000;
const RETRY_MAX_MS = 5 * MINUTE_MS;
/** How often the stream is compared with what it should be. */
const CHECK_MS = HOUR_MS;
const STATE_BYTES = 16;

/** What is remembered of a stream: its id, and the verification that is awaited. */
interface Kept {
  readonly streamId: string;
  readonly state: string | undefined;
}

export interface StreamKeeperOptions {
  readonly source: SourceConfig;
  readonly client: StreamClient;
  readonly intake: Intake;
  readonly surroundings: Surroundings;
  /** The bearer token that the transmitter shall show when it pushes; read anew when it is sent. */
  readonly pushToken: () => string | undefined;
  /** Told where to poll, whenever that is known anew. */
  readonly onPollEndpoint: (url: string) => void;
  readonly signal: AbortSignal;
}

export class StreamKeeper {
  private readonly options: StreamKeeperOptions;
  private readonly journal: Journal;
  private kept: Kept | undefined;
  private running: Promise<void> = Promise.resolve();

  constructor(options: StreamKeeperOptions) {
    this.options = options;
    const { folder } = options.surroundings;
    this.journal = new Journal({
      path: folder === undefined ? undefined : join(folder, `stream-${options.source.name}.journal`),
      replay: (value) => {
        const { streamId, state } = record(value) ?? {};
        if (typeof streamId !== "string") return;
        this.kept = { streamId, state: typeof state === "string" ? state : undefined };
      },
      snapshot: () => (this.kept === undefined ? [] : [this.kept]),
      onDamage: () => {}, // the transmitter is asked which streams there are
    });
  }

  async start(): Promise<void> {
    await this.journal.open();
    const { intake } = this.options;
    intake.streamId = this.kept?.streamId;
    if (this.kept?.state !== undefined) intake.expectState(this.kept.state);
    this.running = this.run();
  }

  async close(): Promise<void> {
    await this.running;
    await this.journal.close();
  }

  private async run(): Promise<void> {
    const { surroundings, source, signal } = this.options;
    let failures = 0;
    let checkedAtMs = Number.NEGATIVE_INFINITY;
    while (!signal.aborted) {
      let waitMs: number;
      try {
        if (surroundings.now() - checkedAtMs >= CHECK_MS) {
          await this.ensure();
          checkedAtMs = surroundings.now();
        }
        await this.verify();
        failures = 0;
        waitMs = Math.min(CHECK_MS, source.manage?.verifyEveryMs ?? CHECK_MS);
      } catch (error) {
        if (signal.aborted) return;
        // Keeps what was set up before; events that come anyhow are taken.
        tellError(surroundings.telling, "shared_signals.stream_trouble", error, { transmitter: source.name });
        waitMs = backoffMs(++failures, RETRY_MIN_MS, RETRY_MAX_MS, surroundings.random);
      }
      await pause(waitMs, signal);
    }
  }

  /** The stream of before, or one that is there already, or a new one; changed where it differs. */
  private async ensure(): Promise<void> {
    const { client, source, intake, surroundings } = this.options;
    const wanted = this.wanted();
    const before = this.kept === undefined ? undefined : await client.read(this.kept.streamId);
    let stream = before ?? (await this.adopt(wanted)) ?? (await client.create(wanted));
    if (stream === undefined) throw new Error("the transmitter allows no further stream, and lists none of ours");
    if (differs(stream, wanted)) stream = await client.update(stream.streamId, wanted);
    if (!stream.audiences.some((one) => source.audiences.includes(one))) {
      throw new Error("the stream's aud is none of the audiences that are accepted");
    }
    if (this.kept?.streamId !== stream.streamId) {
      await this.keep({ streamId: stream.streamId, state: undefined });
      surroundings.telling.log(
        "info",
        "shared_signals.stream_ready",
        { transmitter: source.name, stream: stream.streamId, events: stream.eventsDelivered.length },
        "the stream is set up",
      );
    }
    intake.streamId = stream.streamId;
    if (stream.method === POLL_METHOD && stream.endpointUrl !== undefined)
      this.options.onPollEndpoint(stream.endpointUrl);
  }

  /** A stream that a former process made and forgot: pushed to our own place, or polled when we poll. */
  private async adopt(wanted: StreamWanted): Promise<StreamDescription | undefined> {
    const there = await this.options.client.list();
    return there.find(({ method, endpointUrl }) =>
      wanted.delivery.method === PUSH_METHOD
        ? method === PUSH_METHOD && endpointUrl === wanted.delivery.endpoint_url
        : method === POLL_METHOD,
    );
  }

  private wanted(): StreamWanted {
    const { source } = this.options;
    const push = source.manage?.push;
    const token = this.options.pushToken();
    return {
      delivery:
        push === undefined || token === undefined
          ? { method: POLL_METHOD }
          : { method: PUSH_METHOD, endpoint_url: push.url, authorization_header: `Bearer ${token}` },
      events_requested: EVENTS_WANTED,
      description: "Sallyport",
    };
  }

  private async verify(): Promise<void> {
    const { client, intake, surroundings } = this.options;
    if (this.kept === undefined) return;
    const state = Buffer.from(surroundings.randomBytes(STATE_BYTES)).toString("base64url");
    // Known before it is asked for, and after a restart: the event may be faster than the answer.
    intake.expectState(state);
    await this.keep({ ...this.kept, state });
    await client.verify(this.kept.streamId, state);
  }

  private keep(kept: Kept): Promise<void> {
    return this.journal.append(kept, () => {
      this.kept = kept;
    });
  }
}

function differs(stream: StreamDescription, { delivery, events_requested }: StreamWanted): boolean {
  if (stream.method !== delivery.method) return true;
  if (delivery.method === PUSH_METHOD && stream.endpointUrl !== delivery.endpoint_url) return true;
  return events_requested.some((one) => !stream.eventsRequested.includes(one));
}
