/** One conditional GET of a bundle, bounded in every direction. */

import { readFile } from "node:fs/promises";
import { createBrotliDecompress, createGunzip, createInflate } from "node:zlib";
import { Agent, type Dispatcher, EnvHttpProxyAgent } from "undici";
import { BEARER_EXPECTED, isBearer } from "../../model/bearer.ts";
import { OperatingError } from "../../model/errors.ts";
import { SECOND_MS } from "../../model/units.ts";
import { tooLarge } from "./bundle-bytes.ts";

export interface FetchLimits {
  readonly connectMs: number;
  /** From the request to the answer's headers. */
  readonly headersMs: number;
  /** Between two pieces of the body. */
  readonly bodyMs: number;
  /** For everything, redirects included: a server that trickles is given up. */
  readonly totalMs: number;
}

const LIMITS: FetchLimits = {
  connectMs: 10 * SECOND_MS,
  headersMs: 30 * SECOND_MS,
  bodyMs: 30 * SECOND_MS,
  totalMs: 300 * SECOND_MS,
};
const REDIRECTS_MAX = 5;
const TOKEN_BYTES_MAX = 64 * 1024;
const HEADER_CHARS_MAX = 1_024;

export interface Validators {
  readonly etag: string | undefined;
  readonly modified: string | undefined;
}

export type Fetched =
  | { readonly kind: "content"; readonly bytes: Uint8Array; readonly validators: Validators | undefined }
  | { readonly kind: "unchanged" }
  /** The server answered with something other than content. */
  | { readonly kind: "busy"; readonly error: OperatingError; readonly retryAfterMs: number | undefined };

export interface FetcherOptions {
  readonly url: URL;
  /** The address as it may be shown. */
  readonly label: string;
  readonly bytesMax: number;
  readonly tokenFile: string | undefined;
  readonly caFile: string | undefined;
  readonly clock: { now(): number };
  readonly signal: AbortSignal;
  readonly limits?: FetchLimits;
}

export class Fetcher {
  private readonly options: FetcherOptions;
  private readonly limits: FetchLimits;
  private dispatcher: { readonly agent: Dispatcher; readonly ca: string | undefined } | undefined;

  constructor(options: FetcherOptions) {
    this.options = options;
    this.limits = options.limits ?? LIMITS;
  }

  async close(): Promise<void> {
    await this.dispatcher?.agent.destroy();
  }

  /** @throws {OperatingError} ERR_BUNDLE_UNREACHABLE or ERR_BUNDLE_TOO_LARGE */
  async get(validators: Validators | undefined): Promise<Fetched> {
    // A timer of its own: signals made of signals were seen to be collected with their timers.
    const ending = new AbortController();
    const end = (): void => ending.abort();
    const timer = setTimeout(end, this.limits.totalMs);
    this.options.signal.addEventListener("abort", end, { once: true });
    try {
      return await this.ask(validators, ending.signal);
    } finally {
      clearTimeout(timer);
      this.options.signal.removeEventListener("abort", end);
    }
  }

  private async ask(validators: Validators | undefined, signal: AbortSignal): Promise<Fetched> {
    const { label, url } = this.options;
    const token = await this.token();
    const agent = await this.agent();
    const headers: Record<string, string> = {
      accept: "application/octet-stream, */*;q=0.1",
      "accept-encoding": "gzip, br",
      "user-agent": "sallyport",
      ...(validators?.etag === undefined ? {} : { "if-none-match": validators.etag }),
      ...(validators?.modified === undefined ? {} : { "if-modified-since": validators.modified }),
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    };
    let target = url;
    for (let redirects = 0; ; redirects++) {
      try {
        const answer = await agent.request({
          origin: target.origin,
          path: `${target.pathname}${target.search}`,
          method: "GET",
          headers,
          signal,
        });
        const next = this.redirect(answer, target, redirects);
        if (next === undefined) return await this.answered(answer, validators, signal);
        answer.body.on("error", () => {}).destroy(); // a redirect's body says nothing
        target = next;
      } catch (error) {
        if (error instanceof OperatingError) throw error;
        throw unreachable(label, whyOf(error, signal), error);
      }
    }
  }

  /** Where to go on; `undefined` when the answer is none of that kind. */
  private redirect(answer: Dispatcher.ResponseData, from: URL, redirects: number): URL | undefined {
    if (![301, 302, 303, 307, 308].includes(answer.statusCode)) return undefined;
    const { label } = this.options;
    const location = one(answer.headers.location);
    answer.body.on("error", () => {});
    if (location === undefined || redirects >= REDIRECTS_MAX || !URL.canParse(location, from)) {
      answer.body.destroy();
      throw unreachable(label, `expected at most ${REDIRECTS_MAX} redirects that say where to`);
    }
    const next = new URL(location, from);
    if (next.origin === from.origin) return next;
    answer.body.destroy();
    // A token goes to nobody else, and neither does the question.
    throw unreachable(label, `expected no redirect away from ${from.origin}, got one to ${next.origin}`);
  }

  private async answered(
    answer: Dispatcher.ResponseData,
    validators: Validators | undefined,
    signal: AbortSignal,
  ): Promise<Fetched> {
    const { label, clock } = this.options;
    const { statusCode, headers, body } = answer;
    if (statusCode === 200) {
      const bytes = await this.content(answer, signal);
      const etag = bounded(one(headers.etag));
      const modified = bounded(one(headers["last-modified"]));
      return {
        kind: "content",
        bytes,
        validators: etag === undefined && modified === undefined ? undefined : { etag, modified },
      };
    }
    body.on("error", () => {}).destroy(); // the bodies of other answers say nothing that may be shown
    if (statusCode === 304 && validators !== undefined) return { kind: "unchanged" };
    return {
      kind: "busy",
      error: unreachable(label, `expected status 200 or 304, got ${statusCode}`),
      retryAfterMs: retryAfterOf(one(headers["retry-after"]), clock.now()),
    };
  }

  /** The bound holds for what arrives and for what it unpacks to, while it streams. */
  private async content({ headers, body }: Dispatcher.ResponseData, signal: AbortSignal): Promise<Uint8Array> {
    const { label, bytesMax } = this.options;
    const length = Number(one(headers["content-length"]) ?? 0);
    if (length > bytesMax) {
      body.on("error", () => {}).destroy();
      throw tooLarge(label, `${length} bytes`, bytesMax);
    }
    const decoder = decoderOf(one(headers["content-encoding"]), label);
    const stream = decoder === undefined ? body : body.pipe(decoder);
    if (decoder !== undefined) {
      body.on("error", (error) => decoder.destroy(error));
      signal.addEventListener("abort", () => decoder.destroy(signal.reason as Error), { once: true });
    }
    const pieces: Buffer[] = [];
    let total = 0;
    let arrived = 0;
    if (decoder !== undefined) {
      body.on("data", (piece: Buffer) => {
        arrived += piece.length;
        if (arrived > bytesMax) decoder.destroy(tooLarge(label, "more", bytesMax));
      });
    }
    try {
      for await (const piece of stream as AsyncIterable<Buffer>) {
        total += piece.length;
        if (total > bytesMax) throw tooLarge(label, decoder === undefined ? "more" : "more after unpacking", bytesMax);
        pieces.push(piece);
      }
    } finally {
      body.on("error", () => {}).destroy();
      decoder?.destroy();
    }
    return Buffer.concat(pieces, total);
  }

  /** Read at every look, so that a rotated token counts at once; never kept, never shown. */
  private async token(): Promise<string | undefined> {
    const { tokenFile, label } = this.options;
    if (tokenFile === undefined) return undefined;
    const token = (await readSmall(tokenFile, label, "policy-token-file")).trim();
    if (isBearer(token)) return token;
    throw unreachable(label, `policy-token-file ${tokenFile}: expected ${BEARER_EXPECTED}`);
  }

  private async agent(): Promise<Dispatcher> {
    const { caFile, label, url } = this.options;
    const ca = caFile === undefined ? undefined : await readSmall(caFile, label, "policy-ca-file");
    if (this.dispatcher !== undefined && this.dispatcher.ca === ca) return this.dispatcher.agent;
    void this.dispatcher?.agent.close();
    const { connectMs, headersMs, bodyMs } = this.limits;
    const tls = ca === undefined ? {} : { ca };
    const common = { connect: { timeout: connectMs, ...tls }, headersTimeout: headersMs, bodyTimeout: bodyMs };
    // Plain HTTP goes to loopback only, and no proxy stands there.
    const agent = url.protocol === "http:" ? new Agent(common) : new EnvHttpProxyAgent({ ...common, requestTls: tls });
    this.dispatcher = { agent, ca };
    return agent;
  }
}

function decoderOf(encoding: string | undefined, label: string) {
  switch (encoding?.trim().toLowerCase() ?? "identity") {
    case "identity":
    case "":
      return undefined;
    case "gzip":
    case "x-gzip":
      return createGunzip();
    case "br":
      return createBrotliDecompress();
    case "deflate":
      return createInflate();
    default:
      throw unreachable(label, "expected Content-Encoding gzip, br, deflate or none, got another");
  }
}

async function readSmall(path: string, label: string, setting: string): Promise<string> {
  try {
    const bytes = await readFile(path);
    if (bytes.length > TOKEN_BYTES_MAX * 16) throw new Error("too large");
    return bytes.toString("utf8");
  } catch (cause) {
    throw unreachable(label, `${setting} ${path}: expected a file that can be read`, cause);
  }
}

/** Seconds, or a date (RFC 9110, section 10.2.3). */
export function retryAfterOf(text: string | undefined, nowMs: number): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,9}$/.test(text.trim())) return Number(text) * SECOND_MS;
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - nowMs);
}

function one(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}

function bounded(text: string | undefined): string | undefined {
  return text !== undefined && text.length <= HEADER_CHARS_MAX ? text : undefined;
}

/** What undici and zlib call it; their messages may quote the answer. */
function whyOf(error: unknown, signal: AbortSignal): string {
  if (signal.aborted) return "not answered in full within the time for it";
  const code = error instanceof Error && "code" in error ? String(error.code) : undefined;
  switch (code) {
    case "UND_ERR_CONNECT_TIMEOUT":
      return "not connected within the time for it";
    case "UND_ERR_HEADERS_TIMEOUT":
      return "no answer within the time for it";
    case "UND_ERR_BODY_TIMEOUT":
      return "the answer stopped halfway";
    case "UND_ERR_SOCKET":
    case "UND_ERR_RES_CONTENT_LENGTH_MISMATCH":
      return "the answer was cut off";
    default:
      return code ?? (error instanceof Error ? error.name : typeof error);
  }
}

function unreachable(label: string, why: string, cause?: unknown): OperatingError {
  return new OperatingError("ERR_BUNDLE_UNREACHABLE", `${label}: ${why}`, { cause });
}
