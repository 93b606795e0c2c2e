/** Stands in for the sidecar's streams address and keeps the exact bytes of the access log that Envoy sends. */

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type handleClientStreamingCall, Server, ServerCredentials } from "@grpc/grpc-js";
import type { Bootstrap } from "../../scripts/run-envoy.ts";
import {
  type StreamAccessLogsMessage,
  StreamAccessLogsMessageSchema,
  StreamAccessLogsResponseSchema,
} from "../../src/gen/envoy/service/accesslog/v3/als_pb.ts";

export interface LogRecorder {
  /** Every message so far, as it was on the wire. */
  readonly bytes: readonly Buffer[];
  /** The same, read with our own subset of Envoy's messages. */
  messages(): readonly StreamAccessLogsMessage[];
  /** Sends Envoy's access log here. */
  readonly redirect: (bootstrap: Bootstrap) => void;
  close(): void;
}

export async function recordLogs(): Promise<LogRecorder> {
  const bytes: Buffer[] = [];
  const server = new Server();
  const raw = (given: Buffer): Buffer => given;
  const take: handleClientStreamingCall<Buffer, Buffer> = (call, reply) => {
    call.on("data", (message: Buffer) => bytes.push(message));
    call.on("end", () =>
      reply(null, Buffer.from(toBinary(StreamAccessLogsResponseSchema, create(StreamAccessLogsResponseSchema)))),
    );
    call.on("error", () => {}); // Envoy ended
  };
  server.addService(
    {
      stream: {
        path: "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
        requestStream: true,
        responseStream: false,
        requestSerialize: raw,
        requestDeserialize: raw,
        responseSerialize: raw,
        responseDeserialize: raw,
      },
    },
    { stream: take },
  );
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  return {
    bytes,
    messages: () => bytes.map((message) => fromBinary(StreamAccessLogsMessageSchema, message)),
    redirect: ({ static_resources }) => {
      const streams = static_resources.clusters.find(({ name }) => name === "sallyport_streams");
      const [endpoint] = streams?.load_assignment.endpoints[0]?.lb_endpoints ?? [];
      if (endpoint === undefined) throw new RangeError("no cluster sallyport_streams");
      endpoint.endpoint.address = { socket_address: { address: "127.0.0.1", port_value: port } };
    },
    close: () => server.forceShutdown(),
  };
}
