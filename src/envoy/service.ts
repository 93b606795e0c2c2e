/** The gRPC services that Envoy calls, in grpc-js's terms. */

import type {
  Deadline,
  handleClientStreamingCall,
  handleUnaryCall,
  MethodDefinition,
  ServiceDefinition,
  UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { GrpcFailure, type UnaryMethod } from "../transport/unary.ts";

export interface GrpcService {
  readonly definition: ServiceDefinition;
  readonly implementation: UntypedServiceImplementation;
  /** Ends calls that would go on for ever; set where there are any. */
  readonly endStreams?: () => void;
}

/** google.rpc.Code */
const INTERNAL = 13;

/** Path of `envoy.service.auth.v3.Authorization/Check`. */
export const CHECK_PATH = "/envoy.service.auth.v3.Authorization/Check";

/**
 * A unary method for grpc-js.
 * @param onError told of every failure that the method did not mean; the caller learns only that there was one
 */
export function unaryService({ path, handle }: UnaryMethod, onError: (error: unknown) => void): GrpcService {
  const serve: handleUnaryCall<Buffer, Uint8Array> = (call, reply) => {
    const fail = (error: unknown): void => {
      if (error instanceof GrpcFailure) {
        reply({ code: error.code, details: error.message });
        return;
      }
      onError(error);
      reply({ code: INTERNAL, details: "the call failed" });
    };
    try {
      const answer = handle(call.request, timeoutOf(call.getDeadline()));
      if (answer instanceof Promise) answer.then((response) => reply(null, response), fail);
      // A copy: the next call may change it, and when the library has sent it is not ours to know.
      else reply(null, Buffer.from(answer));
    } catch (error) {
      fail(error); // Envoy's failure_mode_allow decides
    }
  };
  const definition: MethodDefinition<Buffer, Uint8Array> = {
    path,
    requestStream: false,
    responseStream: false,
    requestSerialize: (message) => message,
    requestDeserialize: (bytes) => bytes,
    responseSerialize: (message) => Buffer.from(message.buffer, message.byteOffset, message.byteLength),
    responseDeserialize: (bytes) => bytes,
  };
  return { definition: { method: definition }, implementation: { method: serve } };
}

/** @returns milliseconds that are left; `undefined`: no deadline */
function timeoutOf(deadline: Deadline): number | undefined {
  const left = Number(deadline) - Date.now();
  return Number.isFinite(left) ? left : undefined;
}

/**
 * `envoy.service.accesslog.v3.AccessLogService`, by bytes.
 * @param read reads one message; what it throws ends the stream with an error, and Envoy opens a new one
 * @param take told of every message; what it throws ends nothing
 */
export function accessLogService<Message>(
  read: (bytes: Uint8Array) => Message,
  take: (message: Message) => void,
  onError: (error: unknown) => void,
): GrpcService {
  const open = new Set<() => void>();
  const handle: handleClientStreamingCall<Message, Uint8Array> = (call, reply) => {
    const end = (): void => {
      if (open.delete(end)) reply(null, STREAM_ACCESS_LOGS_RESPONSE);
    };
    open.add(end);
    call.on("data", (message: Message) => {
      try {
        take(message);
      } catch (error) {
        onError(error); // one bad entry must not end the stream
      }
    });
    call.on("error", () => open.delete(end)); // Envoy went away: it opens a new stream when it is back
    call.on("cancelled", () => open.delete(end));
    call.on("end", end);
  };
  return {
    definition: {
      streamAccessLogs: {
        path: "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
        requestStream: true,
        responseStream: false,
        requestSerialize: () => Buffer.alloc(0), // servers write none
        requestDeserialize: read,
        responseSerialize: (bytes: Uint8Array) => Buffer.from(bytes),
        responseDeserialize: (bytes) => bytes,
      },
    },
    implementation: { streamAccessLogs: handle },
    endStreams: () => {
      for (const end of [...open]) end();
    },
  };
}

/** A message without fields. */
const STREAM_ACCESS_LOGS_RESPONSE = new Uint8Array(0);
