/** Drives open streams of every kind through a real Envoy and ends them: what matches dies, neighbours live on. */

import t from "tap";
import { runCommand, type SidecarProcess } from "../../scripts/demo/sidecar.ts";
import { grpcClient } from "../support/clients.ts";
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

const HELD = { rules: [{ name: "held", watch: true }] };

async function lock(sidecar: SidecarProcess, ...scope: string[]): Promise<void> {
  const { code, err } = await runCommand(["lock", ...scope, "--api", `unix:${sidecar.apiSocket}`]);
  if (code !== 0) throw new Error(err);
}

/** Ends the streams of `victim`; tells which of the neighbours' are open when all of the victim's are over. */
async function endThose(sidecar: SidecarProcess, victims: readonly Stream[], neighbours: readonly Stream[]) {
  await eventually(async () =>
    (await metric(sidecar, "sallyport_open_streams")) >= victims.length + neighbours.length ? true : undefined,
  );
  await lock(sidecar, "--principal", "spiffe://shop.example/victim", "--reason", "stolen");
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

t.test("what policy does not hold runs on, and is not known as open", async (t) => {
  const guarded = await startGuarded({ config: "envoy/http-mtls.yaml", service: startOrders });
  t.teardown(() => guarded.stop());
  const stream = await answerOverHttp1(await guarded.caller("victim"));
  t.teardown(() => stream.close());
  await lock(guarded.sidecar, "--principal", "spiffe://shop.example/victim", "--reason", "stolen");
  t.equal(await metric(guarded.sidecar, "sallyport_open_streams"), 0);
  t.ok(stream.isOpen());
});

t.test("while the sidecar is away held streams live on; its next process knows nothing of them", async (t) => {
  const guarded = await startGuarded({ config: "envoy/http-mtls.yaml", service: startOrders, spec: HELD });
  t.teardown(() => guarded.stop());
  const stream = await answerOverHttp1(await guarded.caller("victim"));
  t.teardown(() => stream.close());
  await guarded.sidecar.kill();
  const gone = await Promise.race([stream.over, new Promise((resolve) => setTimeout(resolve, 500, "alive"))]);
  t.equal(gone, "alive");
});
