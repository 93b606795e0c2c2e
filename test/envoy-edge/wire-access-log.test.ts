import { fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import t from "tap";
import { outcomesOf } from "../../src/envoy/access-log.ts";
import { StreamAccessLogsMessageSchema } from "../../src/gen/envoy/service/accesslog/v3/als_pb.ts";
import type { Outcome } from "../../src/model/facts.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { expectedOutcomes } from "../support/expected-outcomes.ts";
import { wireMessage } from "../support/wire-messages.ts";

const NOW = toEpochMs(1_000);
const TEXTS = {
  key: ["envoy.filters.http.ext_authz", "envoy.filters.network.ext_authz", "decision_id", "grpc-status"],
  value: ["0", "14", "x"],
  string_value: ["d-1", "d-2"],
  request_id: ["r-1", ""],
};

/** By the general decoder; `undefined` where it refuses. */
function decoded(bytes: Uint8Array): readonly Outcome[] | undefined {
  try {
    return expectedOutcomes(fromBinary(StreamAccessLogsMessageSchema, bytes), NOW);
  } catch {
    return undefined;
  }
}

t.test(
  "outcomes read from bytes are those of the general decoder, whatever order and number fields come in",
  async (t) => {
    const seen = { outcomes: 0, ids: 0, statuses: 0, durations: 0 };
    fc.assert(
      fc.property(wireMessage(StreamAccessLogsMessageSchema, { texts: TEXTS, broken: false }), (bytes) => {
        const expected = decoded(bytes);
        if (expected === undefined) return;
        t.strictSame(outcomesOf(bytes, NOW), expected);
        for (const { decisionId, grpcStatus, durationMs } of expected) {
          seen.outcomes++;
          if (decisionId !== undefined) seen.ids++;
          if (grpcStatus !== undefined) seen.statuses++;
          if (durationMs !== undefined) seen.durations++;
        }
      }),
      { numRuns: 1_000 },
    );
    for (const [what, count] of Object.entries(seen)) t.ok(count > 0, `${what} were compared`);
  },
);

t.test("bytes that are no message are refused or read, and never anything else", async (t) => {
  const message = wireMessage(StreamAccessLogsMessageSchema, { texts: TEXTS, broken: true });
  fc.assert(
    fc.property(message, fc.array(fc.tuple(fc.nat(), fc.nat(255))), fc.nat(), (bytes, changes, cut) => {
      const changed = Uint8Array.from(bytes);
      for (const [at, value] of changes) if (changed.length > 0) changed[at % changed.length] = value;
      const given = cut % 3 === 0 ? changed.subarray(0, cut % (changed.length + 1)) : changed;
      try {
        outcomesOf(given, NOW);
      } catch (error) {
        t.match(error, { name: /^(?:WireError|TypeError)$/ });
      }
    }),
    { numRuns: 1_000 },
  );
});
