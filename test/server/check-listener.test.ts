import { mkdtemp, rm, stat } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client, credentials, type ServiceError } from "@grpc/grpc-js";
import t from "tap";
import { checkListener, type Listener } from "../../src/server/check-listener.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-listener-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));

const CHECK = "/envoy.service.auth.v3.Authorization/Check";
const HEALTH = "/grpc.health.v1.Health/Check";
const NOT_FOUND = 5;
const UNAVAILABLE = 14;
const raw = (bytes: Buffer): Buffer => bytes;

function ask(address: string, path: string, message: Buffer): Promise<Buffer | number> {
  const client = new Client(address, credentials.createInsecure(), { "grpc.use_local_subchannel_pool": 1 });
  return new Promise((resolve) => {
    client.makeUnaryRequest(path, raw, raw, message, (error: ServiceError | null, answer?: Buffer) => {
      client.close();
      resolve(answer ?? error?.code ?? -1);
    });
  });
}

/** HealthCheckRequest for a service. */
const asking = (service: string): Buffer => Buffer.from([0x0a, service.length, ...Buffer.from(service)]);

function listenerOn(address: string, transport: "auto" | "grpc-js"): Promise<Listener> {
  return checkListener({
    address,
    transport,
    check: { path: CHECK, handle: (message) => Buffer.concat([Buffer.from("heard "), message]) },
    onError: (error) => t.error(error),
    onRefused: (reason) => t.fail(reason),
  });
}

/** What a connection's server says first: ours announces three settings, the library others. */
function greeting(address: string): Promise<Buffer> {
  const [host = "", port = ""] = address.split(":");
  const socket = connect(Number(port), host.replace("0.0.0.0", "127.0.0.1"));
  return new Promise((resolve) => {
    socket.once("data", (chunk: Buffer) => {
      socket.destroy();
      resolve(chunk);
    });
    socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
  });
}

for (const transport of ["auto", "grpc-js"] as const) {
  for (const where of ["127.0.0.1:0", "0.0.0.0:0", "localhost:0", `unix:${folder}/${transport}.sock`]) {
    t.test(
      `${transport} on ${where.replace(folder, "")}: checks and health are answered, and a drain ends both`,
      async (t) => {
        const listener = await listenerOn(where, transport);
        await listener.listen();
        const address = listener.boundAddress.replace("0.0.0.0", "127.0.0.1");
        t.same(await ask(address, CHECK, Buffer.from("me")), Buffer.from("heard me"));
        t.same(await ask(address, HEALTH, Buffer.alloc(0)), Buffer.of(8, 2), "not yet serving");
        listener.setServing(true);
        for (const service of ["", "envoy.service.auth.v3.Authorization"]) {
          t.same(await ask(address, HEALTH, service === "" ? Buffer.alloc(0) : asking(service)), Buffer.of(8, 1));
        }
        t.equal(await ask(address, HEALTH, asking("other.Service")), NOT_FOUND);
        if (where.startsWith("unix:")) {
          t.equal((await stat(where.slice("unix:".length))).mode & 0o666, 0o666, "Envoy may be another user");
        } else {
          const own = (await greeting(listener.boundAddress)).readUIntBE(0, 3) === 18;
          t.equal(own, transport === "auto" && where !== "0.0.0.0:0", "only what is local is served by ourselves");
        }
        await listener.close(1_000);
        t.equal(await ask(address, CHECK, Buffer.from("me")), UNAVAILABLE);
      },
    );
  }
}

t.test("an address that cannot be had is told with its code", async (t) => {
  const first = await listenerOn("127.0.0.1:0", "auto");
  await first.listen();
  for (const transport of ["auto", "grpc-js"] as const) {
    const second = await listenerOn(first.boundAddress, transport);
    await t.rejects(second.listen(), {
      code: "ERR_LISTEN",
      message: /cannot listen on/,
    });
  }
  await first.close(100);
});
