import { once } from "node:events";
import { Agent, request } from "node:https";
import { connect as connectNet, createServer, type Socket } from "node:net";
import { connect, TLSSocket } from "node:tls";
import t, { type Test } from "tap";
import { createPki } from "../../scripts/pki.ts";
import { listen } from "../../scripts/services/service.ts";
import { type KeyPair, readKeyPair } from "../../src/webhook/key-pair.ts";
import { INJECT_PATH, type ListenerOptions, type Reply, WebhookListener } from "../../src/webhook/listener.ts";
import { eventually } from "../support/guarded.ts";

const NAMES = { cert: "tls.crt", key: "tls.key" };
const pki = await createPki();

async function pairOf(authority = pki): Promise<KeyPair> {
  const { certPem, keyPem } = await authority.issue({ ips: ["127.0.0.1"] });
  return readKeyPair(Buffer.from(certPem), Buffer.from(keyPem), NAMES);
}

async function started(t: Test, more: Partial<ListenerOptions> = {}) {
  const bodies: string[] = [];
  const turned: string[] = [];
  const failures: boolean[] = [];
  const pair = await pairOf();
  const listener = new WebhookListener({
    address: "127.0.0.1:0",
    pair,
    review: (body): Reply => {
      bodies.push(body.toString());
      return { status: 200, body: '{"ok":true}' };
    },
    onTurned: (reason) => turned.push(reason),
    onHandshakeFailure: (distrusted) => failures.push(distrusted),
    ...more,
  });
  await listener.listen();
  t.teardown(() => listener.close(0));
  return { listener, pair, bodies, turned, failures, port: Number(listener.boundAddress.split(":")[1]) };
}

interface Asked {
  readonly method?: string;
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Buffer;
  readonly agent?: Agent;
  /** Sent in chunks, without a length. */
  readonly chunked?: boolean;
}

interface Got {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
  readonly body: string;
  readonly fingerprint: string;
  /** Of the connection, on the caller's side. */
  readonly localPort: number;
}

function ask(port: number, asked: Asked = {}): Promise<Got> {
  return new Promise((resolve, reject) => {
    const body = Buffer.from(asked.body ?? "{}");
    const call = request(
      {
        host: "127.0.0.1",
        port,
        ca: pki.caPem,
        agent: asked.agent ?? false,
        method: asked.method ?? "POST",
        path: asked.path ?? `${INJECT_PATH}?timeout=5s`,
        headers: {
          "content-type": "application/json",
          ...(asked.chunked === true ? { "transfer-encoding": "chunked" } : { "content-length": body.length }),
          ...asked.headers,
        },
      },
      (response) => {
        const fingerprint = (response.socket as TLSSocket).getPeerX509Certificate()?.fingerprint256 ?? "";
        const localPort = response.socket.localPort ?? 0;
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (piece: string) => {
          text += piece;
        });
        response.on("error", reject);
        response.on("end", () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: text,
            fingerprint: fingerprint.replaceAll(":", "").toLowerCase(),
            localPort,
          }),
        );
      },
    );
    call.on("error", reject);
    call.end(body);
  });
}

t.test("a posted review is answered with JSON", async (t) => {
  const { port, bodies, turned } = await started(t);
  const got = await ask(port, { body: '{"a":1}' });
  t.match(got, { status: 200, body: '{"ok":true}', headers: { "content-type": "application/json" } });
  t.equal(Number(got.headers["content-length"]), 11);
  t.match(await ask(port, { body: '{"b":2}', chunked: true }), { status: 200 });
  t.match(await ask(port, { path: INJECT_PATH, headers: { "content-type": "application/json; charset=utf-8" } }), {
    status: 200,
  });
  t.same(bodies, ['{"a":1}', '{"b":2}', "{}"]);
  t.same(turned, []);
});

const turned: readonly {
  readonly name: string;
  readonly asked: Asked;
  readonly status: number;
  readonly why: string;
}[] = [
  { name: "another path", asked: { path: "/mutate" }, status: 404, why: "not_found" },
  { name: "a path below", asked: { path: `${INJECT_PATH}/x` }, status: 404, why: "not_found" },
  { name: "a GET", asked: { method: "GET", body: "" }, status: 405, why: "method" },
  { name: "YAML", asked: { headers: { "content-type": "application/yaml" } }, status: 415, why: "media_type" },
  { name: "no content type", asked: { headers: { "content-type": "" } }, status: 415, why: "media_type" },
  { name: "gzip", asked: { headers: { "content-encoding": "gzip" } }, status: 415, why: "media_type" },
  { name: "65 bytes where 64 are taken", asked: { body: "x".repeat(65) }, status: 413, why: "too_large" },
  { name: "65 bytes in chunks", asked: { body: "x".repeat(65), chunked: true }, status: 413, why: "too_large" },
];
for (const { name, asked, status, why } of turned) {
  t.test(`${name} is answered with ${status} and a Status that says what was expected`, async (t) => {
    const { port, turned, bodies } = await started(t, { bodyBytesMax: 64 });
    const got = await ask(port, asked);
    t.equal(got.status, status);
    t.match(JSON.parse(got.body), { kind: "Status", status: "Failure", code: status, message: /^sallyport: / });
    t.same(turned, [why]);
    t.same(bodies, []);
  });
}

t.test("64 bytes are taken where 64 are", async (t) => {
  const { port } = await started(t, { bodyBytesMax: 64 });
  t.match(await ask(port, { body: "x".repeat(64) }), { status: 200 });
  t.match(await ask(port, { body: "x".repeat(64), chunked: true }), { status: 200 });
});

t.test("a body far beyond the bound gets to read its answer, and the next review is taken", async (t) => {
  const { port } = await started(t, { bodyBytesMax: 64 });
  t.match(await ask(port, { body: Buffer.alloc(4 * 1024 * 1024, 0x20), chunked: true }), { status: 413 });
  t.match(await ask(port), { status: 200 });
});

/** Connects and sends the head of a review with this many bytes announced, and `sent` of them. */
async function begin(t: Test, port: number, announced: number, sent: number, timeout = "30s"): Promise<TLSSocket> {
  const socket = connect({ host: "127.0.0.1", port, ca: pki.caPem });
  t.teardown(() => socket.destroy());
  await once(socket, "secureConnect");
  socket.write(
    `POST ${INJECT_PATH}?timeout=${timeout} HTTP/1.1\r\nhost: webhook\r\ncontent-type: application/json\r\ncontent-length: ${announced}\r\n\r\n${" ".repeat(sent)}`,
  );
  return socket;
}

t.test("more bodies at a time than there is room for are asked to come again", async (t) => {
  const { port, turned } = await started(t, { bodyBytesMax: 1_000, bodiesBytesMax: 1_000 });
  const slow = await begin(t, port, 901, 900);
  await eventually(async () => {
    const got = await ask(port, { body: " ".repeat(101) });
    if (got.status === 200) return undefined; // the slow one's bytes are still on their way
    t.match(got, { status: 429, headers: { "retry-after": "1" } });
    return true;
  });
  t.match(await ask(port, { body: " ".repeat(100) }), { status: 200 }, "what fits is taken");
  slow.write(" ");
  const [answer] = (await once(slow, "data")) as [Buffer];
  t.match(answer.toString(), /^HTTP\/1\.1 200 /);
  t.match(await ask(port, { body: " ".repeat(1_000) }), { status: 200 }, "the room is free again");
  t.same([...new Set(turned)], ["busy"]);
});

t.test("a caller that goes away frees its room", async (t) => {
  const { port, turned } = await started(t, { bodyBytesMax: 1_000, bodiesBytesMax: 1_000 });
  (await begin(t, port, 1_000, 900)).destroy();
  await eventually(async () => (turned.includes("aborted") ? true : undefined));
  t.match(await ask(port, { body: " ".repeat(1_000) }), { status: 200 });
});

t.test("a body that does not come in the API server's own time is given up", async (t) => {
  const { port, turned } = await started(t);
  const socket = await begin(t, port, 10, 1, "1s");
  const [answer] = (await once(socket, "data")) as [Buffer];
  t.match(answer.toString(), /^HTTP\/1\.1 408 [\s\S]*connection: close/i);
  t.same(turned, ["timeout"]);
});

t.test("TLS 1.2 and 1.3 are spoken, 1.1 is not", async (t) => {
  const { port, failures } = await started(t);
  for (const version of ["TLSv1.2", "TLSv1.3"] as const) {
    const socket = connect({ host: "127.0.0.1", port, ca: pki.caPem, minVersion: version, maxVersion: version });
    await once(socket, "secureConnect");
    t.equal(socket.getProtocol(), version);
    socket.destroy();
  }
  const old = connect({
    host: "127.0.0.1",
    port,
    ca: pki.caPem,
    minVersion: "TLSv1.1",
    maxVersion: "TLSv1.1",
    ciphers: "DEFAULT@SECLEVEL=0",
  });
  await t.rejects(once(old, "secureConnect"));
  await eventually(async () => (failures.length > 0 ? true : undefined));
  t.notOk(failures.includes(true));
});

t.test("new connections meet a new certificate, open ones go on", async (t) => {
  const { listener, port, pair } = await started(t);
  const agent = new Agent({ keepAlive: true, maxSockets: 1, maxCachedSessions: 0 });
  t.teardown(() => agent.destroy());
  const before = await ask(port, { agent });
  t.equal(before.fingerprint, pair.fingerprint);
  const next = await pairOf();
  listener.use(next);
  t.equal((await ask(port)).fingerprint, next.fingerprint);
  t.equal((await ask(port, { agent })).localPort, before.localPort, "the connection that was open");
});

/** The first flight of a TLS client, as it goes over the wire. */
async function clientHello(t: Test, version: "TLSv1.2" | "TLSv1.3"): Promise<Buffer> {
  const server = createServer();
  const port = await listen(server, 0);
  const client = connect({ host: "127.0.0.1", port, minVersion: version, maxVersion: version });
  client.on("error", () => {}); // it gets no answer
  const [socket] = (await once(server, "connection")) as [Socket];
  const [hello] = (await once(socket, "data")) as [Buffer];
  client.destroy();
  socket.destroy();
  t.teardown(() => server.close());
  return hello;
}

/** TLS records that turn a certificate down: fatal (2) bad_certificate (42) and unknown_ca (48). */
const ALERTS = [Buffer.from([0x15, 3, 3, 0, 2, 2, 42]), Buffer.from([0x15, 3, 3, 0, 2, 2, 48])];

for (const version of ["TLSv1.2", "TLSv1.3"] as const) {
  t.test(`a caller that does not trust the certificate is told apart (${version})`, async (t) => {
    const { port, failures } = await started(t);
    for (const alert of ALERTS) {
      const socket = connectNet({ host: "127.0.0.1", port });
      socket.write(await clientHello(t, version));
      await once(socket, "data"); // the certificate
      socket.end(alert);
      await once(socket.resume(), "close");
    }
    await eventually(async () => (failures.length >= ALERTS.length ? true : undefined));
    t.same(failures, [true, true]);
  });
}

t.test("idle connections outlive those of API servers, which end after 90 seconds", async (t) => {
  const { port } = await started(t);
  const agent = new Agent({ keepAlive: true });
  t.teardown(() => agent.destroy());
  t.equal((await ask(port, { agent })).headers["keep-alive"], "timeout=120");
});

t.test("draining, each answer ends its connection; then the listener ends with what is under way", async (t) => {
  const { listener, port } = await started(t);
  const agent = new Agent({ keepAlive: true });
  t.teardown(() => agent.destroy());
  t.match((await ask(port, { agent })).headers, { connection: "keep-alive" });
  listener.drain();
  t.match(await ask(port, { agent }), { status: 200, headers: { connection: "close" } }, "still served");
  const slow = await begin(t, port, 2, 1);
  // The server must have it before it closes: its connection would be idle otherwise.
  await ask(port);
  const closed = listener.close(60_000);
  await t.rejects(ask(port), { code: "ECONNREFUSED" });
  slow.write(" ");
  const [answer] = (await once(slow, "data")) as [Buffer];
  t.match(answer.toString(), /^HTTP\/1\.1 200 /);
  await closed;
});

t.test("what is under way longer than allowed is cut", async (t) => {
  const { listener, port } = await started(t);
  const slow = await begin(t, port, 2, 1);
  await ask(port);
  const ended = once(slow, "close");
  await listener.close(0);
  await ended;
});

t.test("what is no HTTP is answered with 400", async (t) => {
  const { port, turned, failures } = await started(t);
  const socket = connect({ host: "127.0.0.1", port, ca: pki.caPem });
  await once(socket, "secureConnect");
  socket.write("hello\r\n\r\n");
  const [answer] = (await once(socket, "data")) as [Buffer];
  t.match(answer.toString(), /^HTTP\/1\.1 400 /);
  t.same(turned, ["http"]);
  t.same(failures, []);
});

t.test("a port that is taken is an operating error", async (t) => {
  const { port } = await started(t);
  const second = new WebhookListener({
    address: `127.0.0.1:${port}`,
    pair: await pairOf(),
    review: () => ({ status: 200, body: "" }),
    onTurned: () => {},
    onHandshakeFailure: () => {},
  });
  await t.rejects(second.listen(), { code: "ERR_LISTEN" });
});

for (const { name, hold } of [
  { name: "say nothing", hold: (port: number) => connectNet(port, "127.0.0.1") },
  {
    name: "have only shaken hands",
    hold: (port: number) => connect({ port, host: "127.0.0.1", ca: pki.caPem }),
  },
  {
    name: "were turned away",
    hold: (port: number) => {
      const socket = connect({ port, host: "127.0.0.1", ca: pki.caPem });
      return socket.resume().on("secureConnect", () => socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n"));
    },
  },
]) {
  t.test(`connections that ${name} give way to one that brings a review, the oldest first`, async (t) => {
    const { port, turned } = await started(t, { connectionsMax: 4 });
    const agent = new Agent({ keepAlive: true, maxSockets: 1, maxCachedSessions: 0 });
    t.teardown(() => agent.destroy());
    const { localPort } = await ask(port, { agent });
    const held: Socket[] = [];
    for (let count = 0; count < 6; count++) {
      const socket = hold(port).on("error", () => {});
      t.teardown(() => socket.destroy());
      held.push(socket);
      await once(socket, socket instanceof TLSSocket ? "secureConnect" : "connect");
    }
    t.match(await ask(port), { status: 200 });
    await eventually(async () => (held.slice(0, 4).every(({ closed }) => closed) ? true : undefined));
    t.same(
      held.slice(4).map(({ closed }) => closed),
      [false, false],
      "there is room for them",
    );
    t.equal((await ask(port, { agent })).localPort, localPort, "the one that brought a review is kept");
    t.equal(turned.filter((reason) => reason === "crowded").length, 4);
  });
}
