/** HTTP within bounds: bodies that are read, answers that are given, calls that are made. */

import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { checkForm } from "../bundle/forms.ts";
import { Form } from "../gen/sallyport/policy/v1/options_pb.ts";
import type { SetFault } from "./set.ts";

/** How long a request's body may take to arrive. */
const BODY_MS = 10_000;
const TOKEN = /^bearer +([\x21-\x7e]{1,4096})$/i;

export type Body =
  | { readonly ok: true; readonly text: string }
  | { readonly ok: false; readonly status: 400 | 408 | 413; readonly why: string };

/** Reads a request's body of at most `bytesMax` bytes of UTF-8. Never rejects. */
export function readBody(request: IncomingMessage, bytesMax: number): Promise<Body> {
  if (Number(request.headers["content-length"] ?? 0) > bytesMax) return Promise.resolve(tooLarge(bytesMax));
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    const finish = (body: Body): void => {
      clearTimeout(timer);
      request.removeAllListeners("data");
      resolve(body);
    };
    const timer = setTimeout(() => finish({ ok: false, status: 408, why: "the body took too long" }), BODY_MS);
    timer.unref();
    request.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > bytesMax) finish(tooLarge(bytesMax));
      else chunks.push(chunk);
    });
    request.once("end", () => {
      try {
        finish({ ok: true, text: new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks)) });
      } catch {
        // Fails closed: bytes that are no text are not guessed at.
        finish({ ok: false, status: 400, why: "the body is not UTF-8" });
      }
    });
    request.once("error", () => finish({ ok: false, status: 400, why: "the body broke off" }));
    request.once("close", () => finish({ ok: false, status: 400, why: "the body broke off" }));
  });
}

function tooLarge(bytesMax: number): Body {
  return { ok: false, status: 413, why: `expected a body of at most ${bytesMax} bytes` };
}

/** The type of a request's body without its parameters, lower case. */
export function contentType(request: IncomingMessage): string {
  return (request.headers["content-type"] ?? "").split(";", 1)[0]!.trim().toLowerCase();
}

/** The path of a request, or `undefined` when it has none that could be read. */
export function urlOf(request: IncomingMessage): URL | undefined {
  const target = request.url ?? "";
  if (!target.startsWith("/") || !URL.canParse(`http://host${target}`)) return undefined;
  return new URL(`http://host${target}`);
}

/** Whether the request shows one of the bearer tokens of which these are the SHA-256. */
export function holdsBearer(request: IncomingMessage, hashes: readonly Uint8Array[]): boolean {
  const given = TOKEN.exec(request.headers.authorization ?? "")?.[1];
  if (given === undefined) return false;
  const sha256 = createHash("sha256").update(given).digest();
  let held = false;
  for (const hash of hashes) if (timingSafeEqual(hash, sha256)) held = true;
  return held;
}

export function answer(
  response: ServerResponse,
  status: number,
  body?: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (response.headersSent || response.destroyed) return;
  const text = body === undefined ? "" : JSON.stringify(body);
  // What is left of a body that was refused is not read: the connection ends.
  const unread = response.req !== undefined && !response.req.complete;
  response.writeHead(status, {
    ...(body === undefined ? {} : { "content-type": "application/json" }),
    ...(status === 204 ? {} : { "content-length": String(Buffer.byteLength(text)) }),
    ...(unread ? { connection: "close" } : {}),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    ...headers,
  });
  response.end(text);
}

/** An answer that says why a token was refused (RFC 8935, section 2.3). */
export function answerFault(
  response: ServerResponse,
  status: number,
  fault: SetFault,
  headers: Readonly<Record<string, string>> = {},
): void {
  answer(
    response,
    status,
    { err: fault.err, description: fault.description },
    { "content-language": "en", ...headers },
  );
}

/** Parses JSON; `undefined` for what is none. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // whoever asked refuses it; the parser's own message would repeat parts of the text
  }
}

/** Whether a URL that others name may be called: https, or http to this machine's loopback. */
export function isCallable(url: unknown): url is string {
  return typeof url === "string" && url.length <= 2_048 && checkForm(Form.URL, url) === undefined;
}

export interface Call {
  readonly method: "GET" | "POST" | "PATCH" | "PUT" | "DELETE";
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly timeoutMs: number;
  readonly bytesMax: number;
  /** Calls it off. */
  readonly signal: AbortSignal;
}

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly retryAfterMs: number | undefined;
}

/**
 * Makes a call. Redirects are not followed: what is sent was meant for one place.
 * @throws {Error} when there is no answer in time, or a longer one
 */
export async function call(fetching: typeof fetch, url: string, request: Call): Promise<Answer> {
  const response = await fetching(url, {
    method: request.method,
    redirect: "manual",
    signal: AbortSignal.any([AbortSignal.timeout(request.timeoutMs), request.signal]),
    ...(request.headers === undefined ? {} : { headers: { ...request.headers } }),
    ...(request.body === undefined ? {} : { body: request.body }),
  });
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  return {
    status: response.status,
    text: await readWithin(response, request.bytesMax),
    retryAfterMs: seconds >= 0 ? seconds * 1_000 : undefined,
  };
}

async function readWithin(response: Response, bytesMax: number): Promise<string> {
  if (response.body === null) return "";
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body) {
    bytes += chunk.length;
    if (bytes > bytesMax) throw new Error(`expected an answer of at most ${bytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** What may be said of a failed call: causes of the network by their code, never a body. */
export function whyFailed(error: unknown): string {
  if (!(error instanceof Error)) return "unknown trouble";
  const cause = error.cause as { readonly code?: unknown } | undefined;
  if (error.name === "TimeoutError") return "no answer in time";
  return typeof cause?.code === "string" ? cause.code : error.message;
}
