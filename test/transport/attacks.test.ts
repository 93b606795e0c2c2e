import t, { type Test } from "tap";
import { ErrorCode, FrameType, frame, PREFACE } from "../../src/transport/frames.ts";
import { encodeHeaders } from "../../src/transport/hpack-encoder.ts";
import { CALL_FIELDS, call, data, grpcMessage, headers, RawClient, type Served, serve } from "../support/raw-h2.ts";

const NO_CODE = Buffer.alloc(4);
/** For any answer. */
const WIDE_WINDOWS = [
  frame(FrameType.settings, 0, 0, Buffer.of(0, 4, 0x7f, 0xff, 0xff, 0xff)),
  frame(FrameType.windowUpdate, 0, 0, Buffer.of(0x7f, 0, 0, 0)),
];
/** No time passes, so that budgets are not refilled on a slow machine. */
const still = () => 0;

async function stillServes(t: Test, served: Served): Promise<void> {
  const client = new RawClient(served.port);
  client.write(call(1));
  t.equal((await client.ended(1)).type, FrameType.headers, "the next connection is served");
  client.socket.destroy();
}

t.test("rapid resets of unanswered calls end the connection", async (t) => {
  const served = await serve(t, {
    limits: { clientResetsBurst: 50 },
    now: still,
    handle: () => new Promise(() => {}),
  });
  const client = new RawClient(served.port);
  for (let id = 1; id < 203; id += 2) client.write(call(id), frame(FrameType.rstStream, 0, id, NO_CODE));
  await client.goaway(ErrorCode.enhanceYourCalm);
  t.ok(served.refused.includes("client-resets"));
});

t.test("resets of answered calls cost nothing, however many", async (t) => {
  const served = await serve(t, { limits: { clientResetsBurst: 1 }, now: still });
  const client = new RawClient(served.port);
  for (let id = 1; id < 1001; id += 2) client.write(call(id), frame(FrameType.rstStream, 0, id, NO_CODE));
  await client.ping("after");
  t.same(served.refused, []);
});

t.test("a full house of calls that time out and are reset, twice over, is within the defaults", async (t) => {
  const served = await serve(t, { handle: () => new Promise(() => {}), now: still });
  const client = new RawClient(served.port);
  for (let id = 1; id < 2048; id += 2) client.write(call(id));
  for (let id = 1; id < 2048; id += 2) client.write(frame(FrameType.rstStream, 0, id, NO_CODE));
  await client.ping("after");
  t.same(served.refused, []);
});

t.test("resets of open calls do not spend what is there for frames without calls", async (t) => {
  const served = await serve(t, { limits: { controlFramesBurst: 5 }, now: still, handle: () => new Promise(() => {}) });
  const client = new RawClient(served.port);
  for (let id = 1; id < 101; id += 2) client.write(call(id), frame(FrameType.rstStream, 0, id, NO_CODE));
  await client.ping("after");
  t.same(served.refused, []);
});

t.test("a reset call holds its place while its handler works", async (t) => {
  const settle: ((message: Uint8Array) => void)[] = [];
  const served = await serve(t, {
    limits: { streamsMax: 2 },
    handle: () => new Promise((resolve) => settle.push(resolve)),
  });
  const client = new RawClient(served.port);
  client.write(call(1), call(3), frame(FrameType.rstStream, 0, 1, NO_CODE), call(5));
  await client.reset(5, ErrorCode.refusedStream);
  settle[0]!(Buffer.from("late"));
  await client.ping("settled");
  client.write(call(7));
  await client.ping("taken");
  t.equal(settle.length, 3, "the handlers of 1, 3 and 7 were called");
  t.same(served.refused, ["streams"]);
});

t.test("resets provoked from the server end the connection", async (t) => {
  const served = await serve(t, {
    limits: { provokedResetsBurst: 20 },
    now: still,
    handle: () => new Promise(() => {}),
  });
  const client = new RawClient(served.port);
  for (let id = 1; id < 101; id += 2) client.write(call(id), frame(FrameType.windowUpdate, 0, id, NO_CODE));
  await client.goaway(ErrorCode.enhanceYourCalm);
  t.ok(served.refused.includes("provoked-resets"));
});

for (const { name, payload } of [
  { name: "empty", payload: Buffer.alloc(0) },
  { name: "small", payload: encodeHeaders([["a", "b"]]) },
]) {
  t.test(`a flood of ${name} CONTINUATION frames ends the connection`, async (t) => {
    const served = await serve(t);
    const client = new RawClient(served.port);
    client.write(headers(1, CALL_FIELDS, 0));
    for (let count = 0; count < 65; count++) client.write(frame(FrameType.continuation, 0, 1, payload));
    await client.goaway(ErrorCode.enhanceYourCalm);
    t.same(served.refused, ["header-block"]);
    await stillServes(t, served);
  });
}

t.test("an endless header block ends the connection before its CONTINUATION frames are counted out", async (t) => {
  const served = await serve(t);
  const client = new RawClient(served.port);
  client.write(headers(1, CALL_FIELDS, 0));
  for (let count = 0; count < 7; count++) client.write(frame(FrameType.continuation, 0, 1, Buffer.alloc(16_384)));
  await client.goaway(ErrorCode.enhanceYourCalm);
  t.same(served.refused, ["header-block"]);
});

t.test("an HPACK bomb is answered RESOURCE_EXHAUSTED, and the connection goes on", async (t) => {
  const served = await serve(t);
  const client = new RawClient(served.port);
  const seed = Buffer.concat([Buffer.from("4001617f9d1e", "hex"), Buffer.alloc(4000, "x")]);
  const bomb = Buffer.concat([encodeHeaders(CALL_FIELDS), seed, Buffer.alloc(10_000, 0xbe)]);
  client.write(frame(FrameType.headers, 5, 1, bomb));
  t.ok((await client.ended(1)).payload.toString("latin1").includes("grpc-status\x018"));
  client.write(call(3));
  await client.ended(3);
  t.same(served.refused, ["header-list"]);
});

const floods = [
  { name: "PING", bytes: frame(FrameType.ping, 0, 0, Buffer.alloc(8)) },
  { name: "SETTINGS", bytes: frame(FrameType.settings, 0, 0) },
  { name: "PRIORITY", bytes: frame(FrameType.priority, 0, 3, Buffer.alloc(5)) },
  { name: "WINDOW_UPDATE", bytes: frame(FrameType.windowUpdate, 0, 0, Buffer.of(0, 0, 0, 1)) },
  { name: "empty DATA", bytes: data(1, Buffer.alloc(0), false) },
  { name: "unknown frames", bytes: frame(99, 0, 0) },
];
for (const { name, bytes } of floods) {
  t.test(`a flood of ${name} ends the connection`, async (t) => {
    const served = await serve(t, { limits: { controlFramesBurst: 100 }, now: still });
    const client = new RawClient(served.port);
    client.write(headers(1), ...Array.from({ length: 120 }, () => bytes));
    await client.goaway(ErrorCode.enhanceYourCalm);
    t.same(served.refused, ["control-frames"]);
    await stillServes(t, served);
  });
}

t.test("more settings than there are in one frame end the connection", async (t) => {
  const served = await serve(t);
  const client = new RawClient(served.port);
  client.write(frame(FrameType.settings, 0, 0, Buffer.alloc(65 * 6)));
  await client.goaway(ErrorCode.enhanceYourCalm);
  t.same(served.refused, ["control-frames"]);
});

t.test("an answer for which the client gives no window is reset in the end", async (t) => {
  const served = await serve(t, { limits: { unsentMsMax: 100 } });
  const client = new RawClient(served.port);
  client.write(frame(FrameType.settings, 0, 0, Buffer.of(0, 4, 0, 0, 0, 0)), call(1));
  await client.reset(1, ErrorCode.cancel);
  t.same(served.refused, ["unsent"]);
});

t.test("answers that wait for windows are bounded together", async (t) => {
  const served = await serve(t, { limits: { unsentBytesMax: 15 } });
  const client = new RawClient(served.port);
  client.write(frame(FrameType.settings, 0, 0, Buffer.of(0, 4, 0, 0, 0, 0)), call(1), call(3));
  await client.reset(3, ErrorCode.enhanceYourCalm);
  t.same(served.refused, ["unsent"]);
});

t.test("a client that reads nothing is not read from, and its connection is destroyed in the end", async (t) => {
  const served = await serve(t, {
    limits: { outputPauseBytes: 1000, unsentMsMax: 200 },
    handle: () => Buffer.alloc(60_000),
  });
  const client = new RawClient(served.port);
  client.socket.pause();
  client.write(...WIDE_WINDOWS);
  for (let id = 1; id < 400; id += 2) client.write(call(id, "x".repeat(2000)));
  while (!served.refused.includes("output")) await new Promise((resolve) => setImmediate(resolve));
  t.equal(served.server.openStreams, 0);
  client.socket.destroy();
});

t.test("a client that has more answers waiting than the bound allows is cut off, before any time is up", async (t) => {
  const ANSWER = Buffer.alloc(100_000);
  const CALLS = 400;
  let handled = 0;
  const served = await serve(t, {
    // Nothing is paused: the bound on bytes is met within a single chunk of requests, too.
    limits: { outputBytesMax: 1_000_000, outputPauseBytes: 1_000_000_000 },
    now: still,
    handle: () => {
      handled += 1;
      return ANSWER;
    },
  });
  const client = new RawClient(served.port);
  client.socket.pause();
  client.write(...WIDE_WINDOWS, ...Array.from({ length: CALLS }, (_, index) => call(2 * index + 1)));
  const isCut = () => handled > 0 && served.server.connections === 0;
  while (handled < CALLS && !isCut()) await new Promise((resolve) => setImmediate(resolve));
  t.ok(
    handled < CALLS,
    `cut off after ${handled} of ${CALLS} calls, most of their answers taken by the system's buffers`,
  );
  t.same(served.refused, ["output"]);
  t.equal(served.server.openStreams, 0);
  client.socket.destroy();
});

const slow = [
  { name: "preface", greet: false, bytes: PREFACE.subarray(0, 5), code: ErrorCode.protocolError, why: "slow-preface" },
  { name: "frame", greet: true, bytes: headers(1).subarray(0, 12), code: ErrorCode.enhanceYourCalm, why: "slow-frame" },
  {
    name: "header block",
    greet: true,
    bytes: headers(1, CALL_FIELDS, 0),
    code: ErrorCode.enhanceYourCalm,
    why: "slow-frame",
  },
];
for (const { name, greet, bytes, code, why } of slow) {
  t.test(`a ${name} that does not come to its end ends the connection`, async (t) => {
    const served = await serve(t, { limits: { prefaceMsMax: 100, frameMsMax: 100 } });
    const client = new RawClient(served.port, { greet });
    client.write(bytes);
    await client.goaway(code);
    await client.close();
    t.same(served.refused, [why]);
  });
}

t.test(
  "after a pause of the whole process, what clients have sent meanwhile is read before they count as slow",
  async (t) => {
    let nowMs = 0;
    let onAsked = () => {};
    const served = await serve(t, {
      limits: { bodyMsMax: 100 },
      now: () => {
        onAsked();
        return nowMs;
      },
    });
    const client = new RawClient(served.port);
    const body = grpcMessage(Buffer.from("hello"));
    client.write(headers(1), data(1, body.subarray(0, 7), false));
    await client.ping("half");
    // The next to ask for the time is a sweep, which finds that far more has passed than between any two.
    nowMs = 60_000;
    await new Promise<void>((resolve) => {
      onAsked = () => setImmediate(resolve);
    });
    // No time passes for the sweeps that follow, however long the rest takes to arrive here.
    nowMs = 0;
    client.write(data(1, body.subarray(7)));
    t.ok((await client.ended(1)).payload.includes("grpc-status\x010"));
    t.same(served.refused, []);
  },
);

const LAST = 21;
const BLOCK = encodeHeaders(CALL_FIELDS);
const waiting = [
  { name: "frame", whole: headers(LAST), cutAt: 12 },
  {
    name: "header block",
    whole: Buffer.concat([
      frame(FrameType.headers, 0, LAST, BLOCK.subarray(0, 5)),
      frame(FrameType.continuation, 4, LAST, BLOCK.subarray(5)),
    ]),
    cutAt: 14,
  },
];
for (const { name, whole, cutAt } of waiting) {
  t.test(`a ${name} that waited because its connection was paused does not count as slow`, async (t) => {
    const calls = Array.from({ length: 10 }, (_, index) => call(2 * index + 1));
    let nowMs = 0;
    let handled = 0;
    let asked = 0;
    const served = await serve(t, {
      limits: { frameMsMax: 200, outputPauseBytes: 1000 },
      now: () => {
        asked += 1;
        return nowMs;
      },
      handle: () => {
        handled += 1;
        return Buffer.alloc(1_000_000);
      },
    });
    const client = new RawClient(served.port);
    client.socket.pause();
    client.write(...WIDE_WINDOWS, ...calls, whole.subarray(0, cutAt));
    while (handled < calls.length) await new Promise((resolve) => setImmediate(resolve));
    nowMs = 1000;
    client.socket.resume();
    await client.ended(LAST - 2);
    // Long enough for some sweeps, each of which asks at least once.
    const enough = asked + 10;
    while (asked < enough && !client.closed) await new Promise((resolve) => setImmediate(resolve));
    client.write(whole.subarray(cutAt), data(LAST, grpcMessage(Buffer.alloc(1))));
    await client.ended(LAST);
    t.same(served.refused, []);
    client.socket.destroy();
  });
}

t.test("a body that does not come to its end is answered DEADLINE_EXCEEDED", async (t) => {
  const served = await serve(t, { limits: { bodyMsMax: 100 } });
  const client = new RawClient(served.port);
  client.write(headers(1), data(1, Buffer.of(0), false));
  t.ok((await client.ended(1)).payload.toString("latin1").includes("grpc-status\x014"));
  await client.reset(1, ErrorCode.noError);
  t.same(served.refused, ["slow-body"]);
});

t.test("half-received messages are bounded together", async (t) => {
  const served = await serve(t, { limits: { bodiesBytesMax: 3000 } });
  const client = new RawClient(served.port);
  const half = grpcMessage(Buffer.alloc(4000)).subarray(0, 2000);
  client.write(headers(1), data(1, half, false), headers(3), data(3, half, false), call(5));
  t.ok((await client.ended(3)).payload.toString("latin1").includes("grpc-status\x018"));
  await client.ended(5);
  t.same(served.refused, ["bodies"]);
});

t.test("connections beyond the bound are closed, the others go on", async (t) => {
  const served = await serve(t, { limits: { connectionsMax: 1 } });
  const first = new RawClient(served.port);
  await first.ping("first");
  const second = new RawClient(served.port);
  await second.close();
  first.write(call(1));
  await first.ended(1);
  t.same(served.refused, ["connections"]);
});
