import { create, type JsonObject, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import t from "tap";
import { outcomesOf } from "../../src/envoy/access-log.ts";
import { AccessLogType, type HTTPAccessLogEntrySchema } from "../../src/gen/envoy/data/accesslog/v3/accesslog_pb.ts";
import { StreamAccessLogsMessageSchema } from "../../src/gen/envoy/service/accesslog/v3/als_pb.ts";
import { toEpochMs } from "../../src/model/units.ts";

type HttpEntry = MessageInitShape<typeof HTTPAccessLogEntrySchema>;

const NOW = toEpochMs(1_000);
const METADATA = { "envoy.filters.http.ext_authz": { decision_id: "d-1" } };

function http(
  entry: HttpEntry,
  type: AccessLogType = AccessLogType.DownstreamEnd,
  filterMetadata: Record<string, JsonObject> = METADATA,
) {
  const commonProperties = { accessLogType: type, metadata: { filterMetadata }, ...entry.commonProperties };
  const message = create(StreamAccessLogsMessageSchema, {
    logEntries: { case: "httpLogs", value: { logEntry: [{ ...entry, commonProperties }] } },
  } as MessageInitShape<typeof StreamAccessLogsMessageSchema>);
  return outcomesOf(toBinary(StreamAccessLogsMessageSchema, message), NOW);
}

function tcp(type: AccessLogType, decisionId: unknown = "d-2") {
  const filterMetadata = { "envoy.filters.network.ext_authz": { decision_id: decisionId } } as Record<
    string,
    JsonObject
  >;
  const message = create(StreamAccessLogsMessageSchema, {
    logEntries: {
      case: "tcpLogs",
      value: {
        logEntry: [
          {
            commonProperties: {
              accessLogType: type,
              metadata: { filterMetadata },
              duration: { seconds: 2n, nanos: 500_000_000 },
            },
            connectionProperties: { receivedBytes: 10n, sentBytes: 20n },
          },
        ],
      },
    },
  });
  return outcomesOf(toBinary(StreamAccessLogsMessageSchema, message), NOW);
}

t.test("a finished request tells status, sizes and duration under its decision", async (t) => {
  t.same(
    http({
      commonProperties: {
        accessLogType: AccessLogType.DownstreamEnd,
        metadata: { filterMetadata: METADATA },
        duration: { seconds: 1n, nanos: 250_000_000 },
      },
      request: { requestId: "r-1", requestBodyBytes: 5n },
      response: { responseCode: 404, responseBodyBytes: 7n },
    }),
    [
      {
        time: 1_000,
        decisionId: "d-1",
        requestId: "r-1",
        status: 404,
        grpcStatus: undefined,
        responseBytes: 7,
        requestBytes: 5,
        durationMs: 1_250,
        stage: "end",
      },
    ],
  );
});

t.test("a connection tells bytes both ways, as its client sees them", async (t) => {
  t.match(tcp(AccessLogType.TcpConnectionEnd), [
    { decisionId: "d-2", status: undefined, responseBytes: 20, requestBytes: 10, durationMs: 2_500, stage: "end" },
  ]);
});

const stages: { type: AccessLogType; http: string | undefined }[] = [
  { type: AccessLogType.NotSet, http: "end" },
  { type: AccessLogType.DownstreamEnd, http: "end" },
  { type: AccessLogType.TcpConnectionEnd, http: "end" },
  { type: AccessLogType.DownstreamPeriodic, http: "periodic" },
  { type: AccessLogType.TcpPeriodic, http: "periodic" },
  { type: AccessLogType.DownstreamStart, http: undefined },
  { type: AccessLogType.TcpConnectionStart, http: undefined },
  { type: AccessLogType.TcpUpstreamConnected, http: undefined },
  { type: AccessLogType.UpstreamEnd, http: undefined },
  { type: AccessLogType.UpstreamPoolReady, http: undefined },
  { type: AccessLogType.DownstreamTunnelSuccessfullyEstablished, http: undefined },
  { type: 99 as AccessLogType, http: undefined },
];
const NAMES = new Map<AccessLogType, string>(Object.entries(AccessLogType).map(([name, type]) => [type, name]));
for (const { type, http: want } of stages) {
  t.test(`${NAMES.get(type) ?? "a type of the future"} is ${want ?? "no outcome"}`, async (t) => {
    t.equal(http({}, type)[0]?.stage, want);
    t.equal(tcp(type)[0]?.stage, want);
  });
}

t.test("a gRPC status is read from the trailers, or from the headers of an answer without any", async (t) => {
  const status = (response: NonNullable<HttpEntry["response"]>) => http({ response })[0]?.grpcStatus;
  t.equal(status({ responseTrailers: { "grpc-status": "5" } }), 5);
  t.equal(status({ responseHeaders: { "grpc-status": "16" } }), 16);
  t.equal(status({ responseHeaders: { "grpc-status": "0" }, responseTrailers: { "grpc-status": "13" } }), 13);
  for (const text of ["", "-1", "100", "OK", "1e1"]) {
    t.equal(status({ responseTrailers: { "grpc-status": text } }), undefined, JSON.stringify(text));
  }
});

t.test("what is missing or senseless is not told", async (t) => {
  t.match(http({}, AccessLogType.DownstreamEnd, {}), [
    { decisionId: undefined, requestId: undefined, status: undefined, responseBytes: undefined, durationMs: undefined },
  ]);
  t.equal(tcp(AccessLogType.TcpConnectionEnd, 17)[0]?.decisionId, undefined);
  t.equal(http({ response: { responseBodyBytes: 2n ** 60n } })[0]?.responseBytes, undefined);
  t.equal(
    http({}, AccessLogType.DownstreamEnd, { "envoy.filters.network.ext_authz": { decision_id: "x" } })[0]?.decisionId,
    undefined,
  );
  t.same(outcomesOf(new Uint8Array(0), NOW), []);
});
