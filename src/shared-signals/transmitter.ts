/** Tells others of risen risk and ended sessions: keeps streams and events, signs, and delivers until they are taken. */

import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { resolve } from "node:path";
import { OperatingError } from "../model/errors.ts";
import type { Principal } from "../model/identity.ts";
import { MINUTE_MS } from "../model/units.ts";
import { Bucket } from "./backoff.ts";
import type { ReceiverConfig, TransmitConfig } from "./config.ts";
import { RISK_LEVEL_CHANGE, type Risk, SESSION_REVOKED, VERIFICATION } from "./events.ts";
import { answer, holdsBearer, parseJson, readBody, urlOf } from "./http.ts";
import { Outbox, type Stream, type Undelivered } from "./outbox.ts";
import { Pusher } from "./pusher.ts";
import { readSigningKey, type SigningKey, signSet } from "./signing-keys.ts";
import { delivers, type Reply, StreamApi } from "./stream-api.ts";
import { configurationUrl, POLL_METHOD, PUSH_METHOD } from "./stream-client.ts";
import { subjectOf } from "./subjects.ts";
import { type Surroundings, tellError } from "./surroundings.ts";

const BODY_BYTES_MAX = 256 * 1024;
const JTI_BYTES = 16;
/** Calls of one receiver. */
const CALLS_PER_SECOND = 20;
const CALLS_BURST = 100;
/** How often key files are read again, and events are looked at for their age. */
const HOUSEKEEPING_MS = MINUTE_MS;
const REASON_CHARS_MAX = 256;

/** What others are told of a principal. */
export type EmittedEvent =
  | {
      readonly kind: "risk-level-change";
      readonly principal: Principal;
      readonly level: Risk;
      /** `undefined`: not known. */
      readonly previousLevel: Risk | undefined;
      /** Why, for their operators; `undefined`: nothing is said. */
      readonly reason: string | undefined;
      readonly happenedAtMs: number;
      /** The same for all events of one cause; `undefined`: this event is its own. */
      readonly txn?: string;
    }
  | {
      readonly kind: "session-revoked";
      readonly principal: Principal;
      readonly initiatedBy: "admin" | "policy" | "system";
      readonly reason: string;
      readonly happenedAtMs: number;
      readonly txn?: string;
    };

/** What became of an event. */
export interface Emitted {
  /** Streams that will have it. */
  readonly queued: number;
  /** Receivers whose stream is so full of revoked sessions that it could not be kept for them. Logged as errors. */
  readonly refused: readonly string[];
}

export interface TransmitterOptions {
  readonly config: TransmitConfig;
  /** Files that the configuration names are relative to this folder. */
  readonly configFolder: string;
  readonly surroundings: Surroundings;
}

/** How one stream stands. */
export interface StreamState {
  readonly id: string;
  readonly receiver: string;
  readonly method: "push" | "poll";
  readonly status: Stream["status"];
  readonly undelivered: number;
  /** When the oldest undelivered event was made; `undefined`: there is none. */
  readonly oldestAtMs: number | undefined;
  /** Failed pushes in a row. */
  readonly failures: number;
}

export interface SharedSignalsTransmitter {
  /** Answers requests that are its own; false for all others, which are left alone. */
  handle(request: IncomingMessage, response: ServerResponse): boolean;
  /** @throws {OperatingError} ERR_CONFIG_INVALID, ERR_KEY_INVALID, ERR_STATE_UNWRITABLE */
  start(): Promise<void>;
  /**
   * Tells everybody who wants to hear of it. Once this resolves, a restart does not lose the event.
   * Principals that others cannot know (API keys, anonymous) are told to nobody.
   * @throws {OperatingError} ERR_STATE_UNWRITABLE; nobody is told then
   */
  emit(event: EmittedEvent): Promise<Emitted>;
  status(): readonly StreamState[];
  /** Lets what is under way end; what is undelivered stays for the next start. */
  close(): Promise<void>;
}

export function createTransmitter(options: TransmitterOptions): SharedSignalsTransmitter {
  return new Transmitter(options);
}

class Transmitter implements SharedSignalsTransmitter {
  private readonly options: TransmitterOptions;
  private readonly base: string;
  private readonly prefix: string;
  private readonly outbox: Outbox;
  private readonly api: StreamApi;
  private readonly receivers: ReadonlyMap<string, ReceiverConfig>;
  private readonly buckets = new Map<string, Bucket>();
  private readonly pushers = new Map<string, Pusher>();
  private readonly underway = new Set<Promise<void>>();
  private keys: readonly SigningKey[] = [];
  private keyTexts: readonly string[] = [];
  private timer: NodeJS.Timeout | undefined;
  private closed = false;

  constructor(options: TransmitterOptions) {
    this.options = options;
    const { config, surroundings } = options;
    this.base = config.issuer.replace(/\/$/, "");
    this.prefix = new URL(this.base).pathname.replace(/\/$/, "");
    this.receivers = new Map(config.receivers.map((receiver) => [receiver.name, receiver]));
    this.outbox = new Outbox({
      folder: surroundings.folder,
      eventsMax: config.eventsMax,
      onDamage: (path, records) =>
        surroundings.telling.log(
          "error",
          "shared_signals.state_damaged",
          { path, records },
          "some streams or undelivered events are lost",
        ),
    });
    this.api = new StreamApi({
      config,
      base: this.base,
      outbox: this.outbox,
      surroundings,
      sign: (event, stream) => this.sign(event, stream),
      verify: (stream, state) => this.queueVerification(stream, state),
      onChange: (id) => this.watch(id),
      onGivenUp: (stream, event, why) => this.giveUp(stream, event, why),
    });
  }

  async start(): Promise<void> {
    this.keys = await this.readKeys();
    await this.outbox.open();
    for (const { id, receiver } of this.outbox.streams()) {
      if (this.receivers.has(receiver)) this.watch(id);
      else await this.dropStream(id, "its receiver is not configured any more");
    }
    await this.expire();
    this.timer = setInterval(() => void this.keepHouse(), HOUSEKEEPING_MS);
    this.timer.unref();
  }

  async close(): Promise<void> {
    this.closed = true;
    clearInterval(this.timer);
    this.api.close();
    await Promise.all([...this.pushers.values()].map((pusher) => pusher.close()));
    await Promise.allSettled(this.underway);
    await this.outbox.close();
  }

  async emit(event: EmittedEvent): Promise<Emitted> {
    const { surroundings } = this.options;
    const subject = subjectOf(event.principal);
    if (subject === undefined) return { queued: 0, refused: [] };
    const type = event.kind === "session-revoked" ? SESSION_REVOKED : RISK_LEVEL_CHANGE;
    const txn = event.txn ?? this.randomId();
    const streams = this.outbox.streams().filter((stream) => {
      const receiver = this.receivers.get(stream.receiver);
      if (receiver === undefined || !delivers(stream, type)) return false;
      const may = receiver.principals?.some((pattern) => pattern.test(event.principal.name)) ?? true;
      return may && this.outbox.wants(stream.id, subject);
    });
    const issuedAtMs = surroundings.now();
    return this.queue(
      streams.map((stream) => ({
        stream: stream.id,
        jti: this.randomId(),
        kind: event.kind,
        issuedAtMs,
        txn,
        subject,
        type,
        payload: payloadOf(event),
      })),
    );
  }

  status(): readonly StreamState[] {
    return this.outbox.streams().map((stream) => ({
      id: stream.id,
      receiver: stream.receiver,
      method: stream.delivery.method,
      status: stream.status,
      undelivered: this.outbox.count(stream.id),
      oldestAtMs: this.outbox.undelivered(stream.id).next().value?.issuedAtMs,
      failures: this.pushers.get(stream.id)?.failures ?? 0,
    }));
  }

  handle(request: IncomingMessage, response: ServerResponse): boolean {
    const url = urlOf(request);
    if (url === undefined) return false;
    const route = this.route(url.pathname);
    if (route === undefined) return false;
    const work = this.serve(route, url, request, response).catch((error) => {
      // Fails closed: nothing was changed that was not kept.
      tellError(this.options.surroundings.telling, "shared_signals.call_failed", error, { route });
      const known = error instanceof OperatingError && error.code === "ERR_API";
      answer(response, known ? 400 : 500, known ? { err: "invalid_request", description: "too much" } : undefined);
    });
    this.underway.add(work);
    void work.finally(() => this.underway.delete(work));
    return true;
  }

  private route(path: string): string | undefined {
    if (path === new URL(configurationUrl(this.options.config.issuer)).pathname) return "configuration";
    if (!path.startsWith(`${this.prefix}/ssf/`)) return undefined;
    const rest = path.slice(`${this.prefix}/ssf/`.length);
    if (rest.startsWith("poll/")) return rest;
    return ROUTES.has(rest) ? rest : undefined;
  }

  private async serve(route: string, url: URL, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const method = request.method ?? "";
    if (route === "configuration" || route === "jwks.json") {
      if (method !== "GET") return answer(response, 405, undefined, { allow: "GET" });
      const body = route === "configuration" ? this.configuration() : { keys: this.keys.map(({ jwk }) => jwk) };
      return answer(response, 200, body, { "cache-control": "max-age=300" });
    }
    const receiver = this.options.config.receivers.find(({ tokenHashes }) => holdsBearer(request, tokenHashes));
    if (receiver === undefined) return answer(response, 401, undefined, { "www-authenticate": "Bearer" });
    if (!this.bucketOf(receiver).take(this.options.surroundings.now())) {
      return answer(response, 429, undefined, { "retry-after": "1" });
    }
    const name = route.startsWith("poll/") ? "poll" : route;
    const allowed = ROUTES.get(name) ?? [];
    if (!allowed.includes(method)) return answer(response, 405, undefined, { allow: allowed.join(", ") });
    let body: unknown;
    if (method !== "GET" && method !== "DELETE") {
      const read = await readBody(request, BODY_BYTES_MAX);
      if (!read.ok) return answer(response, read.status, { err: "invalid_request", description: read.why });
      body = read.text.trim() === "" ? {} : parseJson(read.text);
      if (body === undefined) return answer(response, 400, { err: "invalid_request", description: "expected JSON" });
    }
    const id = name === "poll" ? route.slice("poll/".length) : url.searchParams.get("stream_id");
    const reply = await this.reply(name, method, receiver, id, body);
    answer(response, reply.status, reply.body);
  }

  private async reply(
    name: string,
    method: string,
    receiver: ReceiverConfig,
    id: string | null,
    body: unknown,
  ): Promise<Reply> {
    switch (name) {
      case "stream":
        if (method === "POST") return this.api.create(receiver, body);
        if (method === "GET") return this.api.read(receiver, id);
        if (method === "DELETE") return this.api.delete(receiver, id);
        return this.api.change(receiver, body, method === "PUT");
      case "status":
        return method === "GET" ? this.api.status(receiver, id) : this.api.setStatus(receiver, body);
      case "subjects:add":
      case "subjects:remove":
        return this.api.setSubject(receiver, body, name === "subjects:add");
      case "verify":
        return this.api.verify(receiver, body);
      default:
        return this.api.poll(receiver, id ?? "", body);
    }
  }

  /** SSF 1.0, section 7.1. */
  private configuration(): Readonly<Record<string, unknown>> {
    const at = (name: string): string => `${this.base}/ssf/${name}`;
    const defaults = new Set(this.options.config.receivers.map(({ defaultSubjects }) => defaultSubjects));
    return {
      spec_version: "1_0",
      issuer: this.options.config.issuer,
      jwks_uri: at("jwks.json"),
      delivery_methods_supported: [PUSH_METHOD, POLL_METHOD],
      configuration_endpoint: at("stream"),
      status_endpoint: at("status"),
      add_subject_endpoint: at("subjects:add"),
      remove_subject_endpoint: at("subjects:remove"),
      verification_endpoint: at("verify"),
      authorization_schemes: [{ spec_urn: "urn:ietf:rfc:6750" }],
      // Receivers may differ in this; then nothing is said.
      ...(defaults.size === 1 ? { default_subjects: [...defaults][0] } : {}),
    };
  }

  private queueVerification(stream: Stream, state: string | undefined): Promise<void> {
    const event: Undelivered = {
      stream: stream.id,
      jti: this.randomId(),
      kind: "verification",
      issuedAtMs: this.options.surroundings.now(),
      txn: this.randomId(),
      subject: { format: "opaque", id: stream.id },
      type: VERIFICATION,
      payload: state === undefined ? {} : { state },
    };
    return this.queue([event]).then(() => undefined);
  }

  private async queue(events: readonly Undelivered[]): Promise<Emitted> {
    const { telling } = this.options.surroundings;
    const placed = await this.outbox.add(events);
    const refused: string[] = [];
    for (const { stream, outcome, instead } of placed) {
      const kind = events.find((event) => event.stream === stream.id)!.kind;
      telling.count("sent", { receiver: stream.receiver, outcome, event: kind });
      for (const { event: gone, why } of instead) {
        telling.count("sent", { receiver: stream.receiver, outcome: why, event: gone.kind });
        telling.log(
          "warn",
          "shared_signals.overflow",
          { receiver: stream.receiver, event: gone.kind, jti: gone.jti, why },
          "the stream is full: an undelivered event had to go",
        );
      }
      if (outcome === "refused_full") {
        refused.push(stream.receiver);
        telling.log(
          "error",
          "shared_signals.overflow",
          { receiver: stream.receiver, event: kind },
          "the stream is full of revoked sessions: this receiver will not hear of a further event",
        );
      }
      this.pushers.get(stream.id)?.wake();
      this.api.wake(stream.id);
    }
    return { queued: placed.length - refused.length, refused };
  }

  private sign(event: Undelivered, stream: Stream): Promise<string> {
    const audience = this.receivers.get(stream.receiver)?.audience ?? [];
    return signSet(
      {
        iss: this.options.config.issuer,
        jti: event.jti,
        iat: Math.floor(event.issuedAtMs / 1_000),
        aud: audience.length === 1 ? audience[0] : audience,
        txn: event.txn,
        sub_id: event.subject,
        events: { [event.type]: event.payload },
      },
      this.keys[0]!,
    );
  }

  /** A stream is new, changed or gone: it has a pusher when it is to be pushed. */
  private watch(id: string): void {
    const wanted = !this.closed && this.outbox.stream(id)?.delivery.method === "push";
    const pusher = this.pushers.get(id);
    if (pusher !== undefined && wanted) pusher.wake();
    if (pusher !== undefined && !wanted) {
      this.pushers.delete(id);
      void pusher.close();
    }
    if (pusher !== undefined || !wanted) return;
    const fresh = new Pusher({
      stream: id,
      config: this.options.config,
      outbox: this.outbox,
      surroundings: this.options.surroundings,
      sign: (event, stream) => this.sign(event, stream),
      onGivenUp: (stream, event, why) => this.giveUp(stream, event, why),
    });
    this.pushers.set(id, fresh);
    fresh.start();
  }

  private async keepHouse(): Promise<void> {
    try {
      this.keys = await this.readKeys();
    } catch (error) {
      // Keeps the last good keys.
      tellError(this.options.surroundings.telling, "shared_signals.keys_failed", error, {});
    }
    try {
      await this.expire();
    } catch (error) {
      // Keeps the events: they are looked at again.
      tellError(this.options.surroundings.telling, "shared_signals.expiry_failed", error, {});
    }
  }

  /** Gives up what nobody fetched in time. */
  private async expire(): Promise<void> {
    const { config, surroundings } = this.options;
    const horizon = surroundings.now() - config.keepMs;
    for (const stream of this.outbox.streams()) {
      const old = [...this.outbox.undelivered(stream.id)].filter(({ issuedAtMs }) => issuedAtMs < horizon);
      await this.outbox.settle(
        stream.id,
        old.map(({ jti }) => jti),
      );
      for (const event of old) this.giveUp(stream, event, "not delivered in time");
    }
  }

  private async dropStream(id: string, why: string): Promise<void> {
    const stream = this.outbox.stream(id);
    if (stream === undefined) return;
    for (const event of [...this.outbox.undelivered(id)]) this.giveUp(stream, event, why);
    await this.outbox.remove(id);
  }

  /** Never silently: whoever operates this may want to tell the receiver by other means. */
  private giveUp(stream: Stream, event: Undelivered, why: string): void {
    const { telling } = this.options.surroundings;
    telling.count("sent", { receiver: stream.receiver, outcome: "given_up", event: event.kind });
    telling.log(
      "error",
      "shared_signals.undelivered",
      { receiver: stream.receiver, event: event.kind, jti: event.jti, txn: event.txn },
      why,
    );
  }

  private async readKeys(): Promise<readonly SigningKey[]> {
    const { config, configFolder } = this.options;
    const texts = config.keyFiles.map((file) => {
      try {
        return readFileSync(resolve(configFolder, file), "utf8");
      } catch (cause) {
        const why = (cause as NodeJS.ErrnoException).code ?? "unreadable";
        throw new OperatingError("ERR_CONFIG_INVALID", `transmit.keys: file ${file}: ${why}`, { cause });
      }
    });
    if (texts.length === this.keyTexts.length && texts.every((text, index) => text === this.keyTexts[index])) {
      return this.keys;
    }
    const keys = await Promise.all(texts.map((text, index) => readSigningKey(text, config.keyFiles[index]!)));
    this.keyTexts = texts;
    return keys;
  }

  private bucketOf(receiver: ReceiverConfig): Bucket {
    let bucket = this.buckets.get(receiver.name);
    if (bucket === undefined) {
      bucket = new Bucket(CALLS_PER_SECOND, CALLS_BURST);
      this.buckets.set(receiver.name, bucket);
    }
    return bucket;
  }

  private randomId(): string {
    return Buffer.from(this.options.surroundings.randomBytes(JTI_BYTES)).toString("hex");
  }
}

/** Endpoints and their methods; `configuration` and `jwks.json` need no authorization. */
const ROUTES: ReadonlyMap<string, readonly string[]> = new Map([
  ["jwks.json", ["GET"]],
  ["stream", ["GET", "POST", "PATCH", "PUT", "DELETE"]],
  ["status", ["GET", "POST"]],
  ["subjects:add", ["POST"]],
  ["subjects:remove", ["POST"]],
  ["verify", ["POST"]],
  ["poll", ["POST"]],
]);

function payloadOf(event: EmittedEvent): Readonly<Record<string, unknown>> {
  const event_timestamp = Math.floor(event.happenedAtMs / 1_000);
  const reason = event.reason?.slice(0, REASON_CHARS_MAX);
  if (event.kind === "session-revoked") {
    // CAEP's interoperability profile, section 3.1, wants a reason in any case.
    const reason_admin = { en: reason === undefined || reason === "" ? "session ended" : reason };
    return { event_timestamp, initiating_entity: event.initiatedBy, reason_admin };
  }
  return {
    event_timestamp,
    // CAEP counts workloads among its users: "human or robotic".
    principal: "USER",
    current_level: event.level,
    ...(event.previousLevel === undefined ? {} : { previous_level: event.previousLevel }),
    ...(reason === undefined ? {} : { risk_reason: reason, reason_admin: { en: reason } }),
  };
}
