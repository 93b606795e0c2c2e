/** The bare server to be compared with: answers OK to every check; with `decode` it reads the request first. */

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Server, ServerCredentials } from "@grpc/grpc-js";

// The same generated code as the sidecar's, compiled in the same way.
const built = new URL("../../dist/gen/envoy/service/auth/v3/external_auth_pb.js", import.meta.url).href;
const { CheckRequestSchema, CheckResponseSchema } = (await import(
  built
)) as typeof import("../../src/gen/envoy/service/auth/v3/external_auth_pb.ts");

const decodes = process.argv.includes("decode");
const OK = Buffer.from(toBinary(CheckResponseSchema, create(CheckResponseSchema, { status: { code: 0 } })));
const asIs = (bytes: Buffer): Buffer => bytes;

const server = new Server({ "grpc.max_concurrent_streams": 8192 });
server.addService(
  {
    check: {
      path: "/envoy.service.auth.v3.Authorization/Check",
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
server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (_error, port) => {
  console.log(JSON.stringify({ extAuthz: `127.0.0.1:${port}` }));
});
