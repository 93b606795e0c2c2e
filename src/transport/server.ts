/** A small HTTP/2 server for unary gRPC methods: cleartext with prior knowledge, meant for a local Envoy. */

import { createServer, type Server, type Socket } from "node:net";
import { performance } from "node:perf_hooks";
import { Connection } from "./connection.ts";
import type { ConnectionContext } from "./context.ts";
import { DEFAULT_LIMITS, type TransportLimits } from "./limits.ts";
import type { UnaryMethod } from "./unary.ts";

export interface UnaryServerOptions {
  /** What differs from {@link DEFAULT_LIMITS}. */
  readonly limits?: Partial<TransportLimits>;
  /** Told what a handler threw that is no GrpcFailure, and bugs of the transport. */
  readonly onError: (error: unknown) => void;
  /** Told a {@link import("./limits.ts").Refusal}: one of a small fixed set, fit for a metric's label. */
  readonly onRefused?: (reason: string) => void;
  /** Monotonic milliseconds; the process's own clock by default. */
  readonly now?: () => number;
}

/** Serves any number of connections on one address. */
export class UnaryServer {
  private readonly server: Server;
  private readonly context: ConnectionContext;
  private readonly open = new Set<Connection>();
  private readonly sweepMs: number;
  private sweeper: NodeJS.Timeout | undefined;
  private sweptMs = 0;
  private closing = false;
  private closed: (() => void) | undefined;

  /** @throws {RangeError} when two methods have one path, or a limit is not a number above 0 */
  constructor(methods: readonly UnaryMethod[], options: UnaryServerOptions) {
    const limits = { ...DEFAULT_LIMITS, ...options.limits };
    for (const [name, value] of Object.entries(limits)) {
      if (!(value > 0)) throw new RangeError(`${name} must be above 0, got ${value}`);
    }
    const byPath = new Map(methods.map((method) => [method.path, method]));
    if (byPath.size !== methods.length) throw new RangeError("two methods have one path");
    this.context = {
      methods: byPath,
      limits,
      onError: quiet(options.onError),
      onRefused: quiet(options.onRefused ?? (() => {})),
      now: options.now ?? (() => performance.now()),
    };
    // Often enough for the shortest time limit, and never so often that it costs anything.
    const shortest = Math.min(limits.prefaceMsMax, limits.frameMsMax, limits.bodyMsMax, limits.unsentMsMax);
    this.sweepMs = Math.min(1000, Math.max(20, shortest / 4));
    this.server = createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true }, (socket) =>
      this.accept(socket),
    );
  }

  /** Open sockets. */
  get connections(): number {
    return this.open.size;
  }

  /** Calls not yet answered in full. */
  get openStreams(): number {
    let count = 0;
    for (const connection of this.open) count += connection.openStreams;
    return count;
  }

  /**
   * @param address `HOST:PORT` (`[HOST]:PORT` for IPv6; port 0 for any free one) or `unix:PATH`
   * @returns the same with the real port
   * @throws {Error} when the address is not of that form, or cannot be listened on
   */
  async listen(address: string): Promise<string> {
    const where = parseAddress(address);
    await new Promise<void>((resolve, reject) => {
      this.server.once("error", reject);
      this.server.listen({ ...where, backlog: LISTEN_BACKLOG }, () => {
        this.server.off("error", reject);
        // Trouble of accepting (no file descriptors left, say) costs a connection, not the server.
        this.server.on("error", this.context.onError);
        resolve();
      });
    });
    this.sweptMs = this.context.now();
    this.sweeper = setInterval(() => this.sweep(), this.sweepMs).unref();
    const bound = this.server.address();
    if (bound === null || typeof bound === "string") return address;
    return address.replace(/:\d+$/, `:${bound.port}`);
  }

  /** Takes no new calls, answers those that are open, and cuts what is left after `timeoutMs`. */
  async close(timeoutMs: number): Promise<void> {
    if (this.closing) return;
    this.closing = true;
    this.server.close();
    for (const connection of [...this.open]) connection.drain();
    if (this.open.size > 0) {
      await new Promise<void>((resolve) => {
        this.closed = resolve;
        // Need not keep the process alive: the connections do.
        setTimeout(resolve, timeoutMs).unref();
      });
    }
    for (const connection of [...this.open]) connection.destroy();
    clearInterval(this.sweeper);
  }

  private accept(socket: Socket): void {
    if (this.open.size >= this.context.limits.connectionsMax) {
      this.context.onRefused("connections");
      // It is being destroyed; how it dies is of no interest.
      socket.on("error", () => {});
      socket.destroy();
      return;
    }
    const connection = new Connection(socket, this.context);
    this.open.add(connection);
    socket.once("close", () => {
      this.open.delete(connection);
      if (this.open.size === 0) this.closed?.();
    });
    if (this.closing) connection.drain();
  }

  private sweep(): void {
    const nowMs = this.context.now();
    // After a pause of the whole process, clients' bytes may lie unread: their time is counted from the next sweep on.
    const late = nowMs - this.sweptMs > 3 * this.sweepMs;
    this.sweptMs = nowMs;
    if (late) return;
    for (const connection of [...this.open]) connection.sweep();
  }
}

/** Connections that wait to be accepted: an Envoy opens one per worker at once, load tools hundreds. */
const LISTEN_BACKLOG = 511;

function parseAddress(address: string): { path: string } | { host: string; port: number } {
  if (address.startsWith("unix:")) return { path: address.slice("unix:".length) };
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(address);
  if (match === null || Number(match[3]) > 65_535) {
    throw new Error(`expected HOST:PORT or unix:PATH, got ${JSON.stringify(address)}`);
  }
  return { host: match[1] ?? match[2] ?? "", port: Number(match[3]) };
}

/** What a caller's listener throws must not break a connection. */
function quiet<Argument>(listener: (argument: Argument) => void): (argument: Argument) => void {
  return (argument) => {
    try {
      listener(argument);
    } catch {
      // Fails open: the listener only counts or logs, and there is nobody left to tell.
    }
  };
}
