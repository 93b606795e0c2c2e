/** Where Check calls arrive: on a server of our own where Envoy is beside us, on the library elsewhere. */

import { chmodSync } from "node:fs";
import { unaryService } from "../envoy/service.ts";
import { OperatingError } from "../model/errors.ts";
import { UnaryServer } from "../transport/server.ts";
import { GrpcFailure, type UnaryMethod } from "../transport/unary.ts";
import { GrpcListener, removeDeadSocket } from "./grpc.ts";
import { HEALTH_CHECK_PATH, Health } from "./grpc-health.ts";

/** One address that is served. */
export interface Listener {
  /** The address in use, with the real port where 0 was asked for. */
  readonly boundAddress: string;
  /** @throws {OperatingError} ERR_LISTEN */
  listen(): Promise<void>;
  /** What health checks are told. */
  setServing(serving: boolean): void;
  /** Connections that are open; `undefined` where that is not known. */
  readonly connections?: number;
  /** Takes no new calls and waits for the others; cuts what is left after `timeoutMs`. */
  close(timeoutMs: number): Promise<void>;
}

export interface CheckListenerOptions {
  /** `HOST:PORT` or `unix:PATH` */
  readonly address: string;
  readonly transport: "auto" | "grpc-js";
  readonly check: UnaryMethod;
  /** Told of every call that failed without meaning to. */
  readonly onError: (error: unknown) => void;
  /** Told of every connection that was ended for what it did, by a reason out of a small fixed set. */
  readonly onRefused: (reason: string) => void;
}

export function checkListener(options: CheckListenerOptions): Listener {
  const { address, transport, check, onError } = options;
  if (transport === "auto" && isLocal(address)) return new LocalListener(options);
  return new GrpcListener(address, [unaryService(check, onError)]);
}

/** Whether only this pod reaches an address. */
function isLocal(address: string): boolean {
  return address.startsWith("unix:") || /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\]):\d+$/.test(address);
}

class LocalListener implements Listener {
  private readonly address: string;
  private readonly server: UnaryServer;
  private readonly health = new Health();
  private bound = "";

  constructor({ address, check, onError, onRefused }: CheckListenerOptions) {
    this.address = address;
    const health: UnaryMethod = { path: HEALTH_CHECK_PATH, handle: (message) => this.checkHealth(message) };
    this.server = new UnaryServer([check, health], { onError, onRefused });
  }

  get boundAddress(): string {
    return this.bound;
  }

  get connections(): number {
    return this.server.connections;
  }

  async listen(): Promise<void> {
    const { address } = this;
    const socket = address.startsWith("unix:") ? address.slice("unix:".length) : undefined;
    if (socket !== undefined) removeDeadSocket(socket);
    try {
      this.bound = await this.server.listen(address);
    } catch (cause) {
      throw new OperatingError("ERR_LISTEN", `cannot listen on ${address}: ${(cause as Error).message}`, { cause });
    }
    // Envoy may run as another user of the same pod.
    if (socket !== undefined) chmodSync(socket, 0o666);
  }

  setServing(serving: boolean): void {
    this.health.setServing(serving);
  }

  close(timeoutMs: number): Promise<void> {
    return this.server.close(timeoutMs);
  }

  private checkHealth(message: Uint8Array): Uint8Array {
    const answer = this.health.check(message);
    if (answer === undefined) throw new GrpcFailure(NOT_FOUND, "unknown service");
    return answer;
  }
}

/** google.rpc.Code */
const NOT_FOUND = 5;
