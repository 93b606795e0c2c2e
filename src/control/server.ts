/** The control plane's listener: HTTP/2 and HTTP/1.1 on one port, with TLS or, on loopback, without. */

import { readFileSync } from "node:fs";
import { createServer as createHttp, type IncomingMessage, type ServerResponse } from "node:http";
import {
  createServer as createHttp2,
  createSecureServer,
  type Http2ServerRequest,
  type ServerHttp2Session,
} from "node:http2";
import { type AddressInfo, createServer as createNet, isIP, type Server, type Socket } from "node:net";
import { createSecureContext, type TLSSocket } from "node:tls";
import { type ConnectRouter, createContextValues } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { OperatingError } from "../model/errors.ts";
import { type Access, type Authenticated, certificateOf } from "./access.ts";
import { isLoopback } from "./config.ts";
import { servePage } from "./page.ts";
import { connectionKey } from "./service.ts";

/** What HTTP/2 with prior knowledge begins with (RFC 9113, section 3.4); no HTTP/1.1 request does. */
const PREFACE = Buffer.from("PRI * HTTP/2.0");

/** How long a connection may take to say what it is, or to complete its TLS handshake. */
const GREETING_MS_MAX = 10_000;

/** How often the files of certificates are looked at. */
const LOOK_MS = 2_000;

/** Streams of one HTTP/2 connection: a sidecar needs three. */
const STREAMS_MAX = 32;

export interface TlsFiles {
  readonly cert: string;
  readonly key: string;
  readonly clientCa: string | undefined;
}

export interface ListenerOptions {
  readonly address: string;
  readonly tls: TlsFiles | undefined;
  readonly routes: (router: ConnectRouter) => void;
  readonly access: () => Access;
  /** Awaited before each call is looked at, with its `authorization`. */
  readonly prepare: (authorization: string | undefined) => Promise<void>;
  /** Answers requests that are its own, whoever sends them; false for all others. */
  readonly handle: (request: IncomingMessage, response: ServerResponse) => boolean;
  readonly connectionsMax: number;
  readonly now: () => number;
  /** Told when new certificates are in use, or why they are not. */
  readonly onCertificates: (error: OperatingError | undefined) => void;
}

type NodeRequest = IncomingMessage | Http2ServerRequest;

export class ControlListener {
  private readonly options: ListenerOptions;
  private readonly sockets = new Set<Socket>();
  private readonly sessions = new Set<ServerHttp2Session>();
  private server: Server | undefined;
  private looking: NodeJS.Timeout | undefined;
  private bound = "";

  constructor(options: ListenerOptions) {
    this.options = options;
  }

  /** The address in use, with the real port where 0 was asked for. */
  get boundAddress(): string {
    return this.bound;
  }

  /** @throws {OperatingError} ERR_LISTEN, or ERR_CONFIG_INVALID for certificates that cannot be used */
  async listen(): Promise<void> {
    const { address, tls, routes, prepare } = this.options;
    const handle = connectNodeAdapter({
      routes,
      interceptors: [
        (next) => async (request) => {
          await prepare(request.header.get("authorization") ?? undefined);
          return await next(request);
        },
      ],
      // Pieces come compressed from the library; nothing else is worth the server's time, a thousand times over.
      acceptCompression: [],
      contextValues: (request) => createContextValues().set(connectionKey, this.connectionOf(request)),
      // The messages of both versions have the same methods here; only their overloads differ.
      fallback: (request, response) => {
        const [asked, answer] = [request as IncomingMessage, response as ServerResponse];
        if (!this.options.handle(asked, answer)) servePage(asked, answer);
      },
    });
    this.server = tls === undefined ? this.plain(handle) : this.secure(tls, handle);
    this.server.maxConnections = this.options.connectionsMax;
    this.server.on("connection", (socket) => {
      this.sockets.add(socket);
      socket.once("close", () => this.sockets.delete(socket));
    });
    const colon = address.lastIndexOf(":");
    const host = address.slice(0, colon);
    await new Promise<void>((resolve, reject) => {
      this.server!.once("error", (cause) =>
        reject(new OperatingError("ERR_LISTEN", `cannot listen on ${address}: ${cause.message}`, { cause })),
      );
      this.server!.listen(Number(address.slice(colon + 1)), host.replace(/^\[|\]$/g, ""), resolve);
    });
    this.bound = `${host}:${(this.server.address() as AddressInfo).port}`;
  }

  /** Takes no new connections, lets calls under way end for a while, then cuts them. */
  async close(timeoutMs: number): Promise<void> {
    clearInterval(this.looking);
    const closed = new Promise<void>((resolve) => {
      if (this.server === undefined) resolve();
      else this.server.close(() => resolve());
    });
    for (const session of this.sessions) session.close();
    const cut = setTimeout(() => {
      for (const socket of this.sockets) socket.destroy();
    }, timeoutMs);
    await closed;
    clearTimeout(cut);
  }

  private plain(handle: ReturnType<typeof connectNodeAdapter>): Server {
    const http = createHttp(handle);
    http.requestTimeout = 0; // a watch has no end; headers are still waited for in vain only so long
    http.headersTimeout = GREETING_MS_MAX;
    const http2 = createHttp2({ settings: { maxConcurrentStreams: STREAMS_MAX } }, handle);
    http2.on("session", (session) => this.remember(session));
    const server = createNet((socket) => {
      socket.setTimeout(GREETING_MS_MAX, () => socket.destroy());
      socket.on("error", () => socket.destroy()); // the peer's affair
      socket.once("data", (first) => {
        socket.setTimeout(0);
        socket.removeAllListeners("timeout");
        socket.pause();
        socket.unshift(first);
        const length = Math.min(first.length, PREFACE.length);
        const prior = first.length > 0 && PREFACE.subarray(0, length).equals(first.subarray(0, length));
        (prior ? http2 : http).emit("connection", socket);
        if (!prior) socket.resume();
      });
    });
    server.once("close", () => http.closeAllConnections());
    return server;
  }

  private secure(files: TlsFiles, handle: ReturnType<typeof connectNodeAdapter>): Server {
    let inUse = readTls(files);
    createSecureContext(inUse); // fails closed: what cannot be used now is not waited for
    const server = createSecureServer(
      {
        ...inUse,
        allowHTTP1: true,
        minVersion: "TLSv1.2",
        handshakeTimeout: GREETING_MS_MAX,
        settings: { maxConcurrentStreams: STREAMS_MAX },
        // Who may do what is decided per call, so that a bad certificate gets an answer that says so.
        requestCert: files.clientCa !== undefined,
        rejectUnauthorized: false,
      },
      handle,
    );
    server.on("session", (session) => this.remember(session));
    server.on("tlsClientError", () => {}); // the peer's affair
    this.looking = setInterval(() => {
      try {
        const found = readTls(files);
        if (sameTls(found, inUse)) return;
        inUse = found;
        createSecureContext(found);
        server.setSecureContext(found);
        this.options.onCertificates(undefined);
      } catch (cause) {
        // Keeps the last good certificates: a half-written file is followed by a whole one.
        this.options.onCertificates(
          cause instanceof OperatingError
            ? cause
            : new OperatingError("ERR_CONFIG_INVALID", `${files.cert}: certificate and key cannot be used`, { cause }),
        );
      }
    }, LOOK_MS);
    this.looking.unref();
    return server;
  }

  private remember(session: ServerHttp2Session): void {
    this.sessions.add(session);
    session.once("close", () => this.sessions.delete(session));
    session.on("error", () => {}); // the peer's affair: its calls end with it
  }

  private connectionOf(request: NodeRequest): { authenticate: () => Authenticated; cut: () => void } {
    const { address, tls, access, now } = this.options;
    const socket = "stream" in request ? request.stream.session?.socket : request.socket;
    const from = socket?.remoteAddress ?? "";
    const certificate =
      tls?.clientCa === undefined || socket === undefined ? undefined : certificateOf(socket as TLSSocket);
    const evidence = {
      authorization: request.headers.authorization,
      from,
      certificate,
      local: tls === undefined && isLoopback(address) && isLoopbackPeer(from) && !isForeign(request),
    };
    return {
      authenticate: () => access().authenticate(evidence, now()),
      cut: () => {
        if ("stream" in request) request.stream.destroy();
        else request.socket.destroy();
      },
    };
  }
}

function isLoopbackPeer(address: string): boolean {
  return isIP(address) > 0 && /^(?:127\.|::1$|::ffff:127\.)/.test(address);
}

/** Whether a page of another site may be behind the request: its host has a name (DNS rebinding), or its origin differs. */
function isForeign(request: NodeRequest): boolean {
  const host = request.headers.host ?? ("authority" in request ? request.authority : "");
  const name = host.replace(/:\d+$/, "").toLowerCase();
  if (name !== "localhost" && !/^[\d.]+$/.test(name) && !name.startsWith("[")) return true;
  const { origin } = request.headers;
  return origin !== undefined && origin !== `http://${host}`;
}

interface Tls {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca?: Buffer;
}

function readTls({ cert, key, clientCa }: TlsFiles): Tls {
  return {
    cert: readPem("tls-cert", cert),
    key: readPem("tls-key", key),
    ...(clientCa === undefined ? {} : { ca: readPem("client-ca", clientCa) }),
  };
}

function sameTls(one: Tls, other: Tls): boolean {
  const sameCa = one.ca === undefined || other.ca === undefined ? one.ca === other.ca : one.ca.equals(other.ca);
  return one.cert.equals(other.cert) && one.key.equals(other.key) && sameCa;
}

function readPem(setting: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new OperatingError("ERR_CONFIG_INVALID", `${setting} ${path}: expected a file that can be read`, { cause });
  }
}
