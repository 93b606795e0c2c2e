/** Asks the Kubernetes API over HTTP: lists in pages, and watches as lines of JSON. */

import { readFileSync } from "node:fs";
import { type IncomingMessage, request as requestHttp } from "node:http";
import { request as requestHttps } from "node:https";
import { StringDecoder } from "node:string_decoder";
import { BEARER_EXPECTED, isBearer } from "../../model/bearer.ts";
import { OperatingError } from "../../model/errors.ts";

/** How long headers may take to come. */
const HEADERS_MS_MAX = 30_000;
/** How long a page may take to come. */
const PAGE_MS_MAX = 60_000;
/** How long one object may take to be created. */
const CREATE_MS_MAX = 10_000;
/** Most bytes of one page of a list. */
const PAGE_BYTES_MAX = 64 * 1024 * 1024;
/** Most characters of one event: etcd holds objects of 1.5 MiB at most. */
const EVENT_CHARS_MAX = 8 * 1024 * 1024;
/** Of what the API says about a refusal. */
const MESSAGE_CHARS_MAX = 300;
const REFUSAL_BYTES_MAX = 64 * 1024;

export interface ApiOptions {
  /** `https://HOST:PORT`, or `http://` on loopback. */
  readonly url: string;
  /** Read anew for every call, since kubelet renews what it mounts; `undefined`: no token is sent. */
  readonly tokenFile: string | undefined;
  /** `undefined`: the system's authorities. */
  readonly caFile: string | undefined;
}

/** The API has refused, or could not be asked. */
export class ApiError extends OperatingError {
  /** HTTP status; `undefined`: there was no answer. */
  readonly status: number | undefined;
  /** What `Retry-After` asks for, milliseconds. */
  readonly retryAfterMs: number | undefined;
  constructor(message: string, status?: number, retryAfterMs?: number, options?: ErrorOptions) {
    super("ERR_KUBERNETES", message, options);
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }
}

/** What came is no event: asked again from the same place, the same may come again. */
export class UnreadableError extends ApiError {}

export class KubernetesApi {
  private readonly options: ApiOptions;

  constructor(options: ApiOptions) {
    this.options = options;
  }

  /** @throws {OperatingError} ERR_KUBERNETES */
  async get(path: string, query: Readonly<Record<string, string>>, signal: AbortSignal): Promise<unknown> {
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(PAGE_MS_MAX)]);
    return await readJson(await this.call(path, query, bounded), PAGE_BYTES_MAX, path);
  }

  /**
   * Creates an object, and returns what became of it.
   * @throws {OperatingError} ERR_KUBERNETES; it never holds what was sent
   */
  async create(path: string, object: unknown): Promise<unknown> {
    const response = await this.call(path, {}, AbortSignal.timeout(CREATE_MS_MAX), JSON.stringify(object));
    return await readJson(response, REFUSAL_BYTES_MAX, path);
  }

  /**
   * Events as they come, until the server ends the watch.
   * @param onOpen told when the server has accepted it
   * @throws {OperatingError} ERR_KUBERNETES
   */
  async *watch(
    path: string,
    query: Readonly<Record<string, string>>,
    signal: AbortSignal,
    onOpen: () => void,
  ): AsyncGenerator<unknown, void> {
    const response = await this.call(path, query, signal);
    onOpen();
    const decoder = new StringDecoder("utf8");
    let rest = "";
    try {
      for await (const chunk of response) {
        const scanned = rest.length;
        rest += decoder.write(chunk as Buffer);
        let start = 0;
        for (let end = rest.indexOf("\n", scanned); end >= 0; end = rest.indexOf("\n", start)) {
          if (end > start) yield parseLine(rest.slice(start, end), path);
          start = end + 1;
        }
        rest = start === 0 ? rest : rest.slice(start);
        if (rest.length > EVENT_CHARS_MAX) {
          throw new UnreadableError(`kubernetes ${path}: expected an event of at most ${EVENT_CHARS_MAX} characters`);
        }
      }
    } catch (cause) {
      if (cause instanceof ApiError) throw cause;
      throw new ApiError(`kubernetes ${path}: the connection broke: ${reasonOf(cause)}`, undefined, undefined, {
        cause,
      });
    } finally {
      response.destroy();
    }
  }

  private async call(
    path: string,
    query: Readonly<Record<string, string>>,
    signal: AbortSignal,
    body?: string,
  ): Promise<IncomingMessage> {
    const { url, tokenFile, caFile } = this.options;
    const target = new URL(path, url);
    for (const [name, value] of Object.entries(query)) target.searchParams.set(name, value);
    const token = tokenFile === undefined ? undefined : readText("kubernetes-token-file", tokenFile).trim();
    if (token !== undefined && !isBearer(token)) {
      throw new ApiError(`kubernetes-token-file ${tokenFile}: expected ${BEARER_EXPECTED}`);
    }
    const ca = caFile === undefined ? undefined : readText("kubernetes-ca-file", caFile);
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const send = target.protocol === "https:" ? requestHttps : requestHttp;
      const request = send(target, {
        method: body === undefined ? "GET" : "POST",
        // Each call has a connection of its own: a new token or authority then counts, and a watch holds up nothing.
        agent: false,
        signal,
        headers: {
          accept: "application/json",
          "user-agent": "sallyport-control",
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { "content-type": "application/json" }),
        },
        ...(ca === undefined ? {} : { ca }),
      });
      request.setTimeout(HEADERS_MS_MAX, () => request.destroy(new Error("no answer in time")));
      request.once("response", (answer) => {
        request.setTimeout(0);
        resolve(answer);
      });
      request.on("error", (cause) =>
        reject(
          new ApiError(`kubernetes ${target.origin}: cannot be asked: ${reasonOf(cause)}`, undefined, undefined, {
            cause,
          }),
        ),
      );
      request.end(body);
    });
    const { statusCode = 0 } = response;
    if (statusCode === 200 || statusCode === 201) return response;
    const seconds = Number(response.headers["retry-after"]);
    const said = await readAll(response, REFUSAL_BYTES_MAX, path).catch(() => ""); // the status says enough
    throw new ApiError(
      `kubernetes ${path}: ${statusCode} ${messageOf(said)}`,
      statusCode,
      Number.isFinite(seconds) && seconds > 0 ? seconds * 1_000 : undefined,
    );
  }
}

async function readJson(response: IncomingMessage, bytesMax: number, path: string): Promise<unknown> {
  const body = await readAll(response, bytesMax, path);
  try {
    return JSON.parse(body);
  } catch (cause) {
    throw new ApiError(`kubernetes ${path}: expected JSON, got something else`, undefined, undefined, { cause });
  }
}

async function readAll(response: IncomingMessage, bytesMax: number, path: string): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const piece of response) {
      bytes += (piece as Buffer).length;
      if (bytes > bytesMax) throw new ApiError(`kubernetes ${path}: expected at most ${bytesMax} bytes`);
      pieces.push(piece as Buffer);
    }
  } catch (cause) {
    if (cause instanceof ApiError) throw cause;
    throw new ApiError(`kubernetes ${path}: the answer broke off: ${reasonOf(cause)}`, undefined, undefined, { cause });
  }
  return Buffer.concat(pieces).toString("utf8");
}

function parseLine(line: string, path: string): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new UnreadableError(
      `kubernetes ${path}: expected an event as JSON, got something else`,
      undefined,
      undefined,
      {
        cause,
      },
    );
  }
}

/** A JWT, or the part of one that begins with its header (RFC 7519, section 3.1). */
const TOKENS = /\beyJ[\w-]+(?:\.[\w-]*)*/g;

/** `message` of a Status object (meta/v1), which names the right that is missing; a token in it is left out. */
function messageOf(body: string): string {
  try {
    const { message } = JSON.parse(body) as { readonly message?: unknown };
    return typeof message === "string" ? message.replace(TOKENS, "[token]").slice(0, MESSAGE_CHARS_MAX) : "";
  } catch {
    return ""; // whatever stands before the API need not speak JSON
  }
}

function reasonOf(cause: unknown): string {
  if (!(cause instanceof Error)) return "unknown";
  return "code" in cause && typeof cause.code === "string" ? cause.code : cause.message.slice(0, MESSAGE_CHARS_MAX);
}

function readText(setting: string, path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new ApiError(`${setting} ${path}: expected a file that can be read`, undefined, undefined, { cause });
  }
}
