import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Client, credentials, type ServiceError } from "@grpc/grpc-js";
import t from "tap";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { file_envoy_service_auth_v3_external_auth } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { checkBytes, checkClient, field } from "../support/check-client.ts";
import { metric } from "../support/guarded.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-health-"));
const sidecar = await startSidecarProcess({ name: "sidecar", folder });
const clients = [sidecar.extAuthz, sidecar.streams].map((address) => new Client(address, credentials.createInsecure()));
const [check, streams] = clients as [Client, Client];
t.teardown(async () => {
  for (const client of clients) client.close();
  await sidecar.stop();
  await rm(folder, { recursive: true, force: true });
});

const raw = (bytes: Buffer): Buffer => bytes;
const NOT_FOUND = 5;
const UNIMPLEMENTED = 12;
const SERVING = 1;

/** The answer's bytes, or the gRPC status of a call that failed. */
function unary(client: Client, method: string, message: Uint8Array): Promise<Buffer | number> {
  return new Promise((resolve) => {
    client.makeUnaryRequest(method, raw, raw, Buffer.from(message), (error: ServiceError | null, answer?: Buffer) =>
      resolve(answer ?? error?.code ?? -1),
    );
  });
}

const health = async (client: Client, service: string): Promise<number | undefined> => {
  const answer = await unary(client, "/grpc.health.v1.Health/Check", field(1, service));
  return typeof answer === "number" ? -answer : answer[1];
};

t.test("both addresses tell their health, as a whole and of the service that Envoy calls", async (t) => {
  for (const client of [check, streams]) {
    t.equal(await health(client, ""), SERVING);
    t.equal(await health(client, "envoy.service.auth.v3.Authorization"), SERVING);
    t.equal(await health(client, "no.such.Service"), -NOT_FOUND);
  }
});

t.test("each address serves its own and nothing else", async (t) => {
  const checkMethod = "/envoy.service.auth.v3.Authorization/Check";
  t.type(await unary(check, checkMethod, checkBytes()), Buffer);
  t.equal(await unary(streams, checkMethod, checkBytes()), UNIMPLEMENTED);
  t.equal(
    await unary(check, "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs", Buffer.alloc(0)),
    UNIMPLEMENTED,
  );
  t.equal(
    await unary(check, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Buffer.alloc(0)),
    UNIMPLEMENTED,
  );
});

for (const version of ["v1", "v1alpha"]) {
  t.test(`reflection ${version} describes what Envoy and its access logs call`, async (t) => {
    const method = `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`;
    const call = streams.makeBidiStreamRequest(method, raw, raw);
    call.write(Buffer.from(field(4, "envoy.service.auth.v3.Authorization"))); // file_containing_symbol
    const [answer] = (await once(call, "data")) as [Buffer];
    const files = descriptorsOf(answer).map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes));
    const own = files.find(({ name }) => name === "envoy/service/auth/v3/external_auth.proto");
    t.match(own?.service, [{ name: "Authorization", method: [{ name: "Check" }] }]);
    t.same(
      toBinary(FileDescriptorProtoSchema, own!),
      toBinary(FileDescriptorProtoSchema, file_envoy_service_auth_v3_external_auth.proto),
    );
    call.write(Buffer.from(field(7, ""))); // list_services
    const [list] = (await once(call, "data")) as [Buffer];
    t.ok(list.includes("envoy.service.accesslog.v3.AccessLogService"));
    call.end();
  });
}

/** ServerReflectionResponse.file_descriptor_response (4) holds the files in its field 1. */
function descriptorsOf(response: Uint8Array): readonly Uint8Array[] {
  const found: Uint8Array[] = [];
  const reader = new BinaryReader(response);
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    if (number !== 4) reader.skip(type, number);
    else {
      const inner = new BinaryReader(reader.bytes());
      while (inner.pos < inner.len) {
        inner.tag();
        found.push(inner.bytes());
      }
    }
  }
  return found;
}

const http = (path: string, init?: RequestInit) => fetch(`http://${sidecar.health}${path}`, init);

t.test("kubelets and Prometheus are answered over HTTP", async (t) => {
  t.match([(await http("/healthz")).status, await (await http("/healthz")).text()], [200, "ok\n"]);
  const ready = await http("/readyz?verbose");
  t.equal(ready.status, 200);
  t.same(await ready.json(), {
    ready: true,
    policy: "current",
    policy_revision: "shipped-1",
    policy_freshness: "fresh",
    policy_source: "shipped",
    state: "serving",
  });
  t.equal((await http("/healthz", { method: "HEAD" })).status, 200);
  t.match([(await http("/healthz", { method: "POST" })).status, (await http("/")).status], [405, 404]);
});

t.test("metrics name decisions, never callers", async (t) => {
  const client = checkClient(sidecar.extAuthz);
  t.teardown(() => client.close());
  const before = await metric(sidecar, "sallyport_checks_total", 'decision="allow",enforced="allow",protocol="http"');
  await client.send(checkBytes({ principal: "spiffe://td/somebody" }));
  t.equal(
    await metric(sidecar, "sallyport_checks_total", 'decision="allow",enforced="allow",protocol="http"'),
    before + 1,
  );
  const response = await http("/metrics");
  t.match(response.headers.get("content-type"), /^text\/plain; version=0\.0\.4/);
  const text = await response.text();
  t.notOk(/spiffe|somebody|10\.0\.0\.1/.test(text));
  for (const line of text.split("\n").filter((each) => /^sallyport_/.test(each))) {
    t.match(line, /^sallyport_[a-z0-9_]+(?:\{[a-z_]+="[^"]*"(?:,[a-z_]+="[^"]*")*,?\})? (?:[-+0-9.e]+|Nan)$/);
  }
  const names = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)];
  for (const [, name, type] of names) if (type === "counter") t.match(name, /_(?:total|seconds|bytes)$/);
});

t.test("the library's address tells watchers their status at once, and lists what it knows", async (t) => {
  const watched = async (service: string): Promise<readonly number[]> => {
    const request = service === "" ? Buffer.alloc(0) : Buffer.from(field(1, service));
    const watch = streams.makeServerStreamRequest("/grpc.health.v1.Health/Watch", raw, raw, request);
    watch.on("error", () => {}); // cancelled below
    const [answer] = (await once(watch, "data")) as [Buffer];
    watch.cancel();
    return [...answer];
  };
  t.same(await watched(""), [0x08, SERVING]);
  t.same(await watched("envoy.service.auth.v3.Authorization"), [0x08, SERVING]);
  t.same(await watched("no.such.Service"), [0x08, 3], "SERVICE_UNKNOWN");
  const list = await unary(streams, "/grpc.health.v1.Health/List", Buffer.alloc(0));
  const status = Buffer.from(field(2, Buffer.of(0x08, SERVING)));
  const named = Buffer.concat([Buffer.from(field(1, "envoy.service.auth.v3.Authorization")), status]);
  const whole = Buffer.concat([Buffer.of(0x0a, 0), status]);
  t.same(list, Buffer.concat([Buffer.from(field(1, whole)), Buffer.from(field(1, named))]));
});
