import type { handleUnaryCall, ServerUnaryCall } from "@grpc/grpc-js";
import t from "tap";
import { unaryService } from "../../src/envoy/service.ts";

t.test("an answer that the next call changes has been copied for the library", async (t) => {
  const answer = Buffer.alloc(5);
  const handle = (message: Uint8Array): Uint8Array => {
    answer.set(message);
    return answer;
  };
  const service = unaryService({ path: "/test.Echo/Call", handle }, (error) => t.error(error));
  const serve = service.implementation.method as handleUnaryCall<Buffer, Uint8Array>;
  const replies: Uint8Array[] = [];
  for (const text of ["first", "other"]) {
    const call = { request: Buffer.from(text), getDeadline: () => Infinity } as ServerUnaryCall<Buffer, Uint8Array>;
    serve(call, (_error, reply) => replies.push(reply as Uint8Array));
  }
  t.same(
    replies.map((reply) => Buffer.from(reply).toString()),
    ["first", "other"],
  );
});
