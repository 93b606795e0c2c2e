/** A client that writes HTTP/2 frames as it is told, right or wrong, and shows what comes back. */

import { connect, type Socket } from "node:net";
import { FrameType, frame, PREFACE, readUint32 } from "../../src/transport/frames.ts";
import { encodeHeaders } from "../../src/transport/hpack-encoder.ts";
import type { TransportLimits } from "../../src/transport/limits.ts";
import { UnaryServer } from "../../src/transport/server.ts";
import type { UnaryMethod } from "../../src/transport/unary.ts";

export const ECHO = "/test.Echo/Call";

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly streamId: number;
  readonly payload: Buffer;
}

export class RawClient {
  readonly frames: Frame[] = [];
  closed = false;
  readonly socket: Socket;
  private rest = Buffer.alloc(0);
  private wake: (() => void)[] = [];

  constructor(port: number, options: { readonly greet?: boolean } = {}) {
    this.socket = connect(port, "127.0.0.1");
    this.socket.setNoDelay(true);
    this.socket.on("error", () => {});
    this.socket.on("data", (chunk: Buffer) => this.take(chunk));
    this.socket.on("close", () => {
      this.closed = true;
      this.stir();
    });
    if (options.greet !== false) this.write(PREFACE, frame(FrameType.settings, 0, 0));
  }

  write(...parts: readonly Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** Resolves with the first frame (also of those already there) that fits; rejects when the socket closes before. */
  async next(fits: (frame: Frame) => boolean): Promise<Frame> {
    for (;;) {
      const found = this.frames.find(fits);
      if (found !== undefined) return found;
      if (this.closed) throw new Error("the connection closed first");
      await new Promise<void>((resolve) => this.wake.push(resolve));
    }
  }

  async goaway(code: number): Promise<Frame> {
    return await this.next((found) => found.type === FrameType.goaway && found.payload.readUInt32BE(4) === code);
  }

  async reset(streamId: number, code: number): Promise<Frame> {
    return await this.next(
      (found) =>
        found.type === FrameType.rstStream && found.streamId === streamId && found.payload.readUInt32BE(0) === code,
    );
  }

  /** The frame that ends a stream. */
  async ended(streamId: number): Promise<Frame> {
    return await this.next((found) => found.streamId === streamId && found.type <= 1 && (found.flags & 1) === 1);
  }

  async close(): Promise<void> {
    while (!this.closed) await new Promise<void>((resolve) => this.wake.push(resolve));
  }

  /** Everything before has been read by the server once this resolves. */
  async ping(text: string): Promise<void> {
    this.write(frame(FrameType.ping, 0, 0, Buffer.from(text.padEnd(8).slice(0, 8))));
    await this.next(
      (found) => found.type === FrameType.ping && found.flags === 1 && found.payload.toString() === text.padEnd(8),
    );
  }

  private take(chunk: Buffer): void {
    this.rest = Buffer.concat([this.rest, chunk]);
    while (this.rest.length >= 9 && this.rest.length >= 9 + this.rest.readUIntBE(0, 3)) {
      const end = 9 + this.rest.readUIntBE(0, 3);
      this.frames.push({
        type: this.rest[3] as number,
        flags: this.rest[4] as number,
        streamId: readUint32(this.rest, 5),
        payload: this.rest.subarray(9, end),
      });
      this.rest = this.rest.subarray(end);
    }
    this.stir();
  }

  private stir(): void {
    for (const wake of this.wake.splice(0)) wake();
  }
}

/** The fields of an ordinary call. */
export const CALL_FIELDS: readonly (readonly [string, string])[] = [
  [":method", "POST"],
  [":scheme", "http"],
  [":path", ECHO],
  [":authority", "test"],
  ["content-type", "application/grpc"],
  ["te", "trailers"],
];

export function headers(
  streamId: number,
  fields: readonly (readonly [string, string])[] = CALL_FIELDS,
  flags = 4,
): Buffer {
  return frame(FrameType.headers, flags, streamId, encodeHeaders(fields));
}

export function grpcMessage(message: Uint8Array): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

export function data(streamId: number, body: Uint8Array, endStream = true): Buffer {
  return frame(FrameType.data, endStream ? 1 : 0, streamId, body);
}

export function call(streamId: number, message = "hello"): Buffer {
  return Buffer.concat([headers(streamId), data(streamId, grpcMessage(Buffer.from(message)))]);
}

export interface Served {
  readonly server: UnaryServer;
  readonly port: number;
  readonly errors: unknown[];
  readonly refused: string[];
}

/** An echo on a free loopback port, closed with the test. */
export async function serve(
  t: { teardown(fn: () => unknown): unknown },
  options: {
    readonly limits?: Partial<TransportLimits>;
    readonly handle?: UnaryMethod["handle"];
    readonly now?: () => number;
  } = {},
): Promise<Served> {
  const errors: unknown[] = [];
  const refused: string[] = [];
  const server = new UnaryServer([{ path: ECHO, handle: options.handle ?? ((message) => message) }], {
    ...(options.limits === undefined ? {} : { limits: options.limits }),
    ...(options.now === undefined ? {} : { now: options.now }),
    onError: (error) => errors.push(error),
    onRefused: (reason) => refused.push(reason),
  });
  const address = await server.listen("127.0.0.1:0");
  t.teardown(() => server.close(0));
  return { server, port: Number(address.split(":")[1]), errors, refused };
}
