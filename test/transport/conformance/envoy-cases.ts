/** How a real Envoy, in several settings of its own, gets along with one transport. */

import { once } from "node:events";
import { connect } from "node:http2";
import { setTimeout as pause } from "node:timers/promises";
import t from "tap";
import type { Bootstrap } from "../../../scripts/run-envoy.ts";
import type { Change } from "../../support/bootstrap.ts";
import { type Caller, fetchOnce } from "../../support/clients.ts";
import { metric } from "../../support/guarded.ts";
import { guardedBy, ofChecks, sendMany } from "./guarded-by.ts";
import type { TransportName } from "./served.ts";

const CANCEL = 8;

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

/** Adds the tests; a file for each transport runs them, since starting Envoy so often takes long. */
export function tryEnvoy(transport: TransportName): void {
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
    t.ok((await ofChecks(guarded, "upstream_rq_cancelled")) + (await ofChecks(guarded, "upstream_rq_tx_reset")) > 0);
    // Node's HTTP/2 ends a connection after a burst of 1,000 resets, whoever sends them; Envoy makes another.
    if (transport === "auto")
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
}
