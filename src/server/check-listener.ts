/** Where Check calls arrive: on a server of our own where Envoy is beside us, on the library elsewhere. */

import { chmodSync } from "node:fs";
import { unaryService } from "../envoy/service.ts";
import { OperatingError } from "../model/errors.ts";
import { UnaryServer } from "../transport/server.ts";
import { GrpcFailure, type UnaryMethod } from "../transport/unary.ts";
import { AUTHORIZATION, GrpcListener, removeDeadSocket } from "./grpc.ts";

/** One address that is served. */
export interface Listener {
  /** The address in use, with the real port where 0 was asked for. */
  readonly boundAddress: string;
  /** @throws {OperatingError} ERR_LISTEN */
  listen(): Promise<void>;
  /** What health checks are told. */
  setServing(serving: boolean): void;
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
  return new GrpcListener(address, [unaryService(check, onError)], { reflection: false });
}

/** Whether only this pod reaches an address. */
function isLocal(address: string): boolean {
  return address.startsWith("unix:") || /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\]):\d+$/.test(address);
}

class LocalListener implements Listener {
  private readonly address: string;
  private readonly server: UnaryServer;
  private serving = false;
  private bound = "";

  constructor({ address, check, onError, onRefused }: CheckListenerOptions) {
    this.address = address;
    const health: UnaryMethod = { path: HEALTH_PATH, handle: (message) => this.health(message) };
    this.server = new UnaryServer([check, health], { onError, onRefused });
  }

  get boundAddress(): string {
    return this.bound;
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
    this.serving = serving;
  }

  close(timeoutMs: number): Promise<void> {
    return this.server.close(timeoutMs);
  }

  /** `grpc.health.v1.Health/Check`: a HealthCheckRequest names a service in field 1, or none. */
  private health(message: Uint8Array): Uint8Array {
    const service = message.length === 0 ? "" : Buffer.from(message.subarray(2)).toString();
    const known = message.length === 0 || (message[0] === 0x0a && message[1] === message.length - 2);
    if (!known || (service !== "" && service !== AUTHORIZATION)) throw new GrpcFailure(NOT_FOUND, "unknown service");
    return this.serving ? SERVING : NOT_SERVING;
  }
}

const HEALTH_PATH = "/grpc.health.v1.Health/Check";
const NOT_FOUND = 5;
/** HealthCheckResponse with its status, field 1. */
const SERVING = Uint8Array.of(0x08, 1);
const NOT_SERVING = Uint8Array.of(0x08, 2);
