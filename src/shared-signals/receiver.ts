/** Hears transmitters: takes what they push and polls the others, and hands over what is to be done. */

import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { resolve } from "node:path";
import { checkForm } from "../bundle/forms.ts";
import { Form } from "../gen/sallyport/policy/v1/options_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { Bucket } from "./backoff.ts";
import type { SourceConfig } from "./config.ts";
import type { StreamStatus } from "./events.ts";
import { answer, answerFault, contentType, holdsBearer, readBody, urlOf } from "./http.ts";
import { type Apply, Intake } from "./intake.ts";
import { Poller } from "./poller.ts";
import { type KeyPlace, SourceKeys } from "./source-keys.ts";
import { StreamClient } from "./stream-client.ts";
import { StreamKeeper } from "./stream-keeper.ts";
import { type Surroundings, tellError } from "./surroundings.ts";
import { SET_CHARS_MAX } from "./verify.ts";

/** Where transmitters push to; the name of the transmitter follows. */
export const RECEIVE_PATH = "/ssf/receive/";
/** Seconds of full rate that may come at once. */
const BURST_SECONDS = 10;
const RETRY_AFTER = { "retry-after": "5" };
const FILE_BYTES_MAX = 1024 * 1024;

export interface ReceiverOptions {
  readonly sources: readonly SourceConfig[];
  /** Files that the configuration names are relative to this folder. */
  readonly configFolder: string;
  /**
   * Carries out what the events of one token ask for; the token is acknowledged once this has resolved, and comes again
   * when it rejects. It may be asked for the same action more than once.
   */
  readonly apply: Apply;
  /** The key of credential hashes, where every sidecar has the same; without it no single token can be locked. */
  readonly credentialKey?: Uint8Array;
  readonly surroundings: Surroundings;
}

/** How one transmitter stands. */
export interface SourceStatus {
  readonly name: string;
  readonly issuer: string;
  readonly streamId: string | undefined;
  /** What the transmitter last said of it; `undefined`: nothing yet. */
  readonly streamStatus: StreamStatus | undefined;
  /** When the last token was acknowledged; `undefined`: none since the start. */
  readonly lastTakenAtMs: number | undefined;
  readonly lastVerifiedAtMs: number | undefined;
}

export interface SharedSignalsReceiver {
  /** Answers requests that are its own; false for all others, which are left alone. */
  handle(request: IncomingMessage, response: ServerResponse): boolean;
  /** @throws {OperatingError} ERR_CONFIG_INVALID, ERR_STATE_UNWRITABLE */
  start(): Promise<void>;
  status(): readonly SourceStatus[];
  close(): Promise<void>;
}

export function createReceiver(options: ReceiverOptions): SharedSignalsReceiver {
  return new Receiver(options);
}

interface Ear {
  readonly source: SourceConfig;
  readonly intake: Intake;
  readonly keys: SourceKeys;
  readonly bucket: Bucket;
  readonly poller: Poller | undefined;
  readonly keeper: StreamKeeper | undefined;
}

class Receiver implements SharedSignalsReceiver {
  private readonly options: ReceiverOptions;
  private readonly closing = new AbortController();
  private readonly ears = new Map<string, Ear>();
  private readonly underway = new Set<Promise<void>>();

  constructor(options: ReceiverOptions) {
    this.options = options;
  }

  async start(): Promise<void> {
    // Files first: a configuration that cannot work starts nothing.
    for (const source of this.options.sources) this.ears.set(source.name, this.earFor(source));
    for (const { intake, keys, poller, keeper } of this.ears.values()) {
      await intake.open();
      keys.start();
      await keeper?.start();
      poller?.start();
    }
  }

  handle(request: IncomingMessage, response: ServerResponse): boolean {
    const path = urlOf(request)?.pathname;
    if (path === undefined || !path.startsWith(RECEIVE_PATH)) return false;
    const work = this.receive(this.ears.get(path.slice(RECEIVE_PATH.length)), request, response).catch((error) => {
      // Fails to a retry: nothing was acknowledged.
      tellError(this.options.surroundings.telling, "shared_signals.push_failed", error, {});
      answer(response, 500);
    });
    this.underway.add(work);
    void work.finally(() => this.underway.delete(work));
    return true;
  }

  status(): readonly SourceStatus[] {
    return [...this.ears.values()].map(({ source, intake }) => ({
      name: source.name,
      issuer: source.issuer,
      streamId: intake.streamId,
      streamStatus: intake.streamStatus,
      lastTakenAtMs: intake.lastTakenAtMs,
      lastVerifiedAtMs: intake.lastVerifiedAtMs,
    }));
  }

  async close(): Promise<void> {
    this.closing.abort();
    const ears = [...this.ears.values()];
    await Promise.all(ears.map(({ poller }) => poller?.close()));
    await Promise.all(ears.map(({ keeper }) => keeper?.close()));
    await Promise.allSettled(this.underway);
    for (const { keys, intake } of ears) {
      keys.close();
      await intake.close();
    }
    this.ears.clear();
  }

  /** RFC 8935, section 2. */
  private async receive(ear: Ear | undefined, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const push = ear?.source.push;
    if (ear === undefined || push === undefined) return answer(response, 404);
    if (request.method !== "POST") return answer(response, 405, undefined, { allow: "POST" });
    if (!holdsBearer(request, push.tokenHashes)) {
      const description = "expected the bearer token of this transmitter";
      return answerFault(
        response,
        401,
        { err: "authentication_failed", description },
        { "www-authenticate": "Bearer" },
      );
    }
    if (!ear.bucket.take(this.options.surroundings.now())) {
      return answerFault(response, 429, { err: "access_denied", description: "too many requests" }, RETRY_AFTER);
    }
    if (contentType(request) !== "application/secevent+jwt") {
      const description = "expected the content type application/secevent+jwt";
      return answerFault(response, 415, { err: "invalid_request", description });
    }
    const body = await readBody(request, SET_CHARS_MAX);
    if (!body.ok) return answerFault(response, body.status, { err: "invalid_request", description: body.why });
    const taken = await ear.intake.take(body.text.trim());
    switch (taken.kind) {
      case "acknowledged":
        return answer(response, 202);
      case "refused":
        return answerFault(response, 400, taken.fault);
      case "not_now":
        return answer(response, 503, undefined, RETRY_AFTER);
    }
  }

  private earFor(source: SourceConfig): Ear {
    const { surroundings, credentialKey, apply } = this.options;
    const { manage } = source;
    const client = new StreamClient({
      issuer: source.issuer,
      fetch: surroundings.fetch,
      now: surroundings.now,
      token: () => (manage === undefined ? undefined : this.secret(source, manage.tokenFile)),
      signal: this.closing.signal,
    });
    const keys = new SourceKeys({
      place: this.keyPlace(source, client),
      fetch: surroundings.fetch,
      now: surroundings.now,
      onError: (error) =>
        tellError(surroundings.telling, "shared_signals.keys_failed", error, { transmitter: source.name }),
    });
    const intake = new Intake({
      source,
      surroundings,
      keys,
      credentialKey,
      criticalMembers: () => client.metadata?.criticalSubjectMembers ?? [],
      apply,
    });
    const tokenFile = source.poll?.tokenFile ?? manage?.tokenFile;
    const poller =
      source.poll === undefined
        ? undefined
        : new Poller({
            transmitter: source.name,
            config: source.poll,
            intake,
            surroundings,
            token: () => (tokenFile === undefined ? undefined : this.secret(source, tokenFile)),
          });
    const pushTokenFile = manage?.push?.tokenFile;
    const keeper =
      manage === undefined
        ? undefined
        : new StreamKeeper({
            source,
            client,
            intake,
            surroundings,
            pushToken: () => (pushTokenFile === undefined ? undefined : this.secret(source, pushTokenFile)),
            onPollEndpoint: (url) => poller?.setEndpoint(url),
            signal: this.closing.signal,
          });
    for (const file of [tokenFile, pushTokenFile]) if (file !== undefined) this.secret(source, file);
    const rate = source.push?.ratePerSecond ?? 1;
    return { source, intake, keys, bucket: new Bucket(rate, rate * BURST_SECONDS), poller, keeper };
  }

  private keyPlace(source: SourceConfig, client: StreamClient): KeyPlace {
    const { keys } = source;
    if (keys === undefined) return { kind: "discovered", find: () => client.jwksUri() };
    if (keys.kind !== "file") return keys;
    const jwks = this.file(source, keys.file);
    const fault = checkForm(Form.JWKS, jwks);
    if (fault !== undefined) {
      throw new OperatingError("ERR_CONFIG_INVALID", `${keys.file}: expected ${fault.expected}, got ${fault.got}`);
    }
    return { kind: "inline", jwks };
  }

  /** Read anew each time, so that a token can be replaced without a restart. */
  private secret(source: SourceConfig, file: string): string {
    const token = this.file(source, file).trim();
    if (/^[\x21-\x7e]{1,4096}$/.test(token)) return token;
    throw new OperatingError("ERR_CONFIG_INVALID", `${file}: expected a token of 1..4096 printable characters`);
  }

  private file(source: SourceConfig, file: string): string {
    try {
      const bytes = readFileSync(resolve(this.options.configFolder, file));
      if (bytes.length > FILE_BYTES_MAX) throw new Error(`expected at most ${FILE_BYTES_MAX} bytes`);
      return bytes.toString("utf8");
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new OperatingError("ERR_CONFIG_INVALID", `transmitter ${source.name}: file ${file}: ${why}`, { cause });
    }
  }
}
