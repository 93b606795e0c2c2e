/** A process that sends HTTP/1.1 requests over kept connections, as fast as they are answered or at a steady rate. */

import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { quantile } from "./figures.ts";
import { REQUESTS } from "./http-requests.ts";
import type { Latency } from "./load.ts";

export interface HttpOrder {
  readonly port: number;
  readonly connections: number;
  readonly seconds: number;
  /** Without it: one request under way on each connection. */
  readonly perSecond?: number;
}

export interface HttpResult {
  readonly sent: number;
  /** Answered by another status than 200, or not at all. */
  readonly failed: number;
  readonly seconds: number;
  readonly latencyUs: Latency;
}

const TICK_MS = 1;
const LAST_ANSWER_MS_MAX = 3_000;
const HEAD_END = Buffer.from("\r\n\r\n");
const STATUS_AT = "HTTP/1.1 ".length;

const BYTES: readonly Buffer[] = REQUESTS.map((lines) => Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"));

process.on("message", (order: HttpOrder | string) => {
  if (typeof order === "string") return;
  void run(order).then((result) => process.send?.(result));
});
process.channel?.ref();
console.log("ready");

async function run({ port, connections, seconds, perSecond }: HttpOrder): Promise<HttpResult> {
  const latenciesUs: number[] = [];
  let sent = 0;
  let failed = 0;
  let answered = 0;
  let onFree: (connection: Connection) => void = () => {};
  const all: Connection[] = [];
  for (let i = 0; i < connections; i++) {
    const socket = connect(port, "127.0.0.1");
    await once(socket, "connect");
    const connection = new Connection(socket, (ok, sinceMs) => {
      answered++;
      if (!ok) failed++;
      latenciesUs.push((performance.now() - sinceMs) * 1_000);
      onFree(connection);
    });
    all.push(connection);
  }
  const send = (connection: Connection, sinceMs: number): void => {
    connection.send(BYTES[sent % BYTES.length] as Buffer, sinceMs);
    sent++;
  };
  const begin = performance.now();
  const until = begin + seconds * 1_000;
  await new Promise<void>((done) => {
    if (perSecond === undefined) {
      onFree = (connection) => {
        const now = performance.now();
        if (now < until && failed <= sent / 2) send(connection, now);
        else if (answered === sent) done();
      };
      for (const connection of all) send(connection, performance.now());
      return;
    }
    const count = Math.round(perSecond * seconds);
    const free = [...all];
    const due: number[] = [];
    let fallen = 0;
    // No busy loop here: this process shares a core with the server. What is due within a tick counts from the tick.
    const tick = setInterval(() => {
      const now = performance.now();
      for (; fallen < count && begin + (fallen * 1_000) / perSecond <= now; fallen++) due.push(now);
      while (due.length > 0 && free.length > 0) send(free.shift() as Connection, due.shift() as number);
      if (answered >= count || now > until + LAST_ANSWER_MS_MAX) {
        clearInterval(tick);
        failed += count - answered;
        done();
      }
    }, TICK_MS);
    onFree = (connection) => {
      const since = due.shift();
      if (since === undefined) free.push(connection);
      else send(connection, since);
    };
  });
  const elapsed = (performance.now() - begin) / 1_000;
  onFree = () => {};
  for (const connection of all) connection.close();
  const at = (share: number): number => quantile(latenciesUs, share);
  const latencyUs = { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1) };
  return { sent, failed, seconds: elapsed, latencyUs };
}

/** One request at a time. */
class Connection {
  private readonly socket: Socket;
  private readonly onAnswer: (ok: boolean, sinceMs: number) => void;
  private rest: Buffer | undefined;
  private sinceMs: number | undefined;

  constructor(socket: Socket, onAnswer: (ok: boolean, sinceMs: number) => void) {
    this.socket = socket;
    this.onAnswer = onAnswer;
    socket.setNoDelay(true);
    socket.on("data", (part: Buffer) => this.read(part));
    socket.on("error", () => {}); // told by "close"
    socket.on("close", () => this.end(false));
  }

  send(request: Buffer, sinceMs: number): void {
    this.sinceMs = sinceMs;
    this.socket.write(request);
  }

  close(): void {
    this.socket.destroy();
  }

  private read(part: Buffer): void {
    const bytes = this.rest === undefined ? part : Buffer.concat([this.rest, part]);
    const head = bytes.indexOf(HEAD_END);
    const ok = bytes.toString("latin1", STATUS_AT, STATUS_AT + 3) === "200";
    const complete =
      head >= 0 && (ok ? true : bytes.length >= head + HEAD_END.length + bodyBytes(bytes.toString("latin1", 0, head)));
    this.rest = complete ? undefined : bytes;
    if (complete) this.end(ok);
  }

  private end(ok: boolean): void {
    if (this.sinceMs === undefined) return;
    const since = this.sinceMs;
    this.sinceMs = undefined;
    this.onAnswer(ok, since);
  }
}

/** Envoy answers 200 itself, without a body; refusals have one. */
function bodyBytes(head: string): number {
  return Number(/^content-length: (\d+)/im.exec(head)?.[1] ?? 0);
}
