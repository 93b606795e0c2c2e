/** The HTTPS server that the API server calls: bounded bodies, deadlines, certificates exchanged in place, an orderly end. */

import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { OperatingError } from "../model/errors.ts";
import type { KeyPair } from "./key-pair.ts";
import { writeStatus } from "./review.ts";

/** Where reviews are posted to. */
export const INJECT_PATH = "/inject";

/**
 * Largest review. An API server takes objects of 3 MiB at most (`MaxRequestBodyBytes`); as JSON in a review, with its
 * surroundings, one stays below.
 */
export const BODY_BYTES_MAX = 8 * 1024 * 1024;

/** Of all bodies that are being read. Beyond it, callers are asked to come again in a second. */
export const BODIES_BYTES_MAX = 64 * 1024 * 1024;

/**
 * API servers keep a few connections each; there may be many of them among strangers that the network lets through. Beyond
 * it the oldest connection that has brought no review gives way, so that who only holds connections keeps nobody out.
 */
export const CONNECTIONS_MAX = 1_024;
/** Connections on their way out, and those that all bring reviews. */
const CONNECTIONS_MORE = 256;

/** The longest `timeoutSeconds` that a webhook may have; it comes as the parameter `timeout`. */
const REQUEST_MS_MAX = 30_000;

const HANDSHAKE_MS_MAX = 10_000;

/**
 * How long a connection may idle. API servers drop theirs after 90 s. Were this end the first to do so, a review could
 * be sent into a closing connection, and no review is sent twice.
 */
const IDLE_MS_MAX = 120_000;

/** Deadlines are whole seconds, rounded up. */
const REQUEST_MS_MIN = 1_000;

/** An answer: JSON, or an error in the form that API servers show. */
export interface Reply {
  readonly status: number;
  /** JSON. */
  readonly body: string;
}

/** Why a request got no review for an answer: a small fixed set, for metrics. */
export type Turned =
  | "crowded"
  | "http"
  | "not_found"
  | "method"
  | "media_type"
  | "too_large"
  | "busy"
  | "timeout"
  | "aborted";

export interface ListenerOptions {
  /** `HOST:PORT`. */
  readonly address: string;
  readonly pair: KeyPair;
  /** Answers a whole body; must not throw. */
  readonly review: (body: Buffer) => Reply;
  readonly onTurned: (reason: Turned) => void;
  /**
   * A handshake failed; `distrusted`: the caller did not accept our certificate, so its `caBundle` is another's.
   */
  readonly onHandshakeFailure: (distrusted: boolean) => void;
  /** Default {@link BODY_BYTES_MAX}. */
  readonly bodyBytesMax?: number;
  /** Default {@link BODIES_BYTES_MAX}. */
  readonly bodiesBytesMax?: number;
  /** Default {@link CONNECTIONS_MAX}. */
  readonly connectionsMax?: number;
}

export class WebhookListener {
  private readonly options: ListenerOptions;
  private readonly server: Server;
  private readonly bodyBytesMax: number;
  private readonly bodiesBytesMax: number;
  /** By the caller's address and port, oldest first: connections that have brought no review yet. */
  private readonly strangers = new Map<string, Socket>();
  private connections = 0;
  private bodiesBytes = 0;
  private draining = false;
  private bound = "";

  constructor(options: ListenerOptions) {
    this.options = options;
    this.bodyBytesMax = options.bodyBytesMax ?? BODY_BYTES_MAX;
    this.bodiesBytesMax = options.bodiesBytesMax ?? BODIES_BYTES_MAX;
    // HTTP/1.1 only: one connection per call under way spreads an API server's calls over the replicas, where a single
    // HTTP/2 connection would keep them all on one.
    this.server = createServer(
      {
        cert: options.pair.cert,
        key: options.pair.key,
        minVersion: "TLSv1.2",
        handshakeTimeout: HANDSHAKE_MS_MAX,
        keepAliveTimeout: IDLE_MS_MAX,
        headersTimeout: HANDSHAKE_MS_MAX,
        requestTimeout: REQUEST_MS_MAX,
      },
      (request, response) => this.handle(request, response),
    );
    const connectionsMax = options.connectionsMax ?? CONNECTIONS_MAX;
    this.server.maxConnections = connectionsMax + CONNECTIONS_MORE;
    this.server.on("connection", (socket: Socket) => this.take(socket, connectionsMax));
    this.server.on("drop", () => options.onTurned("crowded"));
    // Node reports a failed handshake by both events, this one first; a TLS 1.3 caller that turns the certificate down
    // when the handshake is over on this side, and whatever is no HTTP, by this one only.
    const told = new WeakSet<object>();
    this.server.on("clientError", (error: NodeJS.ErrnoException, socket) => {
      if (isDistrust(error)) {
        told.add(socket);
        options.onHandshakeFailure(true);
      } else if (error.code?.startsWith("HPE_") === true) {
        options.onTurned("http");
        if (socket.writable) socket.end("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        return;
      }
      socket.destroy();
    });
    this.server.on("tlsClientError", (_, socket) => {
      if (!told.has(socket)) options.onHandshakeFailure(false);
    });
  }

  /** The address in use, with the real port where 0 was asked for. */
  get boundAddress(): string {
    return this.bound;
  }

  /** @throws {OperatingError} ERR_LISTEN */
  async listen(): Promise<void> {
    const { address } = this.options;
    const colon = address.lastIndexOf(":");
    const host = address.slice(0, colon);
    await new Promise<void>((resolve, reject) => {
      this.server.once("error", (cause) =>
        reject(new OperatingError("ERR_LISTEN", `cannot listen on ${address}: ${cause.message}`, { cause })),
      );
      this.server.listen(Number(address.slice(colon + 1)), host.replace(/^\[|\]$/g, ""), resolve);
    });
    this.bound = `${host}:${(this.server.address() as AddressInfo).port}`;
  }

  /** Connections from now on meet this pair; those that are open go on. */
  use(pair: KeyPair): void {
    this.server.setSecureContext({ cert: pair.cert, key: pair.key, minVersion: "TLSv1.2" });
  }

  /** From now on each answer ends its connection, so that the next call goes to another replica. */
  drain(): void {
    this.draining = true;
  }

  /** Takes no new connections, lets calls under way end for a while, then cuts them. */
  async close(timeoutMs: number): Promise<void> {
    this.drain();
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    this.server.closeIdleConnections();
    const cut = setTimeout(() => this.server.closeAllConnections(), timeoutMs);
    await closed;
    clearTimeout(cut);
  }

  private take(socket: Socket, connectionsMax: number): void {
    const key = keyOf(socket);
    this.connections++;
    this.strangers.set(key, socket);
    socket.once("close", () => {
      this.connections--;
      if (this.strangers.get(key) === socket) this.strangers.delete(key);
    });
    if (this.connections <= connectionsMax) return;
    const [oldest] = this.strangers;
    if (oldest === undefined) return;
    this.strangers.delete(oldest[0]);
    oldest[1].destroy();
    this.options.onTurned("crowded");
  }

  private handle(request: IncomingMessage, response: ServerResponse): void {
    const { onTurned } = this.options;
    const url = request.url ?? "";
    const path = url.split("?")[0];
    const turn = (reason: Turned, code: number, why: string, message: string, headers = {}): void => {
      onTurned(reason);
      // What is left of the body is read and dropped, so that the caller gets to read the answer; `requestTimeout` ends it.
      this.reply(response, { status: code, body: writeStatus(code, why, message) }, headers);
    };
    if (path !== INJECT_PATH) {
      turn("not_found", 404, "NotFound", `sallyport: reviews are taken at ${INJECT_PATH}`);
    } else if (request.method !== "POST") {
      turn("method", 405, "MethodNotAllowed", "sallyport: reviews are posted", { allow: "POST" });
    } else if (!isPlainJson(request)) {
      turn("media_type", 415, "UnsupportedMediaType", "sallyport: expected application/json, not encoded");
    } else {
      this.read(request, response, deadlineOf(url), turn);
    }
  }

  private read(
    request: IncomingMessage,
    response: ServerResponse,
    deadlineMs: number,
    turn: (reason: Turned, code: number, why: string, message: string, headers?: Record<string, string>) => void,
  ): void {
    const pieces: Buffer[] = [];
    let length = 0;
    const end = (): void => {
      clearTimeout(late);
      this.bodiesBytes -= length;
      length = 0;
      pieces.length = 0;
      request.off("data", take).off("end", whole).off("error", broken).off("close", broken);
      request.on("error", () => {}); // nobody waits for the rest
    };
    const tooLarge = (): void => {
      end();
      turn(
        "too_large",
        413,
        "RequestEntityTooLarge",
        `sallyport: expected a review of ${this.bodyBytesMax} bytes at most`,
      );
    };
    const take = (piece: Buffer): void => {
      if (length + piece.length > this.bodyBytesMax) {
        tooLarge();
      } else if (this.bodiesBytes + piece.length > this.bodiesBytesMax) {
        end();
        // API servers try again when told when, as long as their own timeout allows.
        turn("busy", 429, "TooManyRequests", "sallyport: too many reviews at a time", { "retry-after": "1" });
      } else {
        length += piece.length;
        this.bodiesBytes += piece.length;
        pieces.push(piece);
      }
    };
    const whole = (): void => {
      const body = Buffer.concat(pieces, length);
      end();
      const reply = this.options.review(body);
      if (reply.status === 200) this.strangers.delete(keyOf(request.socket));
      this.reply(response, reply, {});
    };
    const broken = (): void => {
      end();
      this.options.onTurned("aborted");
    };
    const late = setTimeout(() => {
      end();
      turn("timeout", 408, "Timeout", "sallyport: the review did not arrive in time", { connection: "close" });
    }, deadlineMs);
    if (Number(request.headers["content-length"] ?? 0) > this.bodyBytesMax) tooLarge();
    else request.on("data", take).on("end", whole).on("error", broken).on("close", broken);
  }

  private reply(response: ServerResponse, { status, body }: Reply, headers: Record<string, string>): void {
    response.writeHead(status, {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(body),
      ...(this.draining ? { connection: "close" } : {}),
      ...headers,
    });
    response.end(body);
  }
}

function keyOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

/** A charset parameter is taken; an encoding of the whole is not: no API server sends one. */
function isPlainJson({ headers }: IncomingMessage): boolean {
  const type = headers["content-type"]?.split(";")[0]?.trim().toLowerCase();
  return type === "application/json" && (headers["content-encoding"] ?? "identity") === "identity";
}

/** What the API server gives itself, as `?timeout=5s`; nothing that waits longer is waited for. */
function deadlineOf(url: string): number {
  const asked = /[?&]timeout=(\d{1,4}(?:\.\d{1,9})?)s(?:&|$)/.exec(url)?.[1];
  return asked === undefined
    ? REQUEST_MS_MAX
    : Math.min(REQUEST_MS_MAX, Math.max(REQUEST_MS_MIN, Number(asked) * 1_000));
}

/** The alerts by which a peer turns a certificate down (RFC 8446, section 6.2). */
const DISTRUST = /ALERT_(?:BAD_CERTIFICATE|UNKNOWN_CA|CERTIFICATE_EXPIRED|CERTIFICATE_UNKNOWN|UNSUPPORTED_CERTIFICATE)/;

function isDistrust({ code }: NodeJS.ErrnoException): boolean {
  return DISTRUST.test(code ?? "");
}
