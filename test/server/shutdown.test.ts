import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import t from "tap";
import { runCommand, type SidecarProcess, startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { createIssuer } from "../../scripts/pki.ts";
import { listen } from "../../scripts/services/service.ts";
import { AccessLogType } from "../../src/gen/envoy/data/accesslog/v3/accesslog_pb.ts";
import { StreamAccessLogsMessageSchema } from "../../src/gen/envoy/service/accesslog/v3/als_pb.ts";
import { checkBytes, checkClient } from "../support/check-client.ts";
import { eventually, metric } from "../support/guarded.ts";

/** Far longer than a test waits for the end of a process: whoever ends in time has not waited for this. */
const FOR_EVER = ["--drain-timeout", "10m"];

const folder = await mkdtemp(join(tmpdir(), "sallyport-shutdown-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));
const raw = (bytes: Buffer): Buffer => bytes;

const readiness = async ({ health }: SidecarProcess): Promise<Record<string, unknown>> => {
  const response = await fetch(`http://${health}/readyz`);
  return { status: response.status, ...((await response.json()) as Record<string, unknown>) };
};

/** An outcome, as Envoy sends it. */
function outcome(): Buffer {
  const message = create(StreamAccessLogsMessageSchema, {
    logEntries: {
      case: "httpLogs",
      value: { logEntry: [{ commonProperties: { accessLogType: AccessLogType.DownstreamEnd } }] },
    },
  });
  return Buffer.from(toBinary(StreamAccessLogsMessageSchema, message));
}

t.test("a call in flight is answered before the end, which is a good one", async (t) => {
  // A key server that never answers: the token's verification is given up after a tenth of a second.
  const stalled = createServer(() => {});
  const port = await listen(stalled, 0);
  t.teardown(() => {
    stalled.close();
    stalled.closeAllConnections();
  });
  const policy = join(folder, "policy.yaml");
  const write = (revision: string, spec: string): Promise<void> =>
    writeFile(
      policy,
      `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p, revision: "${revision}"}\nspec: ${spec}\n`,
    );
  await write("1", "{}");
  const sidecar = await startSidecarProcess({ name: "in-flight", folder, policy, flags: FOR_EVER });
  await write("2", `{identity: {issuers: [{issuer: "https://slow", jwks: {url: "http://127.0.0.1:${port}/keys"}}]}}`);
  await eventually(async () => ((await readiness(sidecar)).policy_revision === "2" ? true : undefined));
  const issuer = await createIssuer("https://slow");
  const headers = { authorization: `Bearer ${await issuer.token({ subject: "web" })}` };
  const client = checkClient(sidecar.extAuthz);
  t.teardown(() => client.close());
  await client.send(checkBytes());
  const answer = client.decision(checkBytes({ headers }));
  // On one connection calls arrive in order: when this one was answered, the one before is in flight.
  await client.send(checkBytes());
  const code = sidecar.stop();
  t.equal(await answer, "allow");
  t.equal(await code, 0);
  const log = await readFile(sidecar.log, "utf8");
  t.match(log, /"event":"stopping".*SIGTERM/);
  t.match(log, /"event":"stopped"/);
});

t.test("an Envoy that streams its access log does not hold up the end", async (t) => {
  const sidecar = await startSidecarProcess({ name: "streaming", folder, flags: FOR_EVER });
  const client = new Client(sidecar.streams, credentials.createInsecure());
  t.teardown(() => client.close());
  const ended: (number | undefined)[] = [];
  const streams = [1, 2].map(() =>
    client.makeClientStreamRequest(
      "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
      raw,
      raw,
      (error: { code?: number } | null) => ended.push(error?.code),
    ),
  );
  for (const stream of streams) stream.write(outcome());
  await eventually(async () => ((await metric(sidecar, "sallyport_outcomes_total")) >= 2 ? true : undefined));
  t.equal(await sidecar.stop(), 0);
  t.same(ended, [undefined, undefined], "both ended well");
});

t.test("while it drains it says so, and still answers who is there; watchers of its health hear of it", async (t) => {
  const sidecar = await startSidecarProcess({ name: "draining", folder, flags: FOR_EVER });
  t.match(await readiness(sidecar), { status: 200, ready: true, state: "serving" });
  const client = new Client(sidecar.streams, credentials.createInsecure());
  t.teardown(() => client.close());
  const watch = client.makeServerStreamRequest("/grpc.health.v1.Health/Watch", raw, raw, Buffer.alloc(0));
  watch.on("error", () => {}); // cancelled below
  const statuses: number[] = [];
  watch.on("data", (bytes: Buffer) => statuses.push(bytes[1] ?? 0));
  await once(watch, "data");
  const code = sidecar.stop();
  const told = await eventually(async () => {
    const now = await readiness(sidecar);
    return now.status === 503 ? now : undefined;
  });
  t.match(told, { ready: false, state: "draining" });
  await eventually(async () => (statuses.length > 1 ? true : undefined));
  t.same(statuses, [1, 2], "SERVING, then NOT_SERVING");
  t.match(await (await fetch(`http://${sidecar.health}/metrics`)).text(), /sallyport_checks_total/);
  watch.cancel();
  t.equal(await code, 0);
});

t.test("with a delay it answers new connections after SIGTERM, not ready, until the last one is closed", async (t) => {
  const flags = ["--drain-delay", "10m"];
  const sidecar = await startSidecarProcess({ name: "delayed", folder, flags });
  const envoy = checkClient(sidecar.extAuthz);
  await envoy.send(checkBytes());
  const code = sidecar.stop();
  await eventually(async () => ((await readiness(sidecar)).state === "draining" ? true : undefined));
  const another = checkClient(sidecar.extAuthz);
  t.equal(await another.decision(checkBytes()), "allow");
  another.close();
  t.equal(await envoy.decision(checkBytes()), "allow");
  envoy.close();
  t.equal(await code, 0);
});

t.test("a delay ends in time whoever stays, and is none where nobody is connected", async (t) => {
  const short = await startSidecarProcess({ name: "short", folder, flags: ["--drain-delay", "50ms", "--drain-timeout", "50ms"] });
  const envoy = checkClient(short.extAuthz);
  t.teardown(() => envoy.close());
  await envoy.send(checkBytes());
  t.equal(await short.stop(), 0);
  const lonely = await startSidecarProcess({ name: "lonely", folder, flags: ["--drain-delay", "10m"] });
  t.equal(await lonely.stop(), 0);
});

t.test("what does not end in time is cut, and the end is good all the same", async (t) => {
  const sidecar = await startSidecarProcess({ name: "cut", folder, flags: ["--drain-timeout", "50ms"] });
  const client = new Client(sidecar.streams, credentials.createInsecure());
  t.teardown(() => client.close());
  const watch = client.makeServerStreamRequest("/grpc.health.v1.Health/Watch", raw, raw, Buffer.alloc(0));
  const failed = once(watch, "error");
  await once(watch, "data");
  t.equal(await sidecar.stop(), 0);
  await failed;
});

t.test("a live page and a tap left open do not hold up the end", async (t) => {
  const sidecar = await startSidecarProcess({ name: "tapped", folder, flags: FOR_EVER });
  const client = checkClient(sidecar.extAuthz);
  t.teardown(() => client.close());
  await client.send(checkBytes());
  const tap = runCommand(["tap", "--recent", "1", "--api", sidecar.api]);
  const idle = await fetch(`http://${sidecar.api}/`);
  t.equal(idle.status, 200);
  await idle.text();
  t.equal(await sidecar.stop(), 0);
  t.type((await tap).code, "number");
});
