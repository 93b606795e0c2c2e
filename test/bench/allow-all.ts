/**
 * Usage: tsx allow-all.ts grpc-js|grpc-js-decoding|http2   The servers to be compared with: they answer OK to every check.
 */

import { createServer, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { importBuilt } from "./built.ts";

// The same generated code as the sidecar's, compiled in the same way.
const [{ CheckRequestSchema, CheckResponseSchema }] = (await importBuilt(
  "gen/envoy/service/auth/v3/external_auth_pb",
)) as [typeof import("../../src/gen/envoy/service/auth/v3/external_auth_pb.ts")];

const PATH = "/envoy.service.auth.v3.Authorization/Check";
const STREAMS_MAX = 8_192;
const OK = Buffer.from(toBinary(CheckResponseSchema, create(CheckResponseSchema, { status: { code: 0 } })));

const kind = process.argv[2];
if (kind === "http2") serveHttp2();
else if (kind === "grpc-js" || kind === "grpc-js-decoding") serveGrpc(kind === "grpc-js-decoding");
else throw new Error(`expected grpc-js, grpc-js-decoding or http2, got ${kind}`);

/** The library's server, whose messages stay bytes or are decoded by the generated code. */
function serveGrpc(decodes: boolean): void {
  const asIs = (bytes: Buffer): Buffer => bytes;
  const server = new Server({ "grpc.max_concurrent_streams": STREAMS_MAX });
  server.addService(
    {
      check: {
        path: PATH,
        requestStream: false,
        responseStream: false,
        requestSerialize: asIs,
        requestDeserialize: asIs,
        responseSerialize: asIs,
        responseDeserialize: asIs,
      },
    },
    {
      check: (call: { request: Buffer }, reply: (error: null, answer: Buffer) => void) => {
        if (decodes) fromBinary(CheckRequestSchema, call.request);
        reply(null, OK);
      },
    },
  );
  server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (_error, port) => say(port));
}

/** Node's own HTTP/2 without a gRPC library: the message is received whole and not read. */
function serveHttp2(): void {
  const framed = Buffer.concat([Buffer.from([0, 0, 0, 0, OK.length]), OK]);
  const server = createServer({ settings: { maxConcurrentStreams: STREAMS_MAX } });
  server.on("stream", (stream: ServerHttp2Stream) => {
    stream.on("error", () => {}); // the caller is gone
    stream.resume();
    stream.on("end", () => {
      if (stream.destroyed) return;
      stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
      stream.end(framed);
    });
  });
  server.listen(0, "127.0.0.1", () => say((server.address() as AddressInfo).port));
}

function say(port: number): void {
  console.log(JSON.stringify({ extAuthz: `127.0.0.1:${port}` }));
}
