/** Takes requests' DATA, within the windows given to the client (RFC 9113 section 6.9), until each body is whole. */

import type { AbuseBudgets } from "./abuse-budgets.ts";
import type { Answers } from "./answers.ts";
import type { Calls } from "./calls.ts";
import type { ConnectionContext } from "./context.ts";
import { paddingLength } from "./frame-reader.ts";
import type { FrameWriter } from "./frame-writer.ts";
import { ConnectionError, ErrorCode, Flag, INITIAL_WINDOW_BYTES } from "./frames.ts";
import { faultSoFar, MESSAGE_PREFIX_BYTES } from "./grpc-message.ts";
import { Gone, type Stream } from "./stream.ts";
import type { Streams } from "./streams.ts";
import { GrpcCode } from "./unary.ts";

/** DATA below this that does not end its stream is mostly overhead, and spends the control budget. */
const SMALL_DATA_BYTES = 256;

const EMPTY = Buffer.alloc(0);

export class RequestBodies {
  private readonly context: ConnectionContext;
  private readonly writer: FrameWriter;
  private readonly streams: Streams;
  private readonly budgets: AbuseBudgets;
  private readonly answers: Answers;
  private readonly calls: Calls;
  /** The connection's window: when all is read, and what is left of it. */
  private readonly windowMax: number;
  private window: number;

  constructor(
    context: ConnectionContext,
    writer: FrameWriter,
    streams: Streams,
    budgets: AbuseBudgets,
    answers: Answers,
    calls: Calls,
  ) {
    this.context = context;
    this.writer = writer;
    this.streams = streams;
    this.budgets = budgets;
    this.answers = answers;
    this.calls = calls;
    this.windowMax = Math.max(INITIAL_WINDOW_BYTES, context.limits.connectionWindowBytes);
    this.window = this.windowMax;
  }

  /** Brings the connection's window from what the protocol starts with to its size. */
  greet(): void {
    const more = this.windowMax - INITIAL_WINDOW_BYTES;
    if (more > 0) this.writer.windowUpdate(0, more);
  }

  /** @throws {ConnectionError} when the frame is malformed, beyond the connection's window, or of a stream that has none */
  readData(flags: number, streamId: number, bytes: Buffer, from: number, to: number): void {
    const { streams } = this;
    if (streams.isIdle(streamId)) throw new ConnectionError(ErrorCode.protocolError, "DATA on an idle stream");
    // Padding counts against the windows (RFC 9113 section 6.1).
    const length = to - from;
    const endStream = (flags & Flag.endStream) !== 0;
    this.window -= length;
    if (this.window < 0) throw new ConnectionError(ErrorCode.flowControlError, "connection window exceeded");
    if (!endStream && length < SMALL_DATA_BYTES) this.budgets.spendControlFrame();
    let start = from;
    let end = to;
    if ((flags & Flag.padded) !== 0) {
      end -= paddingLength(bytes, start, end);
      start += 1;
    }
    this.refillConnection();
    const stream = streams.get(streamId);
    if (stream === undefined) {
      this.refuseLate(streamId);
      return;
    }
    if (stream.ended) {
      streams.provoke(streamId, ErrorCode.streamClosed);
      return;
    }
    stream.receiveWindow -= length;
    if (stream.receiveWindow < 0) {
      streams.provoke(streamId, ErrorCode.flowControlError);
      return;
    }
    this.take(stream, bytes, start, end, endStream);
    if (!stream.ended && !stream.closed) this.refillStream(stream);
  }

  /** The client has ended its half: what is there is all. */
  end(stream: Stream): void {
    const { head } = stream;
    stream.ended = true;
    if (head.kind !== "call" && head.kind !== "http") return;
    if (head.contentLength !== undefined && head.contentLength !== stream.bodyBytes) {
      this.streams.provoke(stream.id, ErrorCode.protocolError);
    } else if (head.kind === "http") {
      this.answers.http(stream, head.status, head.head);
    } else {
      this.calls.call(stream, stream.body ?? EMPTY, 0, stream.bodyBytes);
    }
  }

  /** DATA for a stream that is not open any more. */
  private refuseLate(streamId: number): void {
    const end = this.streams.endOf(streamId);
    if (end === Gone.resetByUs) return;
    if (end === Gone.unknown) throw new ConnectionError(ErrorCode.streamClosed, "DATA on a closed stream");
    this.streams.provoke(streamId, ErrorCode.streamClosed);
  }

  private take(stream: Stream, bytes: Buffer, start: number, end: number, endStream: boolean): void {
    const { head } = stream;
    const { messageBytesMax } = this.context.limits;
    // A stream that is not ended, and of a failed head, has been answered and reset.
    if (head.kind !== "call" && head.kind !== "http") return;
    if (head.kind === "call" && endStream && stream.body === undefined && stream.bodyBytes === 0) {
      // The usual case: a message that lies in one frame is handed on where it lies.
      if (head.contentLength !== undefined && head.contentLength !== end - start) {
        this.streams.provoke(stream.id, ErrorCode.protocolError);
        return;
      }
      stream.ended = true;
      this.calls.call(stream, bytes, start, end);
      return;
    }
    if (head.kind === "call" && !this.keep(stream, bytes, start, end)) return;
    stream.bodyBytes += end - start;
    if (head.contentLength !== undefined && stream.bodyBytes > head.contentLength) {
      this.streams.provoke(stream.id, ErrorCode.protocolError);
    } else if (endStream) {
      this.end(stream);
    } else if (head.kind === "http") {
      if (stream.bodyBytes > messageBytesMax) this.answers.http(stream, head.status, head.head);
    } else if (stream.body !== undefined) {
      const fault = faultSoFar(stream.body, 0, stream.bodyBytes, messageBytesMax);
      if (fault !== undefined) this.answers.fault(stream, fault);
    }
  }

  /** Adds to the kept body; answers the call when that would be too much. */
  private keep(stream: Stream, bytes: Buffer, start: number, end: number): boolean {
    const { limits } = this.context;
    const wanted = stream.bodyBytes + end - start;
    const room = stream.body?.length ?? 0;
    if (wanted > room) {
      const grown = Math.min(
        Math.max(wanted, room * 2),
        Math.max(wanted, MESSAGE_PREFIX_BYTES + limits.messageBytesMax),
      );
      if (this.streams.bodiesBytes + grown - room > limits.bodiesBytesMax) {
        this.context.onRefused("bodies");
        this.answers.failure(stream, GrpcCode.resourceExhausted, "too many unfinished requests");
        return false;
      }
      const body = Buffer.allocUnsafe(grown);
      stream.body?.copy(body, 0, 0, stream.bodyBytes);
      stream.body = body;
      this.streams.bodiesBytes += grown - room;
    }
    if (stream.body !== undefined) bytes.copy(stream.body, stream.bodyBytes, start, end);
    return true;
  }

  /** Windows are given back by halves: a frame for many DATA frames, long before the client has to wait. */
  private refillConnection(): void {
    const owed = this.windowMax - this.window;
    if (owed * 2 < this.windowMax) return;
    this.window = this.windowMax;
    this.writer.windowUpdate(0, owed);
  }

  private refillStream(stream: Stream): void {
    const { streamWindowBytes } = this.context.limits;
    const owed = streamWindowBytes - stream.receiveWindow;
    if (owed * 2 < streamWindowBytes || owed === 0) return;
    stream.receiveWindow = streamWindowBytes;
    this.writer.windowUpdate(stream.id, owed);
  }
}
