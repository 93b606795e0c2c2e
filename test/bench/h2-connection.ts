/**
 * One HTTP/2 connection that sends checks and reads answers, and does nothing else: a general client takes more CPU than
 * the servers under measurement. Header blocks are encoded once; frames of many checks go out in one write.
 */

import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { StatusReader } from "./grpc-status.ts";
import type { Template } from "./messages.ts";

const FRAME_HEADER = 9;
const DATA = 0x0;
const HEADERS = 0x1;
const RST_STREAM = 0x3;
const SETTINGS = 0x4;
const PING = 0x6;
const GOAWAY = 0x7;
const WINDOW_UPDATE = 0x8;
const CONTINUATION = 0x9;
const END_STREAM = 0x1;
const ACK = 0x1;
const END_HEADERS = 0x4;
const PADDED = 0x8;
const PRIORITY = 0x20;

const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");
const SETTINGS_HEADER_TABLE_SIZE = 0x1;
const SETTINGS_INITIAL_WINDOW_SIZE = 0x4;
const TABLE_BYTES = 4_096;
const WINDOW_BYTES = 65_535;
/** What this end lets the other send: given anew once half is used. */
const RECEIVE_WINDOW_BYTES = 1 << 28;
const SLAB_BYTES = 1 << 16;
const READY_MS_MAX = 5_000;

/** What Envoy's gRPC client sends with a check, in its order. */
const FIELDS = [
  [":path", "/envoy.service.auth.v3.Authorization/Check"],
  [":authority", "sallyport_check"],
  ["te", "trailers"],
  ["grpc-timeout", "5000m"],
  ["content-type", "application/grpc"],
  ["x-envoy-internal", "true"],
  ["x-forwarded-for", "10.0.0.7"],
] as const;
/** `:method: POST` and `:scheme: http` of the static table. */
const STATIC_FIELDS = Buffer.from([0x83, 0x86]);
const INDEX_LAST = 61;

/** How a check ended. */
export type Outcome = "allowed" | "refused" | "failed";

/** @param number as given to `send`; @param answer the message without framing, valid during the call */
export type OnAnswer = (number: number, outcome: Outcome, answer: Buffer) => void;

interface UnderWay {
  readonly number: number;
  message: Buffer | undefined;
}

const NOTHING = Buffer.alloc(0);

export class H2Connection {
  private readonly socket: Socket;
  private readonly onAnswer: OnAnswer;
  private readonly status = new StatusReader();
  private readonly underWay = new Map<number, UnderWay>();
  private readonly waiting: { number: number; template: Template; id: string }[] = [];
  private slab = Buffer.allocUnsafe(SLAB_BYTES);
  private slabUsed = 0;
  private slabWritten = 0;
  private stream = 1;
  private sendWindow = WINDOW_BYTES;
  private received = 0;
  private rest: Buffer = NOTHING;
  private block: Buffer = NOTHING;
  /** Set once the server has said what table it keeps. */
  private tableBytes = TABLE_BYTES;
  private blockFirst = true;
  private settled: (() => void) | undefined;
  private closed = false;

  private constructor(socket: Socket, onAnswer: OnAnswer) {
    this.socket = socket;
    this.onAnswer = onAnswer;
    socket.setNoDelay(true);
    socket.on("data", (part: Buffer) => this.read(part));
    socket.on("error", () => {}); // told by "close"
    socket.on("close", () => this.failAll());
  }

  /** @throws {Error} when the address does not answer as HTTP/2 within 5 s */
  static async open(address: string, onAnswer: OnAnswer): Promise<H2Connection> {
    const colon = address.lastIndexOf(":");
    const socket = address.startsWith("unix:")
      ? connect(address.slice("unix:".length))
      : connect(Number(address.slice(colon + 1)), address.slice(0, colon));
    await once(socket, "connect");
    const connection = new H2Connection(socket, onAnswer);
    const settled = new Promise<void>((resolve, reject) => {
      const impatience = setTimeout(() => reject(new Error(`${address} sent no SETTINGS`)), READY_MS_MAX);
      connection.settled = () => {
        clearTimeout(impatience);
        resolve();
      };
    });
    const settings = Buffer.alloc(6);
    settings.writeUInt16BE(SETTINGS_INITIAL_WINDOW_SIZE, 0);
    settings.writeUInt32BE(RECEIVE_WINDOW_BYTES, 2);
    connection.put(PREFACE);
    connection.frame(SETTINGS, 0, 0, settings);
    connection.giveWindow(RECEIVE_WINDOW_BYTES - WINDOW_BYTES);
    connection.flush();
    await settled;
    return connection;
  }

  /** Puts a check into the next {@link flush}; beyond the server's window it waits for more of it. */
  send(number: number, template: Template, requestId: string): void {
    if (this.closed) this.onAnswer(number, "failed", NOTHING);
    else if (this.waiting.length > 0 || template.bytes.length > this.sendWindow) {
      this.waiting.push({ number, template, id: requestId });
    } else this.put1(number, template, requestId);
  }

  /** Writes what was put since the last one. */
  flush(): void {
    if (this.slabUsed === this.slabWritten || this.closed) return;
    this.socket.write(this.slab.subarray(this.slabWritten, this.slabUsed));
    this.slabWritten = this.slabUsed;
  }

  close(): void {
    this.socket.destroy();
  }

  private put1(number: number, { bytes, requestIdAt }: Template, requestId: string): void {
    const stream = this.stream;
    this.stream += 2;
    this.underWay.set(stream, { number, message: undefined });
    this.sendWindow -= bytes.length;
    const block = this.headerBlock();
    this.frame(HEADERS, END_HEADERS, stream, block);
    const at = this.frame(DATA, END_STREAM, stream, bytes);
    this.slab.write(requestId, at + requestIdAt, "latin1");
  }

  /** The first block fills the server's table; those after it name its entries. */
  private headerBlock(): Buffer {
    const indexed = this.tableBytes >= TABLE_BYTES;
    if (!this.blockFirst) return indexed ? INDEXED_BLOCK : PLAIN_BLOCK;
    this.blockFirst = false;
    return indexed ? INDEXING_BLOCK : Buffer.concat([Buffer.from([0x20]), PLAIN_BLOCK]);
  }

  /** Where the payload lies in the slab. */
  private frame(type: number, flags: number, stream: number, payload: Buffer): number {
    this.room(FRAME_HEADER + payload.length);
    const { slab } = this;
    const at = this.slabUsed;
    slab[at] = payload.length >>> 16;
    slab[at + 1] = payload.length >>> 8;
    slab[at + 2] = payload.length;
    slab[at + 3] = type;
    slab[at + 4] = flags;
    slab.writeUInt32BE(stream, at + 5);
    slab.set(payload, at + FRAME_HEADER);
    this.slabUsed += FRAME_HEADER + payload.length;
    return at + FRAME_HEADER;
  }

  private put(bytes: Buffer): void {
    this.room(bytes.length);
    this.slab.set(bytes, this.slabUsed);
    this.slabUsed += bytes.length;
  }

  /** A slab that was written belongs to the socket: a new one follows it. */
  private room(bytes: number): void {
    if (this.slabUsed + bytes <= SLAB_BYTES) return;
    this.flush();
    this.slab = Buffer.allocUnsafe(SLAB_BYTES);
    this.slabUsed = 0;
    this.slabWritten = 0;
  }

  private giveWindow(bytes: number): void {
    const payload = Buffer.alloc(4);
    payload.writeUInt32BE(bytes);
    this.frame(WINDOW_UPDATE, 0, 0, payload);
  }

  private read(part: Buffer): void {
    const bytes = this.rest.length === 0 ? part : Buffer.concat([this.rest, part]);
    let at = 0;
    while (bytes.length - at >= FRAME_HEADER) {
      const length = bytes.readUIntBE(at, 3);
      const end = at + FRAME_HEADER + length;
      if (end > bytes.length) break;
      const stream = bytes.readUInt32BE(at + 5) & 0x7fffffff;
      this.take(bytes[at + 3] as number, bytes[at + 4] as number, stream, bytes.subarray(at + FRAME_HEADER, end));
      at = end;
    }
    this.rest = at === bytes.length ? NOTHING : bytes.subarray(at);
    if (this.received > RECEIVE_WINDOW_BYTES / 2) {
      this.giveWindow(this.received);
      this.received = 0;
    }
    this.flush();
  }

  private take(type: number, flags: number, stream: number, payload: Buffer): void {
    switch (type) {
      case DATA: {
        this.received += payload.length;
        const call = this.underWay.get(stream);
        if (call === undefined) return;
        const data = unpadded(payload, flags, false);
        call.message = call.message === undefined ? data : Buffer.concat([call.message, data]);
        if (flags & END_STREAM) this.end(stream, false);
        return;
      }
      case HEADERS:
      case CONTINUATION: {
        const part = type === HEADERS ? unpadded(payload, flags, true) : payload;
        this.block = this.block.length === 0 ? part : Buffer.concat([this.block, part]);
        if (!(flags & END_HEADERS)) return;
        const ok = this.status.saysOk(this.block);
        this.block = NOTHING;
        if (flags & END_STREAM) this.end(stream, ok);
        return;
      }
      case RST_STREAM:
        this.end(stream, false);
        return;
      case SETTINGS:
        if (!(flags & ACK)) this.settings(payload);
        return;
      case PING:
        if (!(flags & ACK)) this.frame(PING, ACK, 0, payload);
        return;
      case WINDOW_UPDATE:
        if (stream === 0) this.widen(payload.readUInt32BE());
        return;
      case GOAWAY:
        this.close();
    }
  }

  private settings(payload: Buffer): void {
    for (let at = 0; at + 6 <= payload.length; at += 6) {
      const value = payload.readUInt32BE(at + 2);
      if (payload.readUInt16BE(at) === SETTINGS_HEADER_TABLE_SIZE && this.blockFirst) this.tableBytes = value;
    }
    this.frame(SETTINGS, ACK, 0, NOTHING);
    this.settled?.();
  }

  private widen(bytes: number): void {
    this.sendWindow += bytes;
    for (;;) {
      const next = this.waiting[0];
      if (next === undefined || next.template.bytes.length > this.sendWindow) return;
      this.waiting.shift();
      this.put1(next.number, next.template, next.id);
    }
  }

  private end(stream: number, ok: boolean): void {
    const call = this.underWay.get(stream);
    if (call === undefined) return;
    this.underWay.delete(stream);
    const { number, message } = call;
    if (!ok || message === undefined) this.onAnswer(number, "failed", NOTHING);
    else this.onAnswer(number, allows(message) ? "allowed" : "refused", message);
  }

  private failAll(): void {
    this.closed = true;
    for (const stream of [...this.underWay.keys()]) this.end(stream, false);
    for (const { number } of this.waiting.splice(0)) this.onAnswer(number, "failed", NOTHING);
  }
}

/** Whether an answer, framed, says OK: field 1 (google.rpc.Status) is there and empty, or says code 0. */
function allows(answer: Buffer): boolean {
  if (answer[5] !== 0x0a) return false;
  return answer[6] === 0 || (answer[6] === 2 && answer[7] === 0x08 && answer[8] === 0);
}

function unpadded(payload: Buffer, flags: number, headers: boolean): Buffer {
  const padded = (flags & PADDED) !== 0;
  const from = (padded ? 1 : 0) + (headers && (flags & PRIORITY) !== 0 ? 5 : 0);
  return from === 0 ? payload : payload.subarray(from, payload.length - (padded ? (payload[0] as number) : 0));
}

/** Short texts only: no length here reaches 127. */
function literal(kind: number, [name, value]: readonly [string, string]): Buffer {
  const text = (of: string): Buffer => Buffer.from(String.fromCharCode(of.length) + of, "latin1");
  return Buffer.concat([Buffer.from([kind]), text(name), text(value)]);
}

/** Literals with incremental indexing; literals without; and the entries that the former leave behind. */
const INDEXING_BLOCK = Buffer.concat([STATIC_FIELDS, ...FIELDS.map((field) => literal(0x40, field))]);
const PLAIN_BLOCK = Buffer.concat([STATIC_FIELDS, ...FIELDS.map((field) => literal(0x00, field))]);
const INDEXED_BLOCK = Buffer.concat([
  STATIC_FIELDS,
  Buffer.from(FIELDS.map((_, i) => 0x80 | (INDEX_LAST + FIELDS.length - i))),
]);
