import t from "tap";
import { outcomesOf } from "../../src/envoy/access-log.ts";
import { AccessLogType } from "../../src/gen/envoy/data/accesslog/v3/accesslog_pb.ts";
import type { Outcome } from "../../src/model/facts.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { reportOften, together } from "../support/bootstrap.ts";
import { fetchOnce, grpcClient, nodeClient, tlsConnection } from "../support/clients.ts";
import { eventually, startEcho, startGuarded, startInventory, startOrders } from "../support/guarded.ts";
import { type LogRecorder, recordLogs } from "../support/log-recorder.ts";

/** What our subset of Envoy's messages reads from the bytes of a real Envoy: numbers and types, not only names. */
const recorder = { http: await recordLogs(), grpc: await recordLogs(), tcp: await recordLogs() };
const [http, grpc, tcp] = await Promise.all([
  startGuarded({
    config: "envoy/http-mtls.yaml",
    service: startOrders,
    change: together(reportOften, recorder.http.redirect),
  }),
  startGuarded({
    config: "envoy/grpc.yaml",
    service: startInventory,
    change: together(reportOften, recorder.grpc.redirect),
  }),
  startGuarded({ config: "envoy/tcp.yaml", service: startEcho, change: together(reportOften, recorder.tcp.redirect) }),
]);
t.teardown(async () => {
  for (const guarded of [http, grpc, tcp]) await guarded.stop();
  for (const { close } of Object.values(recorder)) close();
});

const outcomes = (from: LogRecorder): readonly Outcome[] =>
  from.bytes.flatMap((message) => outcomesOf(message, toEpochMs(0)));

/** The first entry of a recorded log that fits; waited for. */
function httpEntry(from: LogRecorder, type: AccessLogType, status = 200) {
  return eventually(async () =>
    from
      .messages()
      .flatMap(({ logEntries }) => (logEntries.case === "httpLogs" ? logEntries.value.logEntry : []))
      .find(
        ({ commonProperties, response }) =>
          commonProperties?.accessLogType === type && (response?.responseCode ?? status) === status,
      ),
  );
}

function tcpEntry(type: AccessLogType) {
  return eventually(async () =>
    recorder.tcp
      .messages()
      .flatMap(({ logEntries }) => (logEntries.case === "tcpLogs" ? logEntries.value.logEntry : []))
      .find(({ commonProperties }) => commonProperties?.accessLogType === type),
  );
}

const UUID = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/;

t.test("an HTTP request tells everything under the ids that its check had", async (t) => {
  const before = Date.now();
  const answer = await fetchOnce(await http.caller("web"), {
    path: "/orders",
    method: "POST",
    body: '{"item": "egg", "quantity": 6}',
  });
  t.equal(answer.status, 201);
  const { headers } = http.service.received.at(-1)!;
  const {
    commonProperties: common,
    request,
    response,
  } = await httpEntry(recorder.http, AccessLogType.DownstreamEnd, 201);
  const metadata = common?.metadata?.filterMetadata["envoy.filters.http.ext_authz"];
  t.match(metadata, {
    decision: "allow",
    decision_id: headers["x-sallyport-decision-id"],
    principal: "spiffe://shop.example/web",
  });
  t.equal(request?.requestId, headers["x-request-id"]);
  t.equal(common?.streamId, headers["x-request-id"]);
  t.equal(Number(request?.requestBodyBytes), 30);
  t.equal(Number(response?.responseBodyBytes), answer.body.length);
  t.ok(Number(request?.requestHeadersBytes) > 100 && Number(response?.responseHeadersBytes) > 50);
  t.equal(response?.responseCodeDetails, "via_upstream");
  const startedMs = Number(common?.startTime?.seconds) * 1_000;
  t.ok(startedMs >= before - 1_000 && startedMs <= Date.now(), "in seconds of our time");
  const [outcome] = outcomes(recorder.http).filter(({ status }) => status === 201);
  t.match(outcome, {
    decisionId: headers["x-sallyport-decision-id"],
    requestId: headers["x-request-id"],
    status: 201,
    requestBytes: 30,
    responseBytes: answer.body.length,
    stage: "end",
  });
  t.ok(outcome?.durationMs !== undefined && outcome.durationMs > 0 && outcome.durationMs < 10_000);
});

t.test("a log begins with who writes it", async (t) => {
  const [first] = recorder.http.messages();
  t.match(first?.identifier, { logName: "sallyport", node: { id: "orders-1", cluster: "orders" } });
});

t.test("a long stream tells how much it sent while it runs, and once more at its end", async (t) => {
  const client = nodeClient(await http.caller("listener"));
  const response = await client.open({ path: "/stream" });
  response.on("error", () => {}); // cut below
  response.resume();
  const { commonProperties: common } = await httpEntry(recorder.http, AccessLogType.DownstreamPeriodic);
  t.match(common?.streamId, UUID);
  const id = common?.metadata?.filterMetadata["envoy.filters.http.ext_authz"]?.decision_id;
  const totals = await eventually(async () => {
    const periodic = outcomes(recorder.http).filter(
      ({ decisionId, stage }) => decisionId === id && stage === "periodic",
    );
    return periodic.length >= 3 ? periodic.map(({ responseBytes }) => responseBytes ?? 0) : undefined;
  });
  t.same(
    totals,
    [...totals].sort((a, b) => a - b),
    "totals, not differences",
  );
  t.ok((totals.at(-1) ?? 0) > (totals[0] ?? 0));
  client.close();
  response.destroy();
  await eventually(async () =>
    outcomes(recorder.http).find(({ decisionId, stage }) => decisionId === id && stage === "end"),
  );
});

t.test("a gRPC call tells its status from the trailers, a refusal and a missing thing alike", async (t) => {
  const client = grpcClient(await grpc.caller("web"));
  t.teardown(() => client.close());
  t.equal((await client.get("apple")).code, 0);
  t.equal((await client.get("unicorn")).code, 5);
  const statuses = await eventually(async () => {
    const ended = outcomes(recorder.grpc).filter(({ stage }) => stage === "end");
    return ended.length >= 2 ? ended.map(({ grpcStatus }) => grpcStatus) : undefined;
  });
  t.same(statuses, [0, 5]);
});

t.test("a TCP connection tells its bytes while it is open and at its end", async (t) => {
  const connection = await tlsConnection(await tcp.caller("ledger"));
  connection.socket.write("credit 10");
  await connection.until("credit 10");
  const { commonProperties: common, connectionProperties: bytes } = await tcpEntry(AccessLogType.TcpPeriodic);
  t.match(common?.streamId, UUID);
  t.match(common?.metadata?.filterMetadata["envoy.filters.network.ext_authz"], {
    decision: "allow",
    principal: "spiffe://shop.example/ledger",
  });
  t.match([bytes?.receivedBytes, bytes?.sentBytes], [9n, 9n]);
  connection.socket.end();
  await connection.closed;
  const ended = await tcpEntry(AccessLogType.TcpConnectionEnd);
  t.equal(ended.commonProperties?.streamId, common?.streamId);
  t.match(
    outcomes(recorder.tcp).find(({ stage }) => stage === "end"),
    { requestBytes: 9, responseBytes: 9, status: undefined, requestId: undefined },
  );
});
