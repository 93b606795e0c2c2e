import { once } from "node:events";
import { connect } from "node:http2";
import { setTimeout as pause } from "node:timers/promises";
import t, { type Test } from "tap";
import { startSidecarProcess } from "../../../scripts/demo/sidecar.ts";
import type { Bootstrap } from "../../../scripts/run-envoy.ts";
import type { Change } from "../../support/bootstrap.ts";
import { type Caller, fetchOnce, http2Client, nodeClient } from "../../support/clients.ts";
import {
  eventually,
  type GuardedService,
  metric,
  type OrdersService,
  startGuarded,
  startOrders,
} from "../../support/guarded.ts";
import { type TransportName, transportFlags, transports } from "./served.ts";

const CANCEL = 8;

type Guarded = GuardedService<OrdersService>;

interface Options {
  explicit_http_config: { http2_protocol_options: Record<string, unknown> };
  common_http_protocol_options?: Record<string, unknown>;
}

/** Changes how Envoy speaks to the sidecar's Check listener; the streams' cluster shares the settings. */
function spoken(edit: (options: Options) => void): Change {
  return (bootstrap: Bootstrap) => {
    const check = bootstrap.static_resources.clusters.find(({ name }) => name === "sallyport_check");
    const options = Object.values(check?.typed_extension_protocol_options as Record<string, Options>)[0];
    if (options === undefined) throw new RangeError("the configuration says nothing of HTTP/2");
    edit(options);
  };
}

const streamsMax = (count: number): Change =>
  spoken(({ explicit_http_config: { http2_protocol_options } }) => {
    http2_protocol_options.max_concurrent_streams = count;
  });

const keepalive = spoken(({ explicit_http_config: { http2_protocol_options } }) => {
  http2_protocol_options.connection_keepalive = { interval: "0.05s", timeout: "5s" };
});

const requestsPerConnection = (count: number): Change =>
  spoken((options) => {
    options.common_http_protocol_options = { max_requests_per_connection: count };
  });

async function guardedBy(t: Test, transport: TransportName, change?: Change): Promise<Guarded> {
  const guarded = await startGuarded({
    config: "envoy/http-mtls.yaml",
    service: startOrders,
    flags: ["--mode", "observe", ...(await transportFlags(transport))],
    ...(change === undefined ? {} : { change }),
  });
  t.teardown(() => guarded.stop());
  return guarded;
}

/** A counter or gauge of Envoy's about its connections to the Check listener. */
async function ofChecks({ envoy }: Guarded, name: string): Promise<number> {
  const text = await envoy.admin(`/stats?filter=^cluster.sallyport_check.${name}$`);
  return Number(/: (\d+)/.exec(text)?.[1] ?? 0);
}

/** Sends `count` requests over one HTTP/2 connection, `atOnce` at a time, and counts answers by status. */
async function sendMany(guarded: Guarded, count: number, atOnce: number): Promise<Readonly<Record<string, number>>> {
  const client = await http2Client(await guarded.caller("web"));
  const statuses: Record<string, number> = {};
  let left = count;
  const worker = async (): Promise<void> => {
    while (left-- > 0) {
      const { status } = await client.send({ path: "/orders/1" });
      statuses[status] = (statuses[status] ?? 0) + 1;
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  client.close();
  return statuses;
}

/** Asks `count` times on a connection of its own and resets each stream once Envoy has read it. */
async function leaveMidway({ port, caPem, certificate }: Caller, count: number): Promise<void> {
  const session = connect(`https://localhost:${port}`, {
    ca: caPem,
    cert: certificate?.certPem,
    key: certificate?.keyPem,
  });
  session.on("error", () => {}); // Envoy may close a connection that resets so much
  await once(session, "connect");
  const streams = Array.from({ length: count }, () => session.request({ ":path": "/orders/1" }));
  for (const stream of streams) stream.on("error", () => {}); // cut below
  await new Promise<void>((resolve) => session.ping(() => resolve())); // all of them have been read by now
  for (const stream of streams) if (!stream.closed) stream.close(CANCEL);
  const closed = once(session, "close");
  session.destroy();
  await closed;
}

for (const transport of await transports()) {
  for (const count of [1, 10]) {
    t.test(
      `${transport}: with ${count} streams a connection, Envoy's checks under load are all answered`,
      async (t) => {
        const guarded = await guardedBy(t, transport, streamsMax(count));
        t.same(await sendMany(guarded, 400, 50), { 200: 400 });
        t.equal(await metric(guarded.sidecar, "sallyport_checks_total"), 400);
        t.equal(await ofChecks(guarded, "http2.rx_reset"), 0);
      },
    );
  }

  t.test(`${transport}: Envoy's pings are answered while the connection is idle, which is kept`, async (t) => {
    const guarded = await guardedBy(t, transport, keepalive);
    t.same(await sendMany(guarded, 10, 1), { 200: 10 });
    await pause(1_000); // twenty pings; what is asserted is what came of them
    t.same(await sendMany(guarded, 10, 1), { 200: 10 });
    t.equal(await ofChecks(guarded, "http2.keepalive_timeout"), 0);
    t.equal(await ofChecks(guarded, "upstream_cx_total"), 1, "over the connection that was there");
  });

  t.test(`${transport}: Envoy changes its connection every ten checks, and none is lost`, async (t) => {
    const guarded = await guardedBy(t, transport, requestsPerConnection(10));
    t.same(await sendMany(guarded, 300, 20), { 200: 300 });
    t.equal(await metric(guarded.sidecar, "sallyport_checks_total"), 300);
    t.ok((await ofChecks(guarded, "upstream_cx_total")) >= 30);
  });

  t.test(`${transport}: callers that leave in the middle of their checks cost nobody the connection`, async (t) => {
    const guarded = await guardedBy(t, transport);
    t.same(await sendMany(guarded, 1, 1), { 200: 1 });
    const caller = await guarded.caller("leaving");
    for (let round = 0; round < 20; round++) await leaveMidway(caller, 100);
    t.same(await sendMany(guarded, 100, 10), { 200: 100 });
    t.equal(await ofChecks(guarded, "upstream_cx_total"), 1, "over the connection that was there");
  });

  t.test(`${transport}: checks that Envoy gives up in time leave the connection good`, async (t) => {
    const guarded = await guardedBy(t, transport);
    t.same(await sendMany(guarded, 1, 1), { 200: 1 });
    process.kill(guarded.sidecar.pid, "SIGSTOP");
    const caller = await guarded.caller("waiting");
    const refused = fetchOnce(caller, { path: "/orders/1" });
    const { status } = await refused.finally(() => process.kill(guarded.sidecar.pid, "SIGCONT"));
    t.equal(status, 503, "the configuration fails closed");
    t.same(await sendMany(guarded, 100, 10), { 200: 100 });
    t.equal(await ofChecks(guarded, "upstream_cx_total"), 1, "over the connection that was there");
  });

  t.test(`${transport}: a sidecar stopped under load and started again: each request is answered`, async (t) => {
    const guarded = await guardedBy(t, transport);
    const { sidecar } = guarded;
    const client = nodeClient(await guarded.caller("steady"));
    t.teardown(() => client.close());
    t.equal((await client.send({ path: "/orders/1" })).status, 200);
    const underway = sendMany(guarded, 1_000, 20);
    await eventually(async () => ((await metric(sidecar, "sallyport_checks_total")) > 100 ? true : undefined));
    t.equal(await sidecar.stop(), 0, "it ends by itself");
    const statuses = await underway;
    t.equal((statuses[200] ?? 0) + (statuses[503] ?? 0), 1_000, JSON.stringify(statuses));
    t.ok((statuses[200] ?? 0) > 100);
    t.equal((await client.send({ path: "/orders/1" })).status, 503, "nobody passes unchecked");
    const again = await startSidecarProcess({
      name: "again",
      folder: guarded.folder,
      policy: guarded.policyPath,
      flags: [
        ...["--ext-authz-address", sidecar.extAuthz, "--streams-address", sidecar.streams],
        ...(await transportFlags(transport)),
      ],
    });
    t.teardown(() => again.stop());
    await eventually(async () => ((await client.send({ path: "/orders/1" })).status === 200 ? true : undefined));
    t.same(await sendMany(guarded, 200, 20), { 200: 200 });
    t.ok((await metric(again, "sallyport_checks_total")) >= 200);
  });
}
