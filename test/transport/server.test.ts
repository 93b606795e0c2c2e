import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import * as http2 from "node:http2";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import fc from "fast-check";
import t from "tap";
import { ErrorCode, FrameType, frame, PREFACE } from "../../src/transport/frames.ts";
import { UnaryServer } from "../../src/transport/server.ts";
import { GrpcFailure } from "../../src/transport/unary.ts";
import { CALL_FIELDS, call, data, ECHO, grpcMessage, headers, RawClient, serve } from "../support/raw-h2.ts";

const bytes = (value: Buffer) => value;

function ask(
  client: Client,
  message: Buffer,
  options: { path?: string; deadline?: number; metadata?: Metadata } = {},
): Promise<Buffer | ServiceError> {
  return new Promise((resolve) => {
    client.makeUnaryRequest(
      options.path ?? ECHO,
      bytes,
      bytes,
      message,
      options.metadata ?? new Metadata(),
      options.deadline === undefined ? {} : { deadline: options.deadline },
      (error, answer) => resolve(error ?? (answer as Buffer)),
    );
  });
}

function grpcClient(t: { teardown(fn: () => unknown): unknown }, port: number): Client {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  t.teardown(() => client.close());
  return client;
}

t.test("grpc-js is answered: small, empty, large, with metadata", async (t) => {
  const served = await serve(t);
  const client = grpcClient(t, served.port);
  const metadata = new Metadata();
  metadata.set("x-long", "v".repeat(20_000));
  for (const size of [0, 1, 2000, 16_379, 16_380, 70_000, 4_000_000]) {
    const message = Buffer.alloc(size, "m");
    const answer = await ask(client, message, { metadata });
    t.ok(Buffer.isBuffer(answer) && answer.equals(message), `${size} bytes`);
  }
});

const failures = [
  { name: "a GrpcFailure gives its code and text", error: new GrpcFailure(7, "nö: 100%"), code: 7, text: "nö: 100%" },
  { name: "anything else is INTERNAL and says nothing", error: new Error("secret"), code: 13, text: "internal error" },
];
for (const { name, error, code, text } of failures) {
  for (const late of [false, true]) {
    t.test(`${name}${late ? ", also when it comes late" : ""}`, async (t) => {
      const served = await serve(t, {
        handle: () => {
          if (late) return Promise.reject(error);
          throw error;
        },
      });
      t.match(await ask(grpcClient(t, served.port), Buffer.alloc(1)), { code, details: text });
      t.same(served.errors, code === 13 ? [error] : []);
    });
  }
}

t.test("an unknown method is UNIMPLEMENTED, a message over the limit RESOURCE_EXHAUSTED", async (t) => {
  const served = await serve(t, { limits: { messageBytesMax: 1000 } });
  const client = grpcClient(t, served.port);
  t.match(await ask(client, Buffer.alloc(1), { path: "/test.Echo/Other" }), { code: status.UNIMPLEMENTED });
  t.match(await ask(client, Buffer.alloc(1001)), { code: status.RESOURCE_EXHAUSTED });
  t.ok(Buffer.isBuffer(await ask(client, Buffer.alloc(1000))));
});

t.test("the caller's timeout is handed on, and kept for handlers that do not settle", async (t) => {
  const seen: (number | undefined)[] = [];
  const served = await serve(t, {
    handle: (message, timeoutMs) => {
      seen.push(timeoutMs);
      return message.length === 0 ? message : new Promise(() => {});
    },
  });
  const client = new RawClient(served.port);
  client.write(
    call(1, ""),
    headers(3, [...CALL_FIELDS, ["grpc-timeout", "20m"]]),
    data(3, grpcMessage(Buffer.alloc(1))),
    headers(5, [...CALL_FIELDS, ["grpc-timeout", "0n"]]),
    data(5, grpcMessage(Buffer.alloc(1))),
  );
  t.ok((await client.ended(3)).payload.includes("grpc-status\x014"));
  t.ok((await client.ended(5)).payload.includes("grpc-status\x014"));
  t.equal(seen.length, 2);
  t.equal(seen[0], undefined);
  t.ok(seen[1]! > 0 && seen[1]! <= 20);
});

const bodies = [
  { name: "no message", body: Buffer.alloc(0), code: 12 },
  { name: "two messages", body: Buffer.concat([grpcMessage(Buffer.alloc(1)), grpcMessage(Buffer.alloc(1))]), code: 12 },
  { name: "a compressed message", body: Buffer.of(1, 0, 0, 0, 1, 0), code: 12 },
  { name: "an unknown flag", body: Buffer.of(2, 0, 0, 0, 1, 0), code: 13 },
  { name: "half a prefix", body: Buffer.of(0, 0, 0), code: 13 },
  { name: "half a message", body: Buffer.of(0, 0, 0, 0, 2, 0), code: 13 },
];
for (const { name, body, code } of bodies) {
  t.test(`${name} is answered ${code}, in one DATA frame or in many`, async (t) => {
    const client = new RawClient((await serve(t)).port);
    const pieces = [...body].map((byte) => data(3, Buffer.of(byte), false));
    client.write(headers(1), data(1, body), headers(3), ...pieces, data(3, Buffer.alloc(0)));
    const length = String(code).length;
    for (const id of [1, 3]) {
      const found = Buffer.concat([Buffer.from("grpc-status"), Buffer.of(length), Buffer.from(String(code))]);
      t.ok((await client.ended(id)).payload.includes(found), `stream ${id}`);
    }
    client.socket.destroy();
  });
}

const malformed: { name: string; fields: (readonly [string, string])[] }[] = [
  { name: "an upper-case name", fields: [...CALL_FIELDS, ["X-Up", "1"]] },
  { name: "a connection field", fields: [...CALL_FIELDS, ["connection", "close"]] },
  { name: "te other than trailers", fields: [...CALL_FIELDS.slice(0, 5), ["te", "gzip"]] },
  { name: "a missing :path", fields: CALL_FIELDS.filter(([name]) => name !== ":path") },
  { name: "an empty :path", fields: CALL_FIELDS.map(([n, v]) => (n === ":path" ? [n, ""] : [n, v])) },
  { name: "a late pseudo-header", fields: [...CALL_FIELDS.slice(1), [":method", "POST"]] },
  { name: "a repeated pseudo-header", fields: [[":method", "POST"], ...CALL_FIELDS] },
  { name: "an unknown pseudo-header", fields: [[":proto", "x"], ...CALL_FIELDS] },
  { name: "a response's pseudo-header", fields: [[":status", "200"], ...CALL_FIELDS] },
  { name: "two lengths", fields: [...CALL_FIELDS, ["content-length", "1"], ["content-length", "2"]] },
  { name: "a line break in a value", fields: [...CALL_FIELDS, ["x", "a\nb"]] },
  { name: "a length that the body does not have", fields: [...CALL_FIELDS, ["content-length", "9"]] },
];
for (const { name, fields } of malformed) {
  t.test(`${name} resets its stream only`, async (t) => {
    const client = new RawClient((await serve(t)).port);
    client.write(headers(1, fields), data(1, grpcMessage(Buffer.alloc(1))));
    await client.reset(1, ErrorCode.protocolError);
    client.write(call(3));
    await client.ended(3);
    client.socket.destroy();
  });
}

t.test("what is no gRPC call is answered 415 or 405 once it has ended", async (t) => {
  const session = http2.connect(`http://127.0.0.1:${(await serve(t)).port}`);
  t.teardown(() => session.destroy());
  for (const [method, type, want] of [
    ["POST", "text/plain", 415],
    ["GET", "application/grpc", 405],
    ["HEAD", "application/grpc", 405],
    ["POST", "application/grpc-web", 415],
  ] as const) {
    const stream = session.request({ ":method": method, ":path": ECHO, "content-type": type }, { endStream: true });
    const [answer] = await once(stream, "response");
    t.equal(answer[":status"], want);
    stream.resume();
    await once(stream, "close");
  }
});

t.test("calls split at every byte are the same calls", async (t) => {
  const { port } = await serve(t);
  const whole = Buffer.concat([PREFACE, frame(FrameType.settings, 0, 0), call(1), call(3)]);
  for (let at = 1; at < whole.length; at++) {
    const client = new RawClient(port, { greet: false });
    client.write(whole.subarray(0, at));
    await new Promise((resolve) => setImmediate(resolve));
    client.write(whole.subarray(at));
    await client.ended(3);
    t.equal(Buffer.concat(client.frames.filter((f) => f.type === 0).map((f) => f.payload)).length, 20);
    client.socket.destroy();
  }
  const client = new RawClient(port, { greet: false });
  for (const byte of whole) client.socket.write(Buffer.of(byte));
  await client.ended(3);
  client.socket.destroy();
});

t.test("nghttp2 agrees: random headers, sizes, windows and table sizes, many streams at once", async (t) => {
  const { port, refused } = await serve(t, {
    handle: (message) => (message.length % 2 ? message : Promise.resolve(message)),
  });
  const text = fc.string({ unit: fc.constantFrom(..."abcxyz019-_%=&"), minLength: 1, maxLength: 60 });
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        window: fc.integer({ min: 1, max: 100_000 }),
        table: fc.constantFrom(0, 64, 4096, 10_000),
        calls: fc.array(fc.record({ size: fc.integer({ min: 0, max: 40_000 }), key: text, value: text }), {
          minLength: 1,
          maxLength: 12,
        }),
      }),
      async ({ window, table, calls }) => {
        // A window of few bytes makes thousands of frames of a large message.
        const scale = Math.min(1, window / 2000);
        const session = http2.connect(`http://127.0.0.1:${port}`, {
          settings: { initialWindowSize: window, headerTableSize: table },
        });
        const answers = await Promise.all(
          calls.map(async ({ size, key, value }, index) => {
            const message = Buffer.alloc(Math.floor(size * scale), index);
            const stream = session.request({
              ":method": "POST",
              ":path": ECHO,
              "content-type": "application/grpc",
              [`x-${key.replace(/[^a-z0-9]/g, "")}`]: value,
            });
            stream.end(grpcMessage(message));
            let trailers: http2.IncomingHttpHeaders = {};
            stream.on("trailers", (found) => {
              trailers = found;
            });
            const parts: Buffer[] = [];
            for await (const part of stream) parts.push(part as Buffer);
            return trailers["grpc-status"] === "0" && Buffer.concat(parts).equals(grpcMessage(message));
          }),
        );
        session.destroy();
        return answers.every(Boolean);
      },
    ),
    { numRuns: 25 },
  );
  t.same(refused, []);
});

t.test("an answer that the next call changes is sent as it was, at once or when a window opens", async (t) => {
  const answer = Buffer.alloc(5);
  const served = await serve(t, {
    handle: (message) => {
      answer.set(message);
      return answer;
    },
  });
  const client = new RawClient(served.port);
  client.write(call(1, "first"), call(3, "other"), frame(FrameType.settings, 0, 0, Buffer.of(0, 4, 0, 0, 0, 0)));
  client.write(call(5, "later"), call(7, "again"));
  await client.ping("answered");
  for (const id of [5, 7]) client.write(frame(FrameType.windowUpdate, 0, id, Buffer.of(0, 0, 0, 10)));
  await client.ended(7);
  const answers = client.frames.filter((f) => f.type === FrameType.data).map((f) => f.payload.toString("latin1", 5));
  t.same(answers, ["first", "other", "later", "again"]);
  client.socket.destroy();
});

t.test("windows made smaller while answers wait go negative and recover", async (t) => {
  const client = new RawClient((await serve(t)).port);
  const window = (bytes: number) => frame(FrameType.settings, 0, 0, Buffer.of(0, 4, 0, 0, 0, bytes));
  client.write(window(6), call(1));
  await client.ping("six");
  client.write(window(2), frame(FrameType.windowUpdate, 0, 1, Buffer.of(0, 0, 0, 4)));
  await client.ping("zero");
  const sizes = () => client.frames.filter((f) => f.type === FrameType.data).map((f) => f.payload.length);
  t.same(sizes(), [6], "6 sent, then -4 and +4: nothing more may go");
  client.write(frame(FrameType.windowUpdate, 0, 1, Buffer.of(0, 0, 0, 3)));
  await client.ping("three");
  t.same(sizes(), [6, 3]);
  client.write(window(3));
  await client.ended(1);
  t.same(sizes(), [6, 3, 1]);
  client.socket.destroy();
});

t.test("an answer that waits for a window of a client that has ended is given up, now or when it comes", async (t) => {
  const settle: (() => void)[] = [];
  const { port, server } = await serve(t, {
    handle: (message) =>
      message.length === 4 ? new Promise((resolve) => settle.push(() => resolve(Buffer.from("late")))) : message,
  });
  const client = new RawClient(port);
  client.write(frame(FrameType.settings, 0, 0, Buffer.of(0, 4, 0, 0, 0, 0)), call(1), call(3, "late"));
  await client.next((found) => found.type === FrameType.headers && found.streamId === 1);
  client.socket.end();
  while (server.openStreams > 1) await new Promise((resolve) => setImmediate(resolve));
  settle[0]?.();
  await client.close();
  while (server.connections > 0) await new Promise((resolve) => setImmediate(resolve));
  t.same([server.connections, server.openStreams], [0, 0]);
});

t.test("a smaller table of the client's is acknowledged in the next block", async (t) => {
  const client = new RawClient((await serve(t)).port);
  client.write(frame(FrameType.settings, 0, 0, Buffer.of(0, 1, 0, 0, 0, 0)), call(1), call(3));
  await client.ended(3);
  const blocks = client.frames.filter((f) => f.type === FrameType.headers).map((f) => f.payload[0]);
  t.same(blocks, [0x20, 0x00, 0x88, 0x00]);
  client.socket.destroy();
});

t.test("a drain answers what is open, refuses no call on its way, and then closes", async (t) => {
  const settle: (() => void)[] = [];
  const served = await serve(t, {
    handle: (message) => new Promise((resolve) => settle.push(() => resolve(message))),
  });
  const client = new RawClient(served.port);
  client.write(call(1));
  await client.ping("open");
  const closed = served.server.close(10_000);
  const warning = await client.next((f) => f.type === FrameType.goaway);
  t.equal(warning.payload.readUInt32BE(0), 2 ** 31 - 1);
  const ping = await client.next((f) => f.type === FrameType.ping && f.flags === 0);
  client.write(call(3), frame(FrameType.ping, 1, 0, ping.payload));
  await client.next((f) => f.type === FrameType.goaway && f.payload.readUInt32BE(0) === 3);
  client.write(call(5));
  await client.ping("late");
  t.equal(settle.length, 2, "the call after the last GOAWAY is not served");
  for (const answer of settle) answer();
  await client.ended(1);
  await client.ended(3);
  await client.close();
  await closed;
  t.equal(served.server.connections, 0);
});

t.test("what is left when a drain's time is over is cut", async (t) => {
  const served = await serve(t, { handle: () => new Promise(() => {}) });
  const client = new RawClient(served.port);
  client.write(call(1));
  await client.ping("open");
  await served.server.close(50);
  await client.close();
  t.equal(served.server.openStreams, 0);
});

t.test("a Unix socket serves; a taken address and a wrong one are errors", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "transport-"));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, "s");
  const server = new UnaryServer([{ path: ECHO, handle: (message) => message }], { onError: () => {} });
  t.teardown(() => server.close(0));
  t.equal(await server.listen(`unix:${path}`), `unix:${path}`);
  const client = new Client(`unix:${path}`, credentials.createInsecure());
  t.same(await ask(client, Buffer.from("m")), Buffer.from("m"));
  client.close();
  const other = new UnaryServer([], { onError: () => t.fail("a failed listen is told by its rejection alone") });
  await t.rejects(other.listen(`unix:${path}`), { code: "EADDRINUSE" });
  await t.rejects(other.listen("nowhere"), /HOST:PORT/);
});

t.test("a client that ends its half is answered what it asked in full, and not waited for with the rest", async (t) => {
  const settle: (() => void)[] = [];
  const served = await serve(t, {
    handle: (message) => new Promise((resolve) => settle.push(() => resolve(message))),
  });
  const client = new RawClient(served.port);
  client.write(call(1), headers(3), data(3, Buffer.of(0), false));
  await client.ping("read");
  client.socket.end();
  while (served.server.openStreams > 1) await new Promise((resolve) => setImmediate(resolve));
  for (const answer of settle) answer();
  await client.ended(1);
  await client.close();
  t.equal(served.server.openStreams, 0);
});

t.test("no bytes crash or hang it: random frames, and a good exchange with bytes changed", async (t) => {
  const served = await serve(t);
  const good = Buffer.concat([PREFACE, frame(FrameType.settings, 0, 0), call(1), call(3), call(5)]);
  const random = fc
    .array(
      fc.record({
        type: fc.integer({ min: 0, max: 11 }),
        flags: fc.integer({ min: 0, max: 255 }),
        id: fc.integer({ min: 0, max: 9 }),
        payload: fc.uint8Array({ maxLength: 40 }),
      }),
      { maxLength: 30 },
    )
    .map((frames) =>
      Buffer.concat([
        PREFACE,
        frame(FrameType.settings, 0, 0),
        ...frames.map((f) => frame(f.type, f.flags, f.id, f.payload)),
      ]),
    );
  const mutated = fc
    .array(fc.tuple(fc.nat(good.length - 1), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 4 })
    .map((changes) => {
      const copy = Buffer.from(good);
      for (const [at, value] of changes) copy[at] = value;
      return copy;
    });
  await fc.assert(
    fc.asyncProperty(fc.oneof(random, mutated), async (input) => {
      const socket = createConnection(served.port, "127.0.0.1");
      socket.on("error", () => {});
      socket.end(input);
      socket.resume();
      await once(socket, "close");
      return true;
    }),
    { numRuns: 400 },
  );
  const client = new RawClient(served.port);
  client.write(call(1));
  await client.ended(1);
  t.same(served.errors, [], "no bug of the transport came to light");
  client.socket.destroy();
});
