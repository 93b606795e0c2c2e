import { create, fromBinary, type JsonObject, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import t from "tap";
import { readProcessing, writeContinue, writeEnd } from "../../src/envoy/wire-processing.ts";
import {
  ProcessingRequestSchema,
  ProcessingResponseSchema,
} from "../../src/gen/envoy/service/ext_proc/v3/external_processor_pb.ts";
import { StatusCode } from "../../src/gen/envoy/type/v3/http_status_pb.ts";

const OURS = "envoy.filters.http.ext_authz";

function encoded(request: MessageInitShape<typeof ProcessingRequestSchema>): Uint8Array {
  return toBinary(ProcessingRequestSchema, create(ProcessingRequestSchema, request));
}

const headers = { headers: { headers: [{ key: ":path", value: "/a" }] }, endOfStream: true };

t.test("what came, and the verdict's id, are read as the library reads them", async (t) => {
  const part = fc.constantFrom<MessageInitShape<typeof ProcessingRequestSchema>["request"]>(
    { case: undefined },
    { case: "requestHeaders", value: headers },
    { case: "responseHeaders", value: headers },
    { case: "requestTrailers", value: { trailers: headers.headers } },
    { case: "responseTrailers", value: {} },
  );
  const filter = fc.constantFrom(OURS, "envoy.filters.http.jwt_authn", "");
  const struct = fc.dictionary(
    fc.constantFrom("decision_id", "score", "other"),
    fc.oneof(fc.string(), fc.double({ noNaN: true, noDefaultInfinity: true }), fc.constant(null), fc.constant(["a"])),
  );
  const metadata = fc.option(fc.dictionary(filter, struct), { nil: undefined });
  fc.assert(
    fc.property(part, metadata, (request, filterMetadata) => {
      const given = filterMetadata as Record<string, JsonObject> | undefined;
      const bytes = encoded({
        ...(request === undefined ? {} : { request }),
        ...(given === undefined ? {} : { metadataContext: { filterMetadata: given } }),
      });
      const message = fromBinary(ProcessingRequestSchema, bytes);
      const id = message.metadataContext?.filterMetadata[OURS]?.decision_id;
      t.same(readProcessing(bytes), { part: message.request.case, decisionId: typeof id === "string" ? id : "" });
    }),
  );
});

t.test("the last of several parts counts, and a body is none that was asked for", async (t) => {
  const [first, second] = [
    encoded({ request: { case: "requestHeaders", value: headers } }),
    encoded({ request: { case: "responseHeaders", value: {} } }),
  ];
  t.equal(readProcessing(Buffer.concat([first, second])).part, "responseHeaders");
  const body = Buffer.of(0x22, 0);
  t.equal(readProcessing(body).part, undefined);
  t.equal(readProcessing(Buffer.concat([first, body])).part, undefined);
});

t.test("bytes that end too early are refused", async (t) => {
  const bytes = encoded({
    request: { case: "requestHeaders", value: headers },
    metadataContext: { filterMetadata: { [OURS]: { decision_id: "d-1" } } },
  });
  t.equal(readProcessing(bytes).decisionId, "d-1");
  for (const length of [1, 2, bytes.length - 40, bytes.length - 1]) {
    t.throws(() => readProcessing(bytes.subarray(0, length)), `of ${bytes.length} bytes, ${length}`);
  }
});

t.test("answers are written as the library writes them", async (t) => {
  const written = (response: MessageInitShape<typeof ProcessingResponseSchema>): Buffer =>
    Buffer.from(toBinary(ProcessingResponseSchema, create(ProcessingResponseSchema, response)));
  const pass = writeContinue();
  for (const part of ["requestHeaders", "responseHeaders", "requestTrailers", "responseTrailers"] as const) {
    t.same(pass[part], written({ response: { case: part, value: {} } }), part);
  }
  t.same(
    writeEnd("sallyport_terminated"),
    written({
      response: {
        case: "immediateResponse",
        value: { status: { code: StatusCode.Forbidden }, grpcStatus: { status: 7 }, details: "sallyport_terminated" },
      },
    }),
  );
});
