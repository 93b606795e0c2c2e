/** Speaks to a transmitter: its configuration document and its stream management (SSF 1.0, sections 7 and 8). */

import { OperatingError } from "../model/errors.ts";
import { HOUR_MS } from "../model/units.ts";
import type { StreamStatus } from "./events.ts";
import { type Answer, type Call, call, isCallable, parseJson, whyFailed } from "./http.ts";
import { record, text } from "./subjects.ts";

export const PUSH_METHOD = "urn:ietf:rfc:8935";
export const POLL_METHOD = "urn:ietf:rfc:8936";

const TIMEOUT_MS = 10_000;
const BYTES_MAX = 1024 * 1024;
/** How long a configuration document is believed. */
const DISCOVERED_MS = HOUR_MS;

/** What a transmitter says of itself. */
export interface TransmitterMetadata {
  readonly issuer: string;
  readonly jwksUri: string | undefined;
  readonly configurationEndpoint: string | undefined;
  readonly statusEndpoint: string | undefined;
  readonly addSubjectEndpoint: string | undefined;
  readonly removeSubjectEndpoint: string | undefined;
  readonly verificationEndpoint: string | undefined;
  readonly criticalSubjectMembers: readonly string[];
}

/** A stream as its transmitter describes it. */
export interface StreamDescription {
  readonly streamId: string;
  readonly audiences: readonly string[];
  readonly method: string;
  readonly endpointUrl: string | undefined;
  readonly eventsRequested: readonly string[];
  readonly eventsDelivered: readonly string[];
}

/** What a receiver asks of a stream. */
export interface StreamWanted {
  readonly delivery:
    | { readonly method: typeof PUSH_METHOD; readonly endpoint_url: string; readonly authorization_header: string }
    | { readonly method: typeof POLL_METHOD };
  readonly events_requested: readonly string[];
  readonly description?: string;
}

/** The path of the document: the well-known part goes between host and path (SSF 1.0, section 7.2). */
export function configurationUrl(issuer: string): string {
  const url = new URL(issuer);
  const path = url.pathname.replace(/\/$/, "");
  return `${url.origin}/.well-known/ssf-configuration${path}`;
}

export interface StreamClientOptions {
  readonly issuer: string;
  readonly fetch: typeof fetch;
  readonly now: () => number;
  /** The bearer token to show, read anew for every call; `undefined`: none. */
  readonly token: () => string | undefined;
  readonly signal: AbortSignal;
}

export class StreamClient {
  private readonly options: StreamClientOptions;
  private found: { readonly metadata: TransmitterMetadata; readonly atMs: number } | undefined;

  constructor(options: StreamClientOptions) {
    this.options = options;
  }

  /** What was last found; `undefined` before. */
  get metadata(): TransmitterMetadata | undefined {
    return this.found?.metadata;
  }

  /** @throws {OperatingError} ERR_CONTROL when the document is not there or not the issuer's own */
  async discover(): Promise<TransmitterMetadata> {
    const { issuer, now } = this.options;
    if (this.found !== undefined && now() - this.found.atMs < DISCOVERED_MS) return this.found.metadata;
    const answer = await this.call(configurationUrl(issuer), { method: "GET" }, false);
    if (answer.status !== 200) throw refused("configuration document", answer);
    const document = record(parseJson(answer.text)) ?? {};
    if (document.issuer !== issuer) {
      // SSF 1.0, section 7.2.4: what fails this must not be used.
      throw new OperatingError("ERR_CONTROL", `transmitter ${issuer}: its configuration document is another issuer's`);
    }
    const members = document.critical_subject_members;
    const metadata: TransmitterMetadata = {
      issuer,
      jwksUri: urlOf(document.jwks_uri),
      configurationEndpoint: urlOf(document.configuration_endpoint),
      statusEndpoint: urlOf(document.status_endpoint),
      addSubjectEndpoint: urlOf(document.add_subject_endpoint),
      removeSubjectEndpoint: urlOf(document.remove_subject_endpoint),
      verificationEndpoint: urlOf(document.verification_endpoint),
      criticalSubjectMembers: textsOf(members).slice(0, 100),
    };
    this.found = { metadata, atMs: now() };
    return metadata;
  }

  /** @throws {OperatingError} ERR_CONTROL */
  async jwksUri(): Promise<string> {
    const { jwksUri } = await this.discover();
    if (jwksUri === undefined) throw this.lacks("jwks_uri");
    return jwksUri;
  }

  /**
   * Makes a stream.
   * @returns `undefined` when the transmitter allows no further one (409)
   * @throws {OperatingError} ERR_CONTROL
   */
  async create(wanted: StreamWanted): Promise<StreamDescription | undefined> {
    const url = await this.endpoint("configurationEndpoint");
    const answer = await this.call(url, { method: "POST", ...json(wanted) });
    if (answer.status === 409) return undefined;
    if (answer.status !== 201 && answer.status !== 200) throw refused("a new stream", answer);
    return this.describe(parseJson(answer.text));
  }

  /** @returns `undefined` when there is no such stream */
  async read(streamId: string): Promise<StreamDescription | undefined> {
    const url = withStream(await this.endpoint("configurationEndpoint"), streamId);
    const answer = await this.call(url, { method: "GET" });
    if (answer.status === 404) return undefined;
    if (answer.status !== 200) throw refused("the stream", answer);
    return this.describe(parseJson(answer.text));
  }

  async list(): Promise<readonly StreamDescription[]> {
    const answer = await this.call(await this.endpoint("configurationEndpoint"), { method: "GET" });
    if (answer.status === 404) return [];
    if (answer.status !== 200) throw refused("the streams", answer);
    const found = parseJson(answer.text);
    return (Array.isArray(found) ? found : [found]).map((one) => this.describe(one));
  }

  /** Changes what is given, and nothing else. */
  async update(streamId: string, changes: Partial<StreamWanted>): Promise<StreamDescription> {
    return this.change("PATCH", streamId, changes);
  }

  /** Replaces all that a receiver may say. */
  async replace(streamId: string, wanted: StreamWanted): Promise<StreamDescription> {
    return this.change("PUT", streamId, wanted);
  }

  /** @returns false when there was no such stream */
  async delete(streamId: string): Promise<boolean> {
    const url = withStream(await this.endpoint("configurationEndpoint"), streamId);
    const answer = await this.call(url, { method: "DELETE" });
    if (answer.status === 404) return false;
    if (answer.status !== 204 && answer.status !== 200) throw refused("the stream's end", answer);
    return true;
  }

  async status(streamId: string): Promise<StreamStatus> {
    const answer = await this.call(withStream(await this.endpoint("statusEndpoint"), streamId), { method: "GET" });
    if (answer.status !== 200) throw refused("the stream's status", answer);
    const status = record(parseJson(answer.text))?.status;
    if (status !== "enabled" && status !== "paused" && status !== "disabled") throw refused("a known status", answer);
    return status;
  }

  async setStatus(streamId: string, status: StreamStatus, reason?: string): Promise<void> {
    const body = { stream_id: streamId, status, ...(reason === undefined ? {} : { reason }) };
    const answer = await this.call(await this.endpoint("statusEndpoint"), { method: "POST", ...json(body) });
    if (answer.status !== 200 && answer.status !== 202) throw refused("another status", answer);
  }

  async addSubject(streamId: string, subject: Readonly<Record<string, unknown>>): Promise<void> {
    const url = await this.endpoint("addSubjectEndpoint");
    const answer = await this.call(url, { method: "POST", ...json({ stream_id: streamId, subject }) });
    if (answer.status !== 200 && answer.status !== 204) throw refused("a further subject", answer);
  }

  async removeSubject(streamId: string, subject: Readonly<Record<string, unknown>>): Promise<void> {
    const url = await this.endpoint("removeSubjectEndpoint");
    const answer = await this.call(url, { method: "POST", ...json({ stream_id: streamId, subject }) });
    if (answer.status !== 204 && answer.status !== 200) throw refused("a subject less", answer);
  }

  /** Asks for a verification event. @returns false when it was asked for too often (429) */
  async verify(streamId: string, state: string): Promise<boolean> {
    const url = await this.endpoint("verificationEndpoint");
    const answer = await this.call(url, { method: "POST", ...json({ stream_id: streamId, state }) });
    if (answer.status === 429) return false;
    if (answer.status !== 204 && answer.status !== 200) throw refused("a verification", answer);
    return true;
  }

  private async change(method: "PATCH" | "PUT", streamId: string, body: object): Promise<StreamDescription> {
    const url = await this.endpoint("configurationEndpoint");
    const answer = await this.call(url, { method, ...json({ stream_id: streamId, ...body }) });
    if (answer.status !== 200) throw refused("a changed stream", answer);
    return this.describe(parseJson(answer.text));
  }

  private async endpoint(
    name: Exclude<keyof TransmitterMetadata, "issuer" | "jwksUri" | "criticalSubjectMembers">,
  ): Promise<string> {
    const url = (await this.discover())[name];
    if (url === undefined) throw this.lacks(name);
    return url;
  }

  private lacks(what: string): OperatingError {
    const { issuer } = this.options;
    return new OperatingError(
      "ERR_CONTROL",
      `transmitter ${issuer}: expected ${what} in its configuration, found none`,
    );
  }

  private describe(value: unknown): StreamDescription {
    const given = record(value) ?? {};
    const streamId = text(given.stream_id, 512);
    // SSF 1.0, section 8.1.1: the issuer must be the one whose configuration was asked.
    if (streamId === undefined || given.iss !== this.options.issuer) {
      throw new OperatingError("ERR_CONTROL", `transmitter ${this.options.issuer}: its stream is another issuer's`);
    }
    const delivery = record(given.delivery) ?? {};
    return {
      streamId,
      audiences: typeof given.aud === "string" ? [given.aud] : textsOf(given.aud),
      method: text(delivery.method) ?? POLL_METHOD,
      endpointUrl: urlOf(delivery.endpoint_url),
      eventsRequested: textsOf(given.events_requested),
      eventsDelivered: textsOf(given.events_delivered),
    };
  }

  private async call(
    url: string,
    request: Pick<Call, "method" | "body" | "headers">,
    authorized = true,
  ): Promise<Answer> {
    const token = authorized ? this.options.token() : undefined;
    try {
      return await call(this.options.fetch, url, {
        ...request,
        headers: {
          accept: "application/json",
          ...request.headers,
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        },
        timeoutMs: TIMEOUT_MS,
        bytesMax: BYTES_MAX,
        signal: this.options.signal,
      });
    } catch (cause) {
      // Keeps the last good state: whoever asked tries again later.
      throw new OperatingError("ERR_CONTROL", `transmitter at ${url}: ${whyFailed(cause)}`, { cause });
    }
  }
}

function json(body: unknown): Pick<Call, "body" | "headers"> {
  return { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
}

function withStream(url: string, streamId: string): string {
  const full = new URL(url);
  full.searchParams.set("stream_id", streamId);
  return full.href;
}

function urlOf(value: unknown): string | undefined {
  return isCallable(value) ? value : undefined;
}

function textsOf(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.slice(0, 1_000).filter((one): one is string => text(one) !== undefined) : [];
}

function refused(what: string, { status }: Answer): OperatingError {
  return new OperatingError("ERR_CONTROL", `transmitter: expected ${what}, got status ${status}`);
}
