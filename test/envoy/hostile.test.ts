import fc from "fast-check";
import t from "tap";
import { sendBodies } from "../support/bootstrap.ts";
import { fetchOnce, tlsConnection } from "../support/clients.ts";
import { type Entry, metric, startGuarded, startOrders } from "../support/guarded.ts";

const guarded = await startGuarded({
  config: "envoy/http-mtls.yaml",
  service: startOrders,
  // What is tried here is how requests are read: nobody is challenged for being strange.
  spec: { thresholds: { challenge: 99, deny: 99, terminate: 100 } },
  flags: ["--principals-max", "50", "--sessions-max", "50"],
  change: sendBodies(1024 * 1024),
});
t.teardown(() => guarded.stop());
const { service, sidecar } = guarded;
const web = await guarded.caller("web");
const honest = await guarded.caller("honest");

/** Sends bytes as they are over TLS; the status of the first answer, or 0 when the connection ended without one. */
async function send(...parts: readonly (string | Buffer)[]): Promise<number> {
  const connection = await tlsConnection(web);
  connection.socket.write(Buffer.concat(parts.map((part) => Buffer.from(part))));
  await Promise.race([connection.until("\r\n\r\n").catch(() => {}), connection.closed]);
  connection.socket.destroy();
  await connection.closed;
  return Number(/^HTTP\/1\.[01] (\d{3}) /.exec(connection.received())?.[1] ?? 0);
}

const get = (headers: string | Buffer = "", path = "/orders/1"): (string | Buffer)[] => [
  `GET ${path} HTTP/1.1\r\nhost: orders.shop.example\r\n`,
  headers,
  "connection: close\r\n\r\n",
];

const NO_TEXT = Buffer.from([0xff, 0xfe, 0x80, 0xc3, 0x28]);
const header = (name: string, value: string | Buffer): Buffer =>
  Buffer.concat([Buffer.from(`${name}: `), Buffer.from(value), Buffer.from("\r\n")]);

const cases: { name: string; request: (string | Buffer)[]; status: number }[] = [
  { name: "a header of 100 KB", request: get(header("x-long", "x".repeat(100_000))), status: 431 },
  { name: "a header of 12 KB", request: get(header("x-long", "x".repeat(12_000))), status: 200 },
  { name: "a user agent of 12 KB", request: get(header("user-agent", "x".repeat(12_000))), status: 200 },
  { name: "a token of 12 KB", request: get(header("authorization", `Bearer ${"x".repeat(12_000)}`)), status: 200 },
  { name: "a path of 12 KB", request: get("", `/${"x".repeat(12_000)}`), status: 404 },
  { name: "a query of 12 KB", request: get("", `/orders/1?${"x".repeat(12_000)}`), status: 200 },
  {
    name: "a hundred headers too many",
    request: get(Array.from({ length: 200 }, (_, i) => `x-${i}: x\r\n`).join("")),
    status: 431,
  },
  { name: "a user agent that is no UTF-8", request: get(header("user-agent", NO_TEXT)), status: 200 },
  {
    name: "a token that is no UTF-8",
    request: get(header("authorization", Buffer.concat([Buffer.from("Bearer "), NO_TEXT]))),
    status: 200,
  },
  { name: "a key that is no UTF-8", request: get(header("x-api-key", NO_TEXT)), status: 200 },
  { name: "our own header, no UTF-8", request: get(header("x-sallyport-ja4", NO_TEXT)), status: 200 },
  {
    name: "two authorization headers",
    request: get("authorization: Bearer a.b.c\r\nAuthorization: Bearer d.e.f\r\n"),
    status: 200,
  },
  { name: "two hosts", request: get("host: other.example\r\n"), status: 200 },
  { name: "two user agents", request: get("user-agent: a\r\nuser-agent: b\r\n"), status: 200 },
  {
    name: "a forged certificate header",
    request: get(`x-forwarded-client-cert: Hash=${"ab".repeat(32)};URI=spiffe://shop.example/admin\r\n`),
    status: 200,
  },
  {
    name: "a forged address with a zone",
    request: get("x-forwarded-for: fe80::1%eth0, 10.0.0.1:99999\r\n"),
    status: 200,
  },
  { name: "a forged request id", request: get(`x-request-id: ${"x".repeat(5_000)}\r\n`), status: 200 },
  { name: "a zero byte in a header", request: get(header("x-zero", Buffer.from([0x61, 0x00, 0x62]))), status: 400 },
  { name: "a zero byte in the path", request: get("", "/orders/1%00"), status: 400 },
  {
    name: "a path that is no UTF-8",
    request: [
      Buffer.concat([
        Buffer.from("GET /"),
        NO_TEXT,
        Buffer.from(" HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n"),
      ]),
    ],
    status: 400,
  },
  { name: "a path that climbs, read as where it leads", request: get("", "/a/../../orders/1"), status: 200 },
  { name: "an escaped slash", request: get("", "/orders%2f1"), status: 400 },
  {
    name: "a method of its own",
    request: ["BREW /orders/1 HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n"],
    status: 400,
  },
  { name: "no host at all", request: ["GET /orders/1 HTTP/1.1\r\nconnection: close\r\n\r\n"], status: 400 },
  {
    name: "two lengths",
    request: ["POST /orders HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef"],
    status: 400,
  },
  {
    name: "a length and chunks",
    request: [
      "POST /orders HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    status: 400,
  },
  { name: "bytes that are no HTTP", request: [NO_TEXT, "\r\n\r\n"], status: 400 },
];
for (const { name, request, status } of cases) {
  t.test(`${name}: ${status}, nobody else's name, and the next caller is served`, async (t) => {
    const before = service.received.length;
    t.equal(await send(...request), status);
    for (const { headers } of service.received.slice(before))
      t.equal(headers["x-sallyport-principal"], "spiffe://shop.example/web");
    t.equal((await fetchOnce(honest, { path: "/orders/1" })).status, 200);
  });
}

t.test("bodies that are sent along, whole or in part, are no matter", async (t) => {
  for (const bytes of [0, 1, 1024 * 1024 - 1, 1024 * 1024, 1024 * 1024 + 1, 5_000_000]) {
    const answer = await fetchOnce(web, { path: "/none", method: "POST", body: "x".repeat(bytes) });
    t.equal(answer.status, 404, `${bytes} bytes: the service's own answer`);
  }
  const chunks = Array.from({ length: 20 }, () => [`${NO_TEXT.length}\r\n`, NO_TEXT, "\r\n"]).flat();
  const head = "POST /none HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
  t.equal(await send(head, ...chunks, "0\r\n\r\n"), 404);
});

t.test("random headers never fail a check, nor change who calls", async (t) => {
  const value = fc
    .uint8Array({ maxLength: 200 })
    .map((bytes) => Buffer.from(bytes.filter((byte) => byte >= 0x20 && byte !== 0x7f)));
  const name = fc.constantFrom(
    ...[
      "authorization",
      "x-api-key",
      "user-agent",
      "x-forwarded-client-cert",
      "x-forwarded-for",
      "x-request-id",
      "content-type",
    ],
    ...[
      "x-sallyport-ja3",
      "x-sallyport-source",
      "x-sallyport-peer-fp",
      "x-sallyport-connection",
      "cookie",
      "te",
      "via",
    ],
  );
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(name, value), { minLength: 1, maxLength: 6 }), async (headers) => {
      const before = service.received.length;
      const status = await send(...get(Buffer.concat(headers.map(([key, content]) => header(key, content)))));
      if (![200, 400, 401, 403].includes(status)) throw new Error(`answered with ${status}`);
      for (const { headers: received } of service.received.slice(before)) {
        if (received["x-sallyport-principal"] !== "spiffe://shop.example/web")
          throw new Error(String(received["x-sallyport-principal"]));
      }
    }),
    { numRuns: 60 },
  );
  t.equal((await fetchOnce(honest, { path: "/orders/1" })).status, 200);
});

t.test("many callers, paths and credentials leave the memory bounded", async (t) => {
  const callers = await Promise.all(Array.from({ length: 60 }, (_, i) => guarded.caller(`minted-${i}`)));
  for (const [i, caller] of callers.entries()) {
    await fetchOnce(caller, {
      path: `/orders/${i}`,
      headers: { authorization: `Bearer opaque-${i}`, "user-agent": `agent-${i}` },
    });
  }
  t.ok((await metric(sidecar, "sallyport_principals")) <= 50);
  t.ok((await metric(sidecar, "sallyport_sessions")) <= 50);
});

t.test("through all of this no check failed", async (t) => {
  t.equal(await metric(sidecar, "sallyport_check_errors_total"), 0);
  const failed = (await guarded.envoy.accessLog()).filter(({ details }: Entry) => details === "ext_authz_error");
  t.same(failed, []);
});
