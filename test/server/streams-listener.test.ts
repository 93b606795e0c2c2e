import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client, credentials, type ServiceError } from "@grpc/grpc-js";
import t from "tap";
import { accessLogService } from "../../src/envoy/service.ts";
import { StreamsListener } from "../../src/server/streams-listener.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-streams-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));

const HEALTH = "/grpc.health.v1.Health/Check";
const ACCESS_LOGS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
const NOT_SERVING = Buffer.of(8, 2);
const SERVING = Buffer.of(8, 1);
const UNAVAILABLE = 14;
const raw = (bytes: Buffer): Buffer => bytes;

function clientOf(address: string): Client {
  return new Client(address, credentials.createInsecure(), { "grpc.use_local_subchannel_pool": 1 });
}

function health(client: Client): Promise<Buffer | number> {
  return new Promise((resolve) => {
    client.makeUnaryRequest(HEALTH, raw, raw, Buffer.alloc(0), (error: ServiceError | null, answer?: Buffer) =>
      resolve(answer ?? error?.code ?? -1),
    );
  });
}

for (const where of ["127.0.0.1:0", "[::1]:0", "localhost:0", `unix:${folder}/streams.sock`]) {
  t.test(`${where.replace(folder, "")}: who connects before anything is loaded is served`, async (t) => {
    const listener = new StreamsListener(where, [], (error) => t.error(error));
    await listener.listen();
    const client = clientOf(listener.boundAddress);
    t.same(await Promise.all([health(client), health(client)]), [NOT_SERVING, NOT_SERVING]);
    listener.setServing(true);
    t.same(await health(client), SERVING);
    if (where.startsWith("unix:")) {
      t.equal((await stat(where.slice("unix:".length))).mode & 0o666, 0o666, "Envoy may be another user");
    }
    await listener.close(1_000);
    t.equal(await health(client), UNAVAILABLE);
    client.close();
  });
}

t.test("a stream that was opened early is taken in, and a drain ends it", async (t) => {
  const heard: string[] = [];
  const service = accessLogService(
    (bytes) => Buffer.from(bytes).toString(),
    (text) => heard.push(text),
    (error) => t.error(error),
  );
  const listener = new StreamsListener("127.0.0.1:0", [service], (error) => t.error(error));
  await listener.listen();
  const client = clientOf(listener.boundAddress);
  const ended = new Promise<Buffer | undefined>((resolve) => {
    const call = client.makeClientStreamRequest(ACCESS_LOGS, raw, raw, (_error: ServiceError | null, answer?: Buffer) =>
      resolve(answer),
    );
    call.write(Buffer.from("one"));
  });
  // The next answer comes after what was sent before it.
  t.same(await health(client), NOT_SERVING);
  t.same(heard, ["one"]);
  await listener.close(5_000);
  t.same(await ended, Buffer.alloc(0), "with an answer, not with an error");
  client.close();
});

t.test("what serves is loaded soon, though nobody connects: the first who does need not wait", async (t) => {
  let made = 0;
  let tell: () => void = () => undefined;
  const loaded = new Promise<void>((resolve) => {
    tell = resolve;
  });
  class Library {
    constructor() {
      made++;
      tell();
    }
    setServing(): void {}
    connections(): void {}
    async close(): Promise<void> {}
  }
  const mocked = (await t.mockImport("../../src/server/streams-listener.ts", {
    "../../src/server/grpc.ts": { GrpcListener: Library },
  })) as typeof import("../../src/server/streams-listener.ts");
  const listener = new mocked.StreamsListener("127.0.0.1:0", [], (error) => t.error(error));
  await listener.listen();
  listener.setServing(true);
  t.equal(made, 0, "not before whoever waits for the start has heard of it");
  await loaded;
  t.equal(made, 1);
  await listener.close(100);
});

t.test("closed before anything was loaded, it keeps no connection", async (t) => {
  const listener = new StreamsListener(`unix:${folder}/short.sock`, [], (error) => t.error(error));
  await listener.listen();
  const socket = connect(join(folder, "short.sock"));
  const closed = new Promise((resolve) =>
    socket
      .on("error", () => {})
      .on("close", resolve)
      .resume(),
  );
  await new Promise((resolve) => socket.once("connect", resolve));
  await listener.close(1_000);
  await closed;
  t.ok(socket.destroyed);
});

t.test("an address that cannot be had is told with its code", async (t) => {
  const first = new StreamsListener("127.0.0.1:0", [], (error) => t.error(error));
  await first.listen();
  const port = first.boundAddress.split(":")[1];
  for (const address of [first.boundAddress, `localhost:${port}`]) {
    const second = new StreamsListener(address, [], (error) => t.error(error));
    await t.rejects(second.listen(), { code: "ERR_LISTEN", message: /cannot listen on/ }, address);
  }
  await writeFile(join(folder, "file"), "kept");
  const third = new StreamsListener(`unix:${folder}/file`, [], (error) => t.error(error));
  await t.rejects(third.listen(), { code: "ERR_LISTEN" }, "what is no socket is left alone");
  await first.close(100);
});
