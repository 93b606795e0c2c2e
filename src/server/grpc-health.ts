/** `grpc.health.v1.Health` by bytes: its messages are a name and a number, which need no library. */

import type { handleServerStreamingCall, handleUnaryCall, MethodDefinition } from "@grpc/grpc-js";
import type { GrpcService } from "../envoy/service.ts";

/** Name of the service for health checks. */
export const AUTHORIZATION = "envoy.service.auth.v3.Authorization";

export const HEALTH_CHECK_PATH = "/grpc.health.v1.Health/Check";

/** google.rpc.Code */
const NOT_FOUND = 5;

/** HealthCheckResponse: its status in field 1. */
const SERVING = Buffer.of(0x08, 1);
const NOT_SERVING = Buffer.of(0x08, 2);
const SERVICE_UNKNOWN = Buffer.of(0x08, 3);

/** What health checks of one address are told: of the address as a whole (`""`) and of Envoy's service alike. */
export class Health {
  private answer = NOT_SERVING;
  /** Of calls to Watch, those for a service that is known. */
  private readonly watchers = new Set<(answer: Buffer) => void>();

  setServing(serving: boolean): void {
    this.answer = serving ? SERVING : NOT_SERVING;
    for (const tell of this.watchers) tell(this.answer);
  }

  /**
   * @param message a HealthCheckRequest
   * @returns a HealthCheckResponse; `undefined`: not of a service that is known
   */
  check(message: Uint8Array): Buffer | undefined {
    return isKnown(message) ? this.answer : undefined;
  }

  /** The service for grpc-js, with every method that it has (grpc/health/v1/health.proto). */
  service(): GrpcService {
    const check: handleUnaryCall<Buffer, Buffer> = (call, reply) => {
      const answer = this.check(call.request);
      if (answer === undefined) reply({ code: NOT_FOUND, details: "unknown service" });
      else reply(null, answer);
    };
    const list: handleUnaryCall<Buffer, Buffer> = (_call, reply) => reply(null, listOf(this.answer));
    const watch: handleServerStreamingCall<Buffer, Buffer> = (call) => {
      const answer = this.check(call.request);
      // The call stays open either way: a service may come to be known.
      call.write(answer ?? SERVICE_UNKNOWN);
      if (answer === undefined) return;
      const tell = (next: Buffer): void => void call.write(next);
      this.watchers.add(tell);
      call.on("cancelled", () => this.watchers.delete(tell));
    };
    return {
      definition: {
        check: { ...RAW, path: HEALTH_CHECK_PATH, responseStream: false },
        list: { ...RAW, path: "/grpc.health.v1.Health/List", responseStream: false },
        watch: { ...RAW, path: "/grpc.health.v1.Health/Watch", responseStream: true },
      },
      implementation: { check, list, watch },
    };
  }
}

const same = (bytes: Buffer): Buffer => bytes;
const RAW: Omit<MethodDefinition<Buffer, Buffer>, "path" | "responseStream"> = {
  requestStream: false,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
};

/** A HealthCheckRequest names a service in field 1, or none. */
function isKnown(message: Uint8Array): boolean {
  if (message.length === 0) return true;
  if (message[0] !== 0x0a || message[1] !== message.length - 2) return false;
  const service = Buffer.from(message.subarray(2)).toString();
  return service === "" || service === AUTHORIZATION;
}

/** HealthListResponse: a map in field 1 of names to HealthCheckResponses; all of it is shorter than 128 bytes. */
function listOf(answer: Buffer): Buffer {
  const entries = ["", AUTHORIZATION].map((service) => {
    const name = Buffer.from(service);
    return Buffer.concat([Buffer.of(0x0a, name.length), name, Buffer.of(0x12, answer.length), answer]);
  });
  return Buffer.concat(entries.flatMap((entry) => [Buffer.of(0x0a, entry.length), entry]));
}
