import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import fc from "fast-check";
import t from "tap";
import { runCommand, type SidecarProcess, startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import {
  CheckRequestSchema,
  type CheckResponse,
  CheckResponseSchema,
} from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { eventually, metric } from "../support/guarded.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-serve-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));

const raw = (bytes: Buffer): Buffer => bytes;

async function checkBytes(sidecar: SidecarProcess, bytes: Uint8Array): Promise<CheckResponse | number> {
  const client = new Client(sidecar.extAuthz, credentials.createInsecure());
  try {
    return await new Promise((resolve) => {
      client.makeUnaryRequest(
        "/envoy.service.auth.v3.Authorization/Check",
        raw,
        raw,
        Buffer.from(bytes),
        (error: { code?: number } | null, answer?: Buffer) =>
          resolve(answer === undefined ? (error?.code ?? -1) : fromBinary(CheckResponseSchema, answer)),
      );
    });
  } finally {
    client.close();
  }
}

function requestOf(principal: string, headers: Record<string, string> = {}, address = "10.0.0.1") {
  return toBinary(
    CheckRequestSchema,
    create(CheckRequestSchema, {
      attributes: {
        source: {
          principal,
          address: {
            address: {
              case: "socketAddress",
              value: { address, portSpecifier: { case: "portValue", value: 4_294_967_295 } },
            },
          },
        },
        request: { http: { method: "GET", path: "/orders", host: "orders", headers } },
      },
    }),
  );
}

t.test("settings that are wrong are told all at once, with their places, and nothing starts", async (t) => {
  const config = join(folder, "config.yaml");
  await writeFile(config, "polcy: x\nlog-level: loud\nprincipals-max: 3\n");
  const { code, err } = await runCommand(["serve", "--config", config, "--health-address", "nowhere"]);
  t.equal(code, 1);
  t.match(err, /config\.yaml:1:1 polcy: unknown setting; did you mean policy\?/);
  t.match(err, /config\.yaml:2:1 log-level: expected one of debug, info, warn, error, silent, got "loud"/);
  t.match(err, /config\.yaml:3:1 principals-max: expected a whole number from 10 to 1000000, got "3"/);
  t.match(err, /--health-address: expected HOST:PORT or unix:PATH, got "nowhere"/);
});

t.test("a policy that is wrong stops the start with every problem", async (t) => {
  const policy = join(folder, "wrong.yaml");
  await writeFile(
    policy,
    "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec: {mode: on, autoLock: soon}\n",
  );
  const { code, err } = await runCommand(["serve", "--policy", policy]);
  t.equal(code, 1);
  t.match(err, /wrong\.yaml:4:14 spec\.mode/);
  t.match(err, /wrong\.yaml:4:28 spec\.autoLock/);
});

t.test("a port in use is named", async (t) => {
  const sidecar = await startSidecarProcess({ name: "holder", folder });
  t.teardown(() => sidecar.stop());
  const { code, err } = await runCommand(["serve", "--ext-authz-address", sidecar.extAuthz]);
  t.equal(code, 1);
  t.match(err, /cannot listen on 127\.0\.0\.1:\d+.*ERR_LISTEN/);
});

t.test("Unix sockets serve checks, health and the private API", async (t) => {
  const sidecar = await startSidecarProcess({
    name: "unix",
    folder,
    flags: [
      "--ext-authz-address",
      `unix:${join(folder, "c.sock")}`,
      "--streams-address",
      `unix:${join(folder, "s.sock")}`,
    ],
  });
  t.teardown(() => sidecar.stop());
  t.type(await checkBytes(sidecar, requestOf("spiffe://td/a")), "object");
  t.equal((await stat(sidecar.apiSocket)).mode & 0o777, 0o600);
  const { code, out } = await runCommand([
    "doctor",
    "--streams-address",
    sidecar.streams,
    "--api",
    `unix:${sidecar.apiSocket}`,
  ]);
  t.equal(code, 0, out);
  t.match(out, /gRPC health: unix:.* is serving/);
});

t.test("reflection lists what the streams address serves, and Envoy's check", async (t) => {
  const sidecar = await startSidecarProcess({ name: "reflection", folder });
  t.teardown(() => sidecar.stop());
  const client = new Client(sidecar.streams, credentials.createInsecure());
  t.teardown(() => client.close());
  const call = client.makeBidiStreamRequest("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", raw, raw);
  // ServerReflectionRequest with list_services (field 7) empty: all of them.
  call.write(Buffer.from([0x3a, 0x00]));
  const [answer] = (await once(call, "data")) as [Buffer];
  call.end();
  for (const service of ["envoy.service.auth.v3.Authorization", "envoy.service.accesslog.v3.AccessLogService"]) {
    t.ok(answer.includes(service), service);
  }
});

t.test("SIGTERM drains and ends with 0; what was learned is there after a restart", async (t) => {
  const flags = ["--state-dir", join(folder, "state")];
  const first = await startSidecarProcess({ name: "first", folder, flags });
  for (let i = 0; i < 30; i++) await checkBytes(first, requestOf("spiffe://td/known"));
  t.equal(await first.stop(), 0);
  const second = await startSidecarProcess({ name: "second", folder, flags });
  t.teardown(() => second.stop());
  t.match((await runCommand(["baseline", "show", "--api", second.api])).out, /spiffe:\/\/td\/known {2}\d+ requests/);
});

t.test("a kill at any moment leaves the last snapshot; a torn one is set aside", async (t) => {
  const state = join(folder, "killed");
  const flags = ["--state-dir", state, "--snapshot-interval", "1s"];
  const first = await startSidecarProcess({ name: "killed", folder, flags });
  for (let i = 0; i < 10; i++) await checkBytes(first, requestOf("spiffe://td/known"));
  await eventually(async () => (await metric(first, "sallyport_snapshots_total", "written")) || undefined);
  await first.kill();
  const second = await startSidecarProcess({ name: "again", folder, flags });
  t.match((await runCommand(["baseline", "show", "--api", second.api])).out, /spiffe:\/\/td\/known/);
  await second.kill();
  const path = join(state, "baselines.state");
  await writeFile(path, (await readFile(path)).subarray(0, 100));
  const third = await startSidecarProcess({ name: "torn", folder, flags });
  t.teardown(() => third.stop());
  t.match(await readFile(third.log, "utf8"), /"event":"state.unusable".*ERR_STATE_INVALID/);
  t.ok(existsSync(`${path}.unusable`));
  t.match((await runCommand(["baseline", "show", "--api", third.api])).out, /nothing learned yet/);
});

t.test("a good policy change is taken, a bad one refused and told while the last good one stays", async (t) => {
  const policy = join(folder, "live.yaml");
  const text = (revision: string, spec: string): string =>
    `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p, revision: "${revision}"}\nspec: ${spec}\n`;
  await writeFile(policy, text("1", "{}"));
  const sidecar = await startSidecarProcess({ name: "live", folder, policy });
  t.teardown(() => sidecar.stop());
  const readiness = async () =>
    (await (await fetch(`http://${sidecar.health}/readyz`)).json()) as Record<string, string>;
  await writeFile(policy, text("2", "{rules: [{name: all, decision: deny}]}"));
  await eventually(async () => ((await readiness()).policy_revision === "2" ? true : undefined));
  t.match(await checkBytes(sidecar, requestOf("spiffe://td/a")), { status: { code: 7 } });
  await writeFile(policy, text("3", "{mode: nonsense}"));
  await eventually(async () =>
    (await metric(sidecar, "sallyport_policy_loads_total", "refused")) > 0 ? true : undefined,
  );
  t.match(await readiness(), { ready: true, policy_revision: "2", policy: "latest refused, last good in force" });
  t.match(await checkBytes(sidecar, requestOf("spiffe://td/a")), { status: { code: 7 } });
  t.match(await readFile(sidecar.log, "utf8"), /live\.yaml:4:14 spec\.mode/);
});

t.test("health, readiness, metrics and the live page answer; other sites' pages do not get in", async (t) => {
  const sidecar = await startSidecarProcess({ name: "pages", folder });
  t.teardown(() => sidecar.stop());
  const get = (url: string, headers: Record<string, string> = {}) => fetch(`http://${url}`, { headers });
  t.equal((await get(`${sidecar.health}/healthz`)).status, 200);
  t.equal((await get(`${sidecar.health}/readyz`)).status, 200);
  t.equal((await get(`${sidecar.health}/nothing`)).status, 404);
  t.match(await (await get(`${sidecar.health}/metrics`)).text(), /^# HELP sallyport_checks_total /m);
  const page = await get(`${sidecar.api}/`);
  t.match(page.headers.get("content-security-policy"), /default-src 'none'; script-src 'self'/);
  t.match(await page.text(), /<script type="module" src="\/page.js">/);
  t.equal((await get(`${sidecar.api}/page.js`)).status, 200);
  t.equal((await get(`${sidecar.api}/`, { origin: "http://evil.example" })).status, 403);
  const child = spawn("node", [
    "-e",
    `require("http").get({host:"127.0.0.1",port:${sidecar.api.split(":")[1]},headers:{host:"evil.example"}},r=>console.log(r.statusCode))`,
  ]);
  const [status] = (await once(child.stdout, "data")) as [Buffer];
  t.equal(status.toString().trim(), "403");
});

t.test("the token opens the address for changes, a wrong one does not; every change is in the log", async (t) => {
  const token = join(folder, "api-token");
  const sidecar = await startSidecarProcess({ name: "token", folder, flags: ["--api-token-file", token] });
  t.teardown(() => sidecar.stop());
  t.equal((await stat(token)).mode & 0o777, 0o600);
  const lock = (file: string) =>
    runCommand([
      "lock",
      "--address",
      "192.0.2.0/24",
      "--reason",
      "why not",
      "--api",
      sidecar.api,
      "--api-token-file",
      file,
    ]);
  t.match(await lock(token), { code: 0, out: /address=192\.0\.2\.0\/24/ });
  const wrong = join(folder, "wrong-token");
  await writeFile(wrong, "w".repeat(32));
  t.match(await lock(wrong), { code: 1, err: /ERR_API_UNAUTHORIZED/ });
  t.match(await checkBytes(sidecar, requestOf("spiffe://td/a", {}, "192.0.2.9")), { status: { code: 7 } });
  const log = await readFile(sidecar.log, "utf8");
  t.match(log, /"event":"audit","change":"lock.added".*"reason":"why not"/);
  t.notOk(log.includes((await readFile(token, "utf8")).trim()));
});

t.test("whatever bytes arrive, the next honest check is answered", async (t) => {
  const flags = ["--principals-max", "100", "--sessions-max", "100"];
  const sidecar = await startSidecarProcess({ name: "fuzz", folder, flags });
  t.teardown(() => sidecar.stop());
  const honest = requestOf("spiffe://td/a");
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), fc.nat(honest.length), async (noise, at) => {
      await checkBytes(sidecar, noise);
      await checkBytes(sidecar, Uint8Array.from([...honest.subarray(0, at), ...noise]));
    }),
    { numRuns: 60 },
  );
  const odd = [
    new Uint8Array(),
    requestOf("x".repeat(5_000)),
    requestOf("spiffe://td/a", { ":path": "/", "x-forwarded-client-cert": "x".repeat(100_000) }),
    requestOf("spiffe://td/a", { authorization: "Bearer \u0000" }),
    requestOf("spiffe://td/a", { __proto__: "x", constructor: "y" } as Record<string, string>),
    requestOf("spiffe://td/a", {}, "fe80::1%eth0"),
    requestOf("spiffe://td/a", {}, "not an address"),
  ];
  for (const bytes of odd) t.type(await checkBytes(sidecar, bytes), "object");
  for (let i = 0; i < 1_000; i++) await checkBytes(sidecar, requestOf(`spiffe://td/minted-${i}`));
  t.ok((await metric(sidecar, "sallyport_principals")) <= 100);
  t.match(await checkBytes(sidecar, honest), { status: { code: 0 } });
});

t.test("no file is left open to others", async (t) => {
  for (const name of await readdir(join(folder, "state"))) {
    t.equal((await stat(join(folder, "state", name))).mode & 0o077, 0, name);
  }
});
