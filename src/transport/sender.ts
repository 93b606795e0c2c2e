/** Sends DATA as far as the client's windows allow (RFC 9113 sections 5.2 and 6.9), and keeps the rest. */

import type { AbuseBudgets } from "./abuse-budgets.ts";
import type { EventClock } from "./clock.ts";
import type { ConnectionContext } from "./context.ts";
import type { FrameWriter } from "./frame-writer.ts";
import { ConnectionError, ErrorCode, Flag, INITIAL_WINDOW_BYTES, INT31_MAX } from "./frames.ts";
import type { Output } from "./output.ts";
import { Gone, type Stream } from "./stream.ts";
import type { Streams } from "./streams.ts";

export class Sender {
  /** The client has ended its half of the socket: not even a window update will come. */
  inputEnded = false;
  private window = INITIAL_WINDOW_BYTES;
  private initialStreamWindow = INITIAL_WINDOW_BYTES;
  private readonly context: ConnectionContext;
  private readonly clock: EventClock;
  private readonly output: Output;
  private readonly writer: FrameWriter;
  private readonly streams: Streams;
  private readonly budgets: AbuseBudgets;
  private readonly onOverflow: () => void;

  /** @param onOverflow told when the client has left more unread than `outputBytesMax` */
  constructor(
    context: ConnectionContext,
    clock: EventClock,
    output: Output,
    writer: FrameWriter,
    streams: Streams,
    budgets: AbuseBudgets,
    onOverflow: () => void,
  ) {
    this.context = context;
    this.clock = clock;
    this.output = output;
    this.writer = writer;
    this.streams = streams;
    this.budgets = budgets;
    this.onOverflow = onOverflow;
  }

  /** The client's SETTINGS_INITIAL_WINDOW_SIZE, with which streams are opened. */
  get streamWindow(): number {
    return this.initialStreamWindow;
  }

  /** Whether so many bytes may go out at once, in one frame. */
  fits(stream: Stream, bytes: number): boolean {
    return bytes <= stream.sendWindow && bytes <= this.window && bytes <= this.writer.payloadBytesMax;
  }

  /** So many bytes have been written as DATA. */
  spend(stream: Stream, bytes: number): void {
    stream.sendWindow -= bytes;
    this.window -= bytes;
  }

  /** @param trailers end the stream; without them, the DATA does */
  send(stream: Stream, bytes: Buffer, trailers: Buffer | undefined): void {
    stream.unsent = bytes;
    stream.unsentTrailers = trailers;
    stream.unsentSinceMs = this.clock.nowMs;
    this.streams.unsentBytes += bytes.length;
    this.pump(stream);
    if (this.streams.unsentBytes > this.context.limits.unsentBytesMax && stream.unsent !== undefined) {
      this.context.onRefused("unsent");
      this.streams.reset(stream.id, ErrorCode.enhanceYourCalm);
    }
  }

  /** The answer is out. A client that still sends is told to stop (RFC 9113 section 8.1). */
  finish(stream: Stream): void {
    this.budgets.earn();
    if (stream.ended) this.streams.close(stream, Gone.ended);
    else this.streams.reset(stream.id, ErrorCode.noError);
    if (this.output.waitingBytes > this.context.limits.outputBytesMax) this.onOverflow();
  }

  /** WINDOW_UPDATE of the connection. */
  widen(by: number): void {
    this.window += by;
    if (this.window > INT31_MAX) throw new ConnectionError(ErrorCode.flowControlError, "window too large");
    this.pumpAll();
  }

  /** WINDOW_UPDATE of one stream. */
  widenStream(stream: Stream, by: number): void {
    stream.sendWindow += by;
    if (by === 0) this.streams.provoke(stream.id, ErrorCode.protocolError);
    else if (stream.sendWindow > INT31_MAX) this.streams.provoke(stream.id, ErrorCode.flowControlError);
    else if (stream.unsent !== undefined) this.pump(stream);
  }

  /** A new SETTINGS_INITIAL_WINDOW_SIZE moves the windows of open streams, too (RFC 9113 section 6.9.2). */
  setStreamWindow(bytes: number): void {
    const by = bytes - this.initialStreamWindow;
    if (by === 0) return;
    this.initialStreamWindow = bytes;
    for (const stream of this.streams.all()) {
      stream.sendWindow += by;
      if (stream.sendWindow > INT31_MAX) throw new ConnectionError(ErrorCode.flowControlError, "window too large");
    }
    if (by > 0) this.pumpAll();
  }

  private pumpAll(): void {
    for (const stream of this.streams.blocked) {
      if (this.window <= 0) return;
      this.pump(stream);
    }
  }

  private pump(stream: Stream): void {
    const { streams, writer } = this;
    let rest = stream.unsent;
    while (rest !== undefined) {
      const length = Math.min(stream.sendWindow, this.window, writer.payloadBytesMax, rest.length);
      if (length <= 0) {
        stream.unsent = rest;
        if (this.inputEnded) streams.close(stream, Gone.resetByPeer);
        else streams.blocked.add(stream);
        return;
      }
      const last = length === rest.length;
      writer.data(stream.id, last && stream.unsentTrailers === undefined ? Flag.endStream : 0, rest, length);
      this.spend(stream, length);
      streams.unsentBytes -= length;
      rest = last ? undefined : rest.subarray(length);
    }
    stream.unsent = undefined;
    streams.blocked.delete(stream);
    if (stream.unsentTrailers !== undefined) writer.headers(stream.id, Flag.endStream, stream.unsentTrailers);
    this.finish(stream);
  }
}
