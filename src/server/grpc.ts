/** The gRPC library's server: access logs, held streams and reflection; Check calls where others than this pod reach it. */

import { chmodSync } from "node:fs";
import type { Socket } from "node:net";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { removeDeadSocket } from "../console/listen.ts";
import type { GrpcService } from "../envoy/service.ts";
import { OperatingError } from "../model/errors.ts";
import { Health } from "./grpc-health.ts";

/** Envoy's largest CheckRequest: its headers (60 KiB) twice encoded, a certificate, and what body a filter adds. */
const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;

/** One listener on grpc-js; its services can be told apart by what serves them, and stopped on their own. */
export class GrpcListener {
  readonly address: string;
  private readonly server = new Server({
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
    "grpc.max_concurrent_streams": 8192,
  });
  private readonly health = new Health();
  private readonly services: readonly GrpcService[];
  private bound = "";

  /**
   * @param address `HOST:PORT` or `unix:PATH`
   * @param services served beside `grpc.health.v1.Health`
   */
  constructor(address: string, services: readonly GrpcService[]) {
    this.address = address;
    this.services = services;
    for (const { definition, implementation } of [...services, this.health.service()]) {
      this.server.addService(definition, implementation);
    }
  }

  /** The address in use, with the real port where 0 was asked for. */
  get boundAddress(): string {
    return this.bound;
  }

  /** @throws {OperatingError} ERR_LISTEN */
  async listen(): Promise<void> {
    if (this.address.startsWith("unix:")) removeDeadSocket(this.address.slice("unix:".length));
    const port = await new Promise<number>((resolve, reject) => {
      this.server.bindAsync(this.address, ServerCredentials.createInsecure(), (error, bound) => {
        if (error === null) resolve(bound);
        else
          reject(
            new OperatingError("ERR_LISTEN", `cannot listen on ${this.address}: ${error.message}`, { cause: error }),
          );
      });
    });
    this.bound = this.address.startsWith("unix:") ? this.address : this.address.replace(/:\d+$/, `:${port}`);
    // Envoy may run as another user of the same pod.
    if (this.address.startsWith("unix:")) chmodSync(this.address.slice("unix:".length), 0o666);
  }

  /** For a listener of somebody else's: serves the connections that it is given, paused as they are. Instead of {@link listen}. */
  connections(): (socket: Socket) => void {
    const injector = this.server.createConnectionInjector(ServerCredentials.createInsecure());
    return (socket) => {
      injector.injectConnection(socket);
      socket.resume(); // once it is the library's, which reads it from below
    };
  }

  setServing(serving: boolean): void {
    this.health.setServing(serving);
  }

  /** Takes no new calls, ends endless ones, and waits for the others; cuts what is left after `timeoutMs`. */
  async close(timeoutMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        this.server.forceShutdown();
        resolve();
      }, timeoutMs);
      this.server.tryShutdown(() => {
        clearTimeout(timer);
        resolve();
      });
      for (const { endStreams } of this.services) endStreams?.();
    });
  }
}
