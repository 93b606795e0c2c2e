/**
 * Where Envoy's long calls arrive. The library that serves them is a tenth of all that a start loads, and no check waits for
 * it: the address is taken at once, and the library is loaded shortly after checks are answered, when few of them have come
 * yet. Who connects before that waits as long as it takes.
 */

import { createServer, isIP, type Server, type Socket } from "node:net";
import { listenOn } from "../console/listen.ts";
import type { GrpcService } from "../envoy/service.ts";
import type { Listener } from "./check-listener.ts";
import type { GrpcListener } from "./grpc.ts";

/**
 * How long after the start the library is loaded. That takes the thread for some fifty milliseconds: whoever waits to hear
 * that all is ready hears it first.
 */
const LOAD_AFTER_MS = 100;

interface Loaded {
  readonly listener: GrpcListener;
  /** Serves a connection that was accepted here; `undefined`: the library listens itself. */
  readonly serve: ((socket: Socket) => void) | undefined;
}

export class StreamsListener implements Listener {
  private readonly address: string;
  private readonly services: readonly GrpcService[];
  private readonly onError: (error: unknown) => void;
  private readonly server: Server;
  /** Connections that wait for the library. */
  private readonly waiting = new Set<Socket>();
  private loading: Promise<Loaded> | undefined;
  private loaded: Loaded | undefined;
  private serving = false;
  private soon: NodeJS.Timeout | undefined;
  private closed = false;
  private bound = "";

  /**
   * @param address `HOST:PORT` or `unix:PATH`
   * @param services served beside `grpc.health.v1.Health`
   * @param onError told when the library cannot be loaded
   */
  constructor(address: string, services: readonly GrpcService[], onError: (error: unknown) => void) {
    this.address = address;
    this.services = services;
    this.onError = onError;
    this.server = createServer({ noDelay: true, pauseOnConnect: true }, (socket) => this.accept(socket));
  }

  get boundAddress(): string {
    return this.bound;
  }

  /** @throws {OperatingError} ERR_LISTEN */
  async listen(): Promise<void> {
    if (isOne(this.address)) {
      // Envoy may run as another user of the same pod.
      this.bound = await listenOn(this.server, this.address, 0o666);
      return;
    }
    // A name may stand for several addresses: the library listens on all of them.
    const { listener } = await this.load();
    await listener.listen();
    this.bound = listener.boundAddress;
  }

  setServing(serving: boolean): void {
    this.serving = serving;
    this.loaded?.listener.setServing(serving);
    clearTimeout(this.soon);
    if (serving) this.soon = setTimeout(() => this.warm(), LOAD_AFTER_MS).unref();
  }

  async close(timeoutMs: number): Promise<void> {
    this.closed = true;
    clearTimeout(this.soon);
    this.server.close();
    for (const socket of this.waiting) socket.destroy();
    await this.loaded?.listener.close(timeoutMs);
  }

  private accept(socket: Socket): void {
    if (this.loaded?.serve !== undefined) {
      this.loaded.serve(socket);
      return;
    }
    this.waiting.add(socket);
    socket.on("error", () => socket.destroy()); // whoever connected has left: nobody is waiting
    this.warm();
  }

  /** Loads the library, and serves those who wait for it. */
  private warm(): void {
    this.load().then(
      ({ serve }) => {
        for (const socket of this.waiting) if (!socket.destroyed) serve?.(socket);
        this.waiting.clear();
      },
      (error: unknown) => {
        // Checks are answered all the same; who connects next has it tried again.
        this.onError(error);
        this.loading = undefined;
        for (const socket of this.waiting) socket.destroy();
        this.waiting.clear();
      },
    );
  }

  private load(): Promise<Loaded> {
    this.loading ??= import("./grpc.ts").then(({ GrpcListener }) => {
      const listener = new GrpcListener(this.address, this.services);
      listener.setServing(this.serving);
      const loaded = { listener, serve: isOne(this.address) ? listener.connections() : undefined };
      if (!this.closed) this.loaded = loaded;
      return loaded;
    });
    return this.loading;
  }
}

/** Whether an address is one socket's, and no name that may stand for several. */
function isOne(address: string): boolean {
  if (address.startsWith("unix:")) return true;
  return isIP(address.slice(0, address.lastIndexOf(":")).replace(/^\[|\]$/g, "")) !== 0;
}
