/** The gRPC services that Envoy calls, in grpc-js's terms. */

import { create, type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import {
  type handleClientStreamingCall,
  type handleUnaryCall,
  type MethodDefinition,
  type ServiceDefinition,
  status,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import {
  type StreamAccessLogsMessage,
  StreamAccessLogsMessageSchema,
  type StreamAccessLogsResponse,
  StreamAccessLogsResponseSchema,
} from "../gen/envoy/service/accesslog/v3/als_pb.ts";

export interface GrpcService {
  readonly definition: ServiceDefinition;
  readonly implementation: UntypedServiceImplementation;
  /** Ends calls that would go on for ever; set where there are any. */
  readonly endStreams?: () => void;
}

/**
 * `envoy.service.auth.v3.Authorization`, by bytes: messages in and out are not decoded here.
 * @param check bytes of a CheckRequest to bytes of a CheckResponse; may answer at once or later; when it fails, Envoy's
 *   `failure_mode_allow` decides
 * @param onError told of every failure; the caller learns only that there was one
 */
export function authorizationService(
  check: (message: Uint8Array) => Uint8Array | Promise<Uint8Array>,
  onError: (error: unknown) => void,
): GrpcService {
  const handle: handleUnaryCall<Buffer, Uint8Array> = (call, reply) => {
    const fail = (error: unknown): void => {
      onError(error);
      reply({ code: status.INTERNAL, details: "check failed" });
    };
    try {
      const answer = check(call.request);
      if (answer instanceof Promise) answer.then((response) => reply(null, response), fail);
      else reply(null, answer);
    } catch (error) {
      fail(error); // Envoy's failure_mode_allow decides
    }
  };
  return {
    definition: { check: CHECK },
    implementation: { check: handle },
  };
}

const CHECK: MethodDefinition<Buffer, Uint8Array> = {
  path: "/envoy.service.auth.v3.Authorization/Check",
  requestStream: false,
  responseStream: false,
  requestSerialize: (message) => message,
  requestDeserialize: (bytes) => bytes,
  responseSerialize: (message) =>
    Buffer.isBuffer(message) ? message : Buffer.from(message.buffer, message.byteOffset, message.byteLength),
  responseDeserialize: (bytes) => bytes,
};

/**
 * `envoy.service.accesslog.v3.AccessLogService`.
 * @param take told of every message; what it throws ends nothing
 */
export function accessLogService(
  take: (message: StreamAccessLogsMessage) => void,
  onError: (error: unknown) => void,
): GrpcService {
  const open = new Set<() => void>();
  const handle: handleClientStreamingCall<StreamAccessLogsMessage, StreamAccessLogsResponse> = (call, reply) => {
    const end = (): void => {
      if (open.delete(end)) reply(null, create(StreamAccessLogsResponseSchema));
    };
    open.add(end);
    call.on("data", (message: StreamAccessLogsMessage) => {
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
      streamAccessLogs: method(
        "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
        StreamAccessLogsMessageSchema,
        StreamAccessLogsResponseSchema,
        true,
      ),
    },
    implementation: { streamAccessLogs: handle },
    endStreams: () => {
      for (const end of [...open]) end();
    },
  };
}

function method<Request extends DescMessage, Response extends DescMessage>(
  path: string,
  request: Request,
  response: Response,
  requestStream: boolean,
): MethodDefinition<MessageShape<Request>, MessageShape<Response>> {
  return {
    path,
    requestStream,
    responseStream: false,
    requestSerialize: (message) => Buffer.from(toBinary(request, message)),
    requestDeserialize: (bytes) => fromBinary(request, bytes, { readUnknownFields: false }),
    responseSerialize: (message) => Buffer.from(toBinary(response, message)),
    responseDeserialize: (bytes) => fromBinary(response, bytes),
  };
}
