import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";
import t from "tap";
import { writeErrorStatus } from "../../src/envoy/grpc-status.ts";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";

t.test("a status is written as the library writes it", async (t) => {
  const filled = fc.string({ unit: "grapheme", minLength: 1 });
  const metadata = fc.dictionary(fc.stringMatching(/^[a-z_]{1,12}$/), fc.string({ unit: "grapheme", maxLength: 200 }));
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 16 }),
      fc.string({ unit: "grapheme", maxLength: 300 }),
      filled,
      filled,
      metadata,
      (code, message, reason, domain, metadata) => {
        const info = create(ErrorInfoSchema, { reason, domain, metadata });
        const status = create(StatusSchema, { code, message, details: [anyPack(ErrorInfoSchema, info)] });
        t.same(
          writeErrorStatus({ code, message, reason, domain, metadata: { ...metadata } }),
          Buffer.from(toBinary(StatusSchema, status)),
        );
      },
    ),
  );
  t.equal(
    fromBinary(StatusSchema, writeErrorStatus({ code: 7, message: "", reason: "A", domain: "b", metadata: {} }))
      .message,
    "",
  );
});
