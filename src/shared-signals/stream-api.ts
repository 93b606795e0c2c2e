/** The stream management of receivers and the polling of events (SSF 1.0, section 8; RFC 8936), as plain calls. */

import type { ReceiverConfig, TransmitConfig } from "./config.ts";
import { RISK_LEVEL_CHANGE, SESSION_REVOKED, type StreamStatus, VERIFICATION } from "./events.ts";
import { isCallable } from "./http.ts";
import type { Outbox, Stream, Undelivered } from "./outbox.ts";
import { POLL_METHOD, PUSH_METHOD } from "./stream-client.ts";
import { parseSubject, record, text } from "./subjects.ts";
import type { Surroundings } from "./surroundings.ts";

/** What we can tell. */
export const EVENTS_SUPPORTED: readonly string[] = [RISK_LEVEL_CHANGE, SESSION_REVOKED];

const STREAM_ID_BYTES = 16;
const EVENTS_REQUESTED_MAX = 100;
const DESCRIPTION_CHARS_MAX = 256;
const STATE_CHARS_MAX = 1_024;
const HEADER_CHARS_MAX = 4_096;
/** Most tokens of one poll's answer. */
const POLL_EVENTS_MAX = 100;
const ACKS_MAX = 10_000;

/** What a receiver is answered. */
export interface Reply {
  readonly status: number;
  readonly body?: unknown;
}

export interface StreamApiOptions {
  readonly config: TransmitConfig;
  /** Where the endpoints are, without an ending slash. */
  readonly base: string;
  readonly outbox: Outbox;
  readonly surroundings: Surroundings;
  readonly sign: (event: Undelivered, stream: Stream) => Promise<string>;
  /** Queues a verification event. */
  readonly verify: (stream: Stream, state: string | undefined) => Promise<void>;
  /** The stream is new, changed or gone. */
  readonly onChange: (id: string) => void;
  readonly onGivenUp: (stream: Stream, event: Undelivered, why: string) => void;
}

/** One poll that waits for events. */
interface Waiter {
  readonly release: () => void;
}

export class StreamApi {
  private readonly options: StreamApiOptions;
  private readonly verifiedAtMs = new Map<string, number>();
  private readonly waiters = new Map<string, Waiter>();
  private closed = false;

  constructor(options: StreamApiOptions) {
    this.options = options;
  }

  /** There are new events for a stream: whoever waits for them has them now. */
  wake(id: string): void {
    this.waiters.get(id)?.release();
  }

  close(): void {
    this.closed = true;
    for (const { release } of this.waiters.values()) release();
  }

  async create(receiver: ReceiverConfig, body: unknown): Promise<Reply> {
    const given = record(body);
    if (given === undefined) return bad("expected a JSON object");
    const own = this.ownStreams(receiver);
    if (own.length >= receiver.streamsMax)
      return { status: 409, body: { description: "no further stream is allowed" } };
    const id = Buffer.from(this.options.surroundings.randomBytes(STREAM_ID_BYTES)).toString("hex");
    const asked = this.readAsked(receiver, id, given, undefined);
    if (typeof asked === "string") return bad(asked);
    const { defaultSubjects } = receiver;
    const stream: Stream = {
      id,
      receiver: receiver.name,
      ...asked,
      status: "enabled",
      reason: undefined,
      defaultSubjects,
    };
    await this.options.outbox.put(stream);
    this.options.onChange(id);
    return { status: 201, body: this.describe(receiver, stream) };
  }

  read(receiver: ReceiverConfig, id: string | null): Reply {
    if (id === null) return { status: 200, body: this.ownStreams(receiver).map((one) => this.describe(receiver, one)) };
    const stream = this.own(receiver, id);
    return stream === undefined ? MISSING : { status: 200, body: this.describe(receiver, stream) };
  }

  /** PATCH changes what is given; PUT takes what is missing as deleted. */
  async change(receiver: ReceiverConfig, body: unknown, replace: boolean): Promise<Reply> {
    const given = record(body);
    const stream = this.own(receiver, given?.stream_id);
    if (given === undefined || text(given.stream_id) === undefined)
      return bad("expected a JSON object with a stream_id");
    if (stream === undefined) return MISSING;
    const now = this.describe(receiver, stream);
    for (const name of TRANSMITTER_SUPPLIED) {
      if (given[name] !== undefined && !sameJson(given[name], now[name])) return bad(`expected ${name} as it is`);
    }
    const asked = this.readAsked(receiver, stream.id, given, replace ? undefined : stream);
    if (typeof asked === "string") return bad(asked);
    const changed = { ...stream, ...asked };
    await this.options.outbox.put(changed);
    this.options.onChange(stream.id);
    return { status: 200, body: this.describe(receiver, changed) };
  }

  async delete(receiver: ReceiverConfig, id: string | null): Promise<Reply> {
    const stream = this.own(receiver, id);
    if (stream === undefined) return MISSING;
    for (const event of [...this.options.outbox.undelivered(stream.id)]) {
      this.options.onGivenUp(stream, event, "the receiver deleted its stream");
    }
    await this.options.outbox.remove(stream.id);
    this.verifiedAtMs.delete(stream.id);
    this.wake(stream.id);
    this.options.onChange(stream.id);
    return { status: 204 };
  }

  status(receiver: ReceiverConfig, id: string | null): Reply {
    const stream = this.own(receiver, id);
    return stream === undefined ? MISSING : { status: 200, body: statusOf(stream) };
  }

  async setStatus(receiver: ReceiverConfig, body: unknown): Promise<Reply> {
    const given = record(body);
    const status = given?.status;
    if (status !== "enabled" && status !== "paused" && status !== "disabled") {
      return bad("expected a status of enabled, paused or disabled");
    }
    const stream = this.own(receiver, given?.stream_id);
    if (stream === undefined) return MISSING;
    const reason = text(given?.reason, DESCRIPTION_CHARS_MAX);
    const changed: Stream = { ...stream, status: status satisfies StreamStatus, reason };
    await this.options.outbox.put(changed);
    if (status === "disabled") {
      // SSF 1.0, section 8.1.2.1: a disabled stream holds nothing for later.
      const dropped = [...this.options.outbox.undelivered(stream.id)];
      await this.options.outbox.settle(
        stream.id,
        dropped.map(({ jti }) => jti),
      );
      for (const event of dropped) this.options.onGivenUp(stream, event, "the receiver disabled its stream");
    }
    this.wake(stream.id);
    this.options.onChange(stream.id);
    return { status: 200, body: statusOf(changed) };
  }

  async setSubject(receiver: ReceiverConfig, body: unknown, added: boolean): Promise<Reply> {
    const given = record(body);
    const subject = record(given?.subject);
    const parsed = parseSubject(subject);
    if (subject === undefined || !parsed.ok) return bad(parsed.ok ? "expected a subject" : parsed.why);
    const stream = this.own(receiver, given?.stream_id);
    if (stream === undefined) return MISSING;
    // Whether the subject is known here, or one that this receiver may hear of, is not told (SSF 1.0, section 9.1).
    await this.options.outbox.setSubject(stream.id, subject, added);
    return { status: added ? 200 : 204 };
  }

  async verify(receiver: ReceiverConfig, body: unknown): Promise<Reply> {
    const given = record(body);
    const state = text(given?.state, STATE_CHARS_MAX);
    if (given === undefined || (given.state !== undefined && state === undefined))
      return bad("expected a usable state");
    const stream = this.own(receiver, given.stream_id);
    if (stream === undefined) return MISSING;
    if (stream.status === "disabled") return bad("the stream is disabled");
    const now = this.options.surroundings.now();
    const before = this.verifiedAtMs.get(stream.id);
    if (before !== undefined && now - before < receiver.verifyEveryMinMs) return { status: 429 };
    this.verifiedAtMs.set(stream.id, now);
    await this.options.verify(stream, state);
    return { status: 204 };
  }

  /** RFC 8936, section 2. */
  async poll(receiver: ReceiverConfig, id: string, body: unknown): Promise<Reply> {
    const stream = this.own(receiver, id);
    if (stream === undefined || stream.delivery.method !== "poll") return MISSING;
    const asked = readPoll(body);
    if (typeof asked === "string") return bad(asked);
    await this.settle(stream, asked);
    if (asked.maxEvents === 0) return this.tokens(stream.id, 0);
    if (!asked.returnImmediately && !this.hasEvents(stream.id)) await this.wait(stream.id);
    return this.tokens(stream.id, asked.maxEvents);
  }

  private async settle(stream: Stream, { ack, setErrs }: PollAsked): Promise<void> {
    const { outbox, surroundings, onGivenUp } = this.options;
    const held = new Map([...outbox.undelivered(stream.id)].map((event) => [event.jti, event]));
    await outbox.settle(stream.id, [...ack, ...setErrs.keys()]);
    for (const jti of ack) {
      const event = held.get(jti);
      if (event === undefined) continue; // acknowledged before, or never sent: there is nothing to do
      surroundings.telling.count("sent", { receiver: stream.receiver, outcome: "delivered", event: event.kind });
    }
    for (const [jti, err] of setErrs) {
      const event = held.get(jti);
      if (event !== undefined && !ack.includes(jti)) onGivenUp(stream, event, `refused: ${err}`);
    }
  }

  private hasEvents(id: string): boolean {
    const stream = this.options.outbox.stream(id);
    return stream?.status === "enabled" && this.options.outbox.count(id) > 0;
  }

  /** Until there are events, or long enough. Of several polls on a stream the latest waits. */
  private wait(id: string): Promise<void> {
    this.wake(id);
    if (this.closed) return Promise.resolve();
    return new Promise((resolve) => {
      const waiter: Waiter = {
        release: () => {
          clearTimeout(timer);
          if (this.waiters.get(id) === waiter) this.waiters.delete(id);
          resolve();
        },
      };
      const timer = setTimeout(waiter.release, this.options.config.longPollMs);
      timer.unref();
      this.waiters.set(id, waiter);
    });
  }

  private async tokens(id: string, max: number): Promise<Reply> {
    const { outbox, sign } = this.options;
    const stream = outbox.stream(id);
    if (stream === undefined) return MISSING;
    const sets: Record<string, string> = {};
    if (stream.status !== "enabled") return { status: 200, body: { sets } };
    const all = [...outbox.undelivered(id)];
    for (const event of all.slice(0, max)) sets[event.jti] = await sign(event, stream);
    return { status: 200, body: { sets, ...(all.length > max ? { moreAvailable: true } : {}) } };
  }

  private ownStreams(receiver: ReceiverConfig): readonly Stream[] {
    return this.options.outbox.streams().filter((stream) => stream.receiver === receiver.name);
  }

  /** Another receiver's stream is as one that is not there. */
  private own(receiver: ReceiverConfig, id: unknown): Stream | undefined {
    const stream = typeof id === "string" ? this.options.outbox.stream(id) : undefined;
    return stream?.receiver === receiver.name ? stream : undefined;
  }

  private readAsked(
    receiver: ReceiverConfig,
    id: string,
    given: Readonly<Record<string, unknown>>,
    before: Stream | undefined,
  ): Pick<Stream, "delivery" | "eventsRequested" | "description"> | string {
    const delivery =
      given.delivery === undefined && before !== undefined
        ? before.delivery
        : this.readDelivery(receiver, id, given.delivery);
    if (typeof delivery === "string") return delivery;
    let eventsRequested = before?.eventsRequested;
    if (given.events_requested !== undefined) {
      const list = given.events_requested;
      if (!Array.isArray(list) || list.length > EVENTS_REQUESTED_MAX || list.some((one) => text(one) === undefined)) {
        return `expected events_requested as a list of at most ${EVENTS_REQUESTED_MAX} texts`;
      }
      eventsRequested = list as readonly string[];
    }
    const description =
      given.description === undefined ? before?.description : text(given.description, Number.POSITIVE_INFINITY);
    if (given.description !== undefined && description === undefined) return "expected description as a text";
    return { delivery, eventsRequested, description: description?.slice(0, DESCRIPTION_CHARS_MAX) };
  }

  private readDelivery(receiver: ReceiverConfig, id: string, value: unknown): Stream["delivery"] | string {
    if (value === undefined) return { method: "poll" };
    const given = record(value);
    if (given?.method === POLL_METHOD) {
      const url = given.endpoint_url;
      return url === undefined || url === this.pollUrl(id)
        ? { method: "poll" }
        : "expected no endpoint_url of your own";
    }
    if (given?.method !== PUSH_METHOD) return `expected delivery with the method ${PUSH_METHOD} or ${POLL_METHOD}`;
    const url = given.endpoint_url;
    // Whoever may name any URL could have this process call what only it can reach.
    if (!isCallable(url) || !receiver.pushUrls.some((allowed) => beginsWith(url, allowed))) {
      return "expected an endpoint_url that this receiver may have events pushed to";
    }
    const authorization = given.authorization_header;
    if (authorization === undefined) return { method: "push", url, authorization: undefined };
    if (
      typeof authorization !== "string" ||
      authorization.length > HEADER_CHARS_MAX ||
      !/^[\x20-\x7e]+$/.test(authorization)
    ) {
      return `expected authorization_header of 1..${HEADER_CHARS_MAX} printable characters`;
    }
    return { method: "push", url, authorization };
  }

  private describe(receiver: ReceiverConfig, stream: Stream): Readonly<Record<string, unknown>> {
    const { delivery, eventsRequested } = stream;
    return {
      stream_id: stream.id,
      iss: this.options.config.issuer,
      aud: receiver.audience.length === 1 ? receiver.audience[0] : receiver.audience,
      delivery:
        delivery.method === "poll"
          ? { method: POLL_METHOD, endpoint_url: this.pollUrl(stream.id) }
          : {
              method: PUSH_METHOD,
              endpoint_url: delivery.url,
              ...(delivery.authorization === undefined ? {} : { authorization_header: delivery.authorization }),
            },
      events_supported: EVENTS_SUPPORTED,
      ...(eventsRequested === undefined ? {} : { events_requested: eventsRequested }),
      events_delivered: EVENTS_SUPPORTED.filter((one) => eventsRequested?.includes(one) ?? true),
      min_verification_interval: Math.ceil(receiver.verifyEveryMinMs / 1_000),
      ...(stream.description === undefined ? {} : { description: stream.description }),
    };
  }

  private pollUrl(id: string): string {
    return `${this.options.base}/ssf/poll/${id}`;
  }
}

/** Whether a stream is to have events of a type. The stream's own events are always sent. */
export function delivers(stream: Stream, type: string): boolean {
  if (stream.status === "disabled") return false;
  return type === VERIFICATION || (stream.eventsRequested?.includes(type) ?? true);
}

const TRANSMITTER_SUPPLIED = ["iss", "aud", "events_supported", "events_delivered", "min_verification_interval"];

const MISSING: Reply = { status: 404 };

interface PollAsked {
  readonly maxEvents: number;
  readonly returnImmediately: boolean;
  readonly ack: readonly string[];
  readonly setErrs: ReadonlyMap<string, string>;
}

function readPoll(body: unknown): PollAsked | string {
  const given = record(body);
  if (given === undefined) return "expected a JSON object";
  const { maxEvents = POLL_EVENTS_MAX, returnImmediately = false, ack = [] } = given;
  if (!Number.isInteger(maxEvents) || (maxEvents as number) < 0) return "expected maxEvents as a whole number";
  if (typeof returnImmediately !== "boolean") return "expected returnImmediately as true or false";
  if (!Array.isArray(ack) || ack.length > ACKS_MAX || ack.some((one) => typeof one !== "string")) {
    return `expected ack as a list of at most ${ACKS_MAX} texts`;
  }
  const setErrs = record(given.setErrs ?? {});
  if (setErrs === undefined) return "expected setErrs as an object";
  const faults = new Map<string, string>();
  for (const [jti, fault] of Object.entries(setErrs).slice(0, ACKS_MAX)) {
    faults.set(jti, text(record(fault)?.err, 64) ?? "no reason");
  }
  return {
    maxEvents: Math.min(POLL_EVENTS_MAX, maxEvents as number),
    returnImmediately,
    ack: ack as readonly string[],
    setErrs: faults,
  };
}

function beginsWith(url: string, allowed: string): boolean {
  const [one, other] = [new URL(url), new URL(allowed)];
  return one.origin === other.origin && one.href.startsWith(other.href);
}

function sameJson(left: unknown, right: unknown): boolean {
  if (!Array.isArray(left) || !Array.isArray(right)) return left === right;
  return left.length === right.length && left.every((one) => right.includes(one));
}

function statusOf({ id, status, reason }: Stream): Readonly<Record<string, string>> {
  return { stream_id: id, status, ...(reason === undefined ? {} : { reason }) };
}

function bad(description: string): Reply {
  return { status: 400, body: { err: "invalid_request", description } };
}
