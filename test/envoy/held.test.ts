/** Drives open streams of every kind through a real Envoy and ends them: what matches dies, neighbours live on. */

import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import t from "tap";
import { runCommand, type SidecarProcess } from "../../scripts/demo/sidecar.ts";
import { LocalService } from "../../src/gen/sallyport/local/v1/local_pb.ts";
import { reportOften } from "../support/bootstrap.ts";
import { fetchOnce, grpcClient } from "../support/clients.ts";
import { eventually, metric, startEcho, startGuarded, startInventory, startOrders } from "../support/guarded.ts";
import {
  answerOverHttp1,
  answerOverHttp2,
  grpcAnswers,
  grpcBoth,
  http2Session,
  rawTcp,
  type Stream,
  uploadOverHttp1,
  uploadOverHttp2,
  webSocket,
} from "../support/streams.ts";

const BY_DEFAULT = {};
const HELD = { rules: [{ name: "held", watch: true }] };

async function lock(sidecar: SidecarProcess, ...scope: string[]): Promise<void> {
  const { code, err } = await runCommand(["lock", ...scope, "--reason", "test", "--api", `unix:${sidecar.apiSocket}`]);
  if (code !== 0) throw new Error(err);
}

/** Ends the streams of `victim`; tells which of the neighbours' are open when all of the victim's are over. */
async function endThose(sidecar: SidecarProcess, victims: readonly Stream[], neighbours: readonly Stream[]) {
  await eventually(async () =>
    (await metric(sidecar, "sallyport_open_streams")) >= victims.length + neighbours.length ? true : undefined,
  );
  await lock(sidecar, "--principal", "spiffe://shop.example/victim");
  await Promise.all(victims.map(({ over }) => over));
  return neighbours.filter(({ isOpen }) => isOpen()).length;
}

t.test("HTTP streams of a locked principal end, and nobody else's", async (t) => {
  const guarded = await startGuarded({ config: "envoy/http-mtls.yaml", service: startOrders, spec: HELD });
  t.teardown(() => guarded.stop());
  const open = async (name: string) => {
    const caller = await guarded.caller(name);
    const session = await http2Session(caller);
    t.teardown(() => session.destroy());
    const streams = [
      await answerOverHttp1(caller),
      await answerOverHttp2(session),
      await answerOverHttp1(caller, "/download"),
      await answerOverHttp2(session, "/download"),
      await uploadOverHttp1(caller),
      await uploadOverHttp2(session),
      await webSocket(caller),
    ];
    t.teardown(() => {
      for (const stream of streams) stream.close();
    });
    return { streams, session };
  };
  const victim = await open("victim");
  const neighbour = await open("neighbour");
  t.equal(await endThose(guarded.sidecar, victim.streams, neighbour.streams), neighbour.streams.length);
  const ended = await guarded.entries(7, ({ details }) => String(details).startsWith("sallyport_terminated"));
  t.same([...new Set(ended.map(({ principal }) => principal))], ["spiffe://shop.example/victim"]);
  t.notOk(victim.session.destroyed, "a connection that others may share stays open");
});

t.test("gRPC streams of a locked principal end, and nobody else's", async (t) => {
  const guarded = await startGuarded({ config: "envoy/grpc.yaml", service: startInventory, spec: HELD });
  t.teardown(() => guarded.stop());
  const open = async (name: string) => {
    const client = grpcClient(await guarded.caller(name));
    t.teardown(() => client.close());
    return [await grpcAnswers(client), await grpcBoth(client)];
  };
  const [victims, neighbours] = [await open("victim"), await open("neighbour")];
  t.equal(await endThose(guarded.sidecar, victims, neighbours), neighbours.length);
});

t.test("raw TCP connections of a locked principal end, and nobody else's", async (t) => {
  const guarded = await startGuarded({ config: "envoy/tcp-held.yaml", service: startEcho, spec: HELD });
  t.teardown(() => guarded.stop());
  const open = async (name: string) => {
    const stream = await rawTcp(await guarded.caller(name));
    t.teardown(() => stream.close());
    return [stream];
  };
  const [victims, neighbours] = [await open("victim"), await open("neighbour")];
  t.equal(await endThose(guarded.sidecar, victims, neighbours), neighbours.length);
});

t.test("by default WebSockets are held, and a gRPC method once a call of it has lasted", async (t) => {
  const shop = await startGuarded({ config: "envoy/http-mtls.yaml", service: startOrders, spec: BY_DEFAULT });
  t.teardown(() => shop.stop());
  const socket = await webSocket(await shop.caller("victim"));
  t.equal(await endThose(shop.sidecar, [socket], []), 0);
  const stock = await startGuarded({
    config: "envoy/grpc.yaml",
    service: startInventory,
    spec: BY_DEFAULT,
    change: reportOften,
  });
  t.teardown(() => stock.stop());
  const client = grpcClient(await stock.caller("victim"));
  t.teardown(() => client.close());
  const first = await grpcAnswers(client);
  t.teardown(() => first.close());
  await eventually(async () =>
    (await metric(stock.sidecar, "sallyport_outcomes_total", 'stage="periodic"')) > 0 ? true : undefined,
  );
  const second = await grpcAnswers(client);
  t.equal(await endThose(stock.sidecar, [second], []), 0);
});

t.test("what policy does not hold runs on, and is not known as open", async (t) => {
  const guarded = await startGuarded({
    config: "envoy/http-mtls.yaml",
    service: startOrders,
    spec: { streams: { hold: "none" } },
  });
  t.teardown(() => guarded.stop());
  const stream = await answerOverHttp1(await guarded.caller("victim"));
  t.teardown(() => stream.close());
  await lock(guarded.sidecar, "--principal", "spiffe://shop.example/victim");
  t.equal(await metric(guarded.sidecar, "sallyport_open_streams"), 0);
  t.ok(stream.isOpen());
});

for (const { allow, becomes } of [
  { allow: true, becomes: "lives on" },
  { allow: false, becomes: "ends" },
]) {
  t.test(`with failure_mode_allow ${allow} a held stream ${becomes} when the sidecar dies`, async (t) => {
    const guarded = await startGuarded({
      config: "envoy/http-mtls.yaml",
      service: startOrders,
      spec: HELD,
      change: (bootstrap) => {
        const text = JSON.stringify(bootstrap.static_resources.listeners);
        bootstrap.static_resources.listeners = JSON.parse(
          text.replaceAll('"failure_mode_allow":true', `"failure_mode_allow":${allow}`),
        );
      },
    });
    t.teardown(() => guarded.stop());
    const stream = await answerOverHttp1(await guarded.caller("victim"));
    t.teardown(() => stream.close());
    await eventually(async () => ((await metric(guarded.sidecar, "sallyport_open_streams")) === 1 ? true : undefined));
    await guarded.sidecar.kill();
    if (!allow) await stream.over;
    // Where it lives on, it is still there after Envoy has told of the next request that nobody judged.
    else t.equal((await fetchOnce(await guarded.caller("other"), { path: "/orders" })).status, 503);
    t.equal(stream.isOpen(), allow);
  });
}

t.test("whoever comes back in a loop after its end is refused each time, and leaves nothing behind", async (t) => {
  const guarded = await startGuarded({ config: "envoy/http-mtls.yaml", service: startOrders, spec: HELD });
  t.teardown(() => guarded.stop());
  const caller = await guarded.caller("victim");
  const stream = await answerOverHttp1(caller);
  await eventually(async () => ((await metric(guarded.sidecar, "sallyport_open_streams")) === 1 ? true : undefined));
  await lock(guarded.sidecar, "--principal", "spiffe://shop.example/victim");
  await stream.over;
  const statuses = new Set<number>();
  for (let again = 0; again < 200; again++) statuses.add((await fetchOnce(caller, { path: "/stream" })).status);
  t.same([...statuses], [403]);
  t.equal(await metric(guarded.sidecar, "sallyport_open_streams"), 0);
  t.equal(await metric(guarded.sidecar, "sallyport_locks"), 1);
  t.equal((await metric(guarded.sidecar, "sallyport_sessions")) <= 1, true);
  t.equal((await fetchOnce(await guarded.caller("other"), { path: "/orders" })).status, 200);
});

t.test("in a storm of locks only what one of them matches ends", async (t) => {
  const guarded = await startGuarded({ config: "envoy/http-mtls.yaml", service: startOrders, spec: HELD });
  t.teardown(() => guarded.stop());
  const open = async (name: string, count: number) => {
    const session = await http2Session(await guarded.caller(name));
    t.teardown(() => session.destroy());
    return Promise.all(Array.from({ length: count }, () => answerOverHttp2(session)));
  };
  const [victims, neighbours] = [await open("victim", 20), await open("neighbour", 60)];
  await eventually(async () => ((await metric(guarded.sidecar, "sallyport_open_streams")) === 80 ? true : undefined));
  const client = createClient(
    LocalService,
    createConnectTransport({
      httpVersion: "1.1",
      baseUrl: "http://localhost",
      nodeOptions: { socketPath: guarded.sidecar.apiSocket },
    }),
  );
  for (let batch = 0; batch < 20; batch++) {
    await Promise.all(
      Array.from({ length: 50 }, (_, n) =>
        client.addLock({ lock: { principal: `spiffe://shop.example/nobody-${batch}-${n}`, reason: "storm" } }),
      ),
    );
  }
  t.ok([...victims, ...neighbours].every((stream) => stream.isOpen()));
  await lock(guarded.sidecar, "--principal", "spiffe://shop.example/victim");
  await Promise.all(victims.map(({ over }) => over));
  t.equal(neighbours.filter((stream) => stream.isOpen()).length, 60);
  t.equal(await metric(guarded.sidecar, "sallyport_locks"), 1_001);
});

t.test("a lock that comes between the check and the stream ends the stream all the same", async (t) => {
  const guarded = await startGuarded({ config: "envoy/http-mtls.yaml", service: startOrders, spec: HELD });
  t.teardown(() => guarded.stop());
  const caller = await guarded.caller("victim");
  const opening = Array.from({ length: 30 }, () => answerOverHttp1(caller).catch(() => undefined));
  await lock(guarded.sidecar, "--principal", "spiffe://shop.example/victim");
  const streams = (await Promise.all(opening)).filter((stream) => stream !== undefined);
  await Promise.all(streams.map(({ over }) => over));
  t.equal(await metric(guarded.sidecar, "sallyport_open_streams"), 0);
});
