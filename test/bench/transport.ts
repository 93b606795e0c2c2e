/**
 * Usage: npx tsx test/bench/transport.ts [CALLS] — CPU per unary call of three transports with a handler that does
 * nothing: ours, node:http2 and grpc-js by raw bytes. 2 kB in, 100 bytes out, a Unix socket, 64 calls in flight;
 * the load is another process. CPU time of the server (user and system), in the same run; ratios are what counts.
 */

import { fork } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import * as http2 from "node:http2";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { FrameType, frame, INT31_MAX, PREFACE, readUint32, writeUint32 } from "../../src/transport/frames.ts";
import { encodeHeaders } from "../../src/transport/hpack-encoder.ts";
import { UnaryServer } from "../../src/transport/server.ts";

const PATH = "/envoy.service.auth.v3.Authorization/Check";
const ANSWER = Buffer.alloc(100, 1);
const IN_FLIGHT = 64;
const KINDS = ["ours", "node:http2", "grpc-js"] as const;
const ROUNDS = 3;

const [role, kind, path] = process.argv.slice(2);
if (role === "serve") await serve(kind as string, path as string);
else await main(Number(role ?? 40_000));

async function main(calls: number): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "transport-"));
  const micros = new Map<string, number[]>(KINDS.map((name) => [name, []]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const name of KINDS) {
      const socket = join(folder, `${name.replace(":", "-")}-${round}`);
      const child = fork(fileURLToPath(import.meta.url), ["serve", name, socket], { execArgv: ["--import=tsx"] });
      await message(child);
      await load(socket, Math.ceil(calls / 4));
      child.send("start");
      await message(child);
      await load(socket, calls);
      child.send("stop");
      micros.get(name)?.push(Number(await message(child)) / calls);
      child.kill();
    }
  }
  rmSync(folder, { recursive: true });
  for (const [name, values] of micros) {
    const median = values.sort((a, b) => a - b)[Math.floor(values.length / 2)] as number;
    console.log(
      `${`transport, ${name}`.padEnd(21)} ${median.toFixed(1)} µs of CPU per call (${values.map((v) => v.toFixed(1)).join(", ")})`,
    );
  }
}

function message(child: ReturnType<typeof fork>): Promise<unknown> {
  return new Promise((resolve) => child.once("message", resolve));
}

async function serve(name: string, path: string): Promise<void> {
  if (name === "ours") {
    await new UnaryServer([{ path: PATH, handle: () => ANSWER }], { onError: console.error }).listen(`unix:${path}`);
  } else if (name === "node:http2") {
    const framed = Buffer.concat([Buffer.of(0, 0, 0, 0, ANSWER.length), ANSWER]);
    const server = http2.createServer();
    server.on("stream", (stream) => {
      stream.resume();
      stream.on("end", () => {
        stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
        stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
        stream.end(framed);
      });
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
  } else {
    const bytes = (value: Buffer) => value;
    const server = new Server();
    server.addService(
      {
        check: {
          path: PATH,
          requestStream: false,
          responseStream: false,
          requestSerialize: bytes,
          requestDeserialize: bytes,
          responseSerialize: bytes,
          responseDeserialize: bytes,
        },
      },
      { check: (_call: unknown, done: (error: null, answer: Buffer) => void) => done(null, ANSWER) },
    );
    await new Promise<void>((resolve) => {
      server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), () => resolve());
    });
  }
  let start = process.cpuUsage();
  process.on("message", (word) => {
    if (word === "start") start = process.cpuUsage();
    const used = process.cpuUsage(start);
    process.send?.(used.user + used.system);
  });
  process.send?.(0);
}

/** As lean as can be: counts the ends of streams, and reads nothing else but SETTINGS and PING. */
async function load(path: string, calls: number): Promise<void> {
  const block = encodeHeaders([
    [":method", "POST"],
    [":scheme", "http"],
    [":path", PATH],
    [":authority", "ext_authz"],
    ["te", "trailers"],
    ["content-type", "application/grpc"],
    ["grpc-timeout", "250m"],
  ]);
  const body = Buffer.concat([Buffer.of(0, 0, 0, 2000 >> 8, 2000 & 255), Buffer.alloc(2000, 7)]);
  const socket = connect(path);
  let nextId = 1;
  let sent = 0;
  let ended = 0;
  let owed = 0;
  const send = (count: number): void => {
    const parts: Buffer[] = [];
    for (let index = 0; index < count && sent < calls; index++, sent++, nextId += 2) {
      parts.push(frame(FrameType.headers, 4, nextId, block), frame(FrameType.data, 1, nextId, body));
    }
    if (parts.length > 0) socket.write(Buffer.concat(parts));
  };
  const increment = Buffer.alloc(4);
  const hello = [PREFACE, frame(FrameType.settings, 0, 0)];
  socket.write(Buffer.concat(hello));
  send(IN_FLIGHT);
  let rest: Buffer = Buffer.alloc(0);
  await new Promise<void>((resolve, reject) => {
    socket.on("error", reject);
    socket.on("data", (chunk: Buffer) => {
      const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      let at = 0;
      let done = 0;
      while (bytes.length - at >= 9) {
        const length = bytes.readUIntBE(at, 3);
        if (bytes.length - at < 9 + length) break;
        const type = bytes[at + 3];
        const flags = bytes[at + 4] as number;
        const id = readUint32(bytes, at + 5) & INT31_MAX;
        if (type === FrameType.settings && flags === 0) socket.write(frame(FrameType.settings, 1, 0));
        if (type === FrameType.ping && flags === 0)
          socket.write(frame(FrameType.ping, 1, 0, bytes.subarray(at + 9, at + 17)));
        if (type === FrameType.goaway) reject(new Error(`GOAWAY ${bytes.readUInt32BE(at + 13)}`));
        if (type === FrameType.rstStream) reject(new Error(`stream ${id} was reset`));
        if (type === FrameType.data) owed += length;
        if ((type === FrameType.headers || type === FrameType.data) && (flags & 1) === 1) done += 1;
        at += 9 + length;
      }
      rest = bytes.subarray(at);
      if (owed > 16_384) {
        writeUint32(increment, 0, owed);
        socket.write(frame(FrameType.windowUpdate, 0, 0, increment));
        owed = 0;
      }
      ended += done;
      send(done);
      if (ended === calls) resolve();
    });
  });
  socket.destroy();
}
