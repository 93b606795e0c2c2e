/** Opens a stream by its request's header block, or ends its body by trailers (RFC 9113 section 8.1). */

import type { AbuseBudgets } from "./abuse-budgets.ts";
import type { Answers } from "./answers.ts";
import type { EventClock } from "./clock.ts";
import type { ConnectionContext } from "./context.ts";
import { ConnectionError, ErrorCode } from "./frames.ts";
import { areTrailers, type RequestHead, readRequestHead } from "./grpc-head.ts";
import { HeadMemo } from "./head-memo.ts";
import { HpackDecoder } from "./hpack-decoder.ts";
import type { RequestBodies } from "./request-bodies.ts";
import type { Sender } from "./sender.ts";
import { Gone, Stream } from "./stream.ts";
import type { Streams } from "./streams.ts";

export class RequestHeads {
  private readonly context: ConnectionContext;
  private readonly clock: EventClock;
  private readonly streams: Streams;
  private readonly budgets: AbuseBudgets;
  private readonly sender: Sender;
  private readonly answers: Answers;
  private readonly bodies: RequestBodies;
  private readonly decoder: HpackDecoder;
  private readonly memo = new HeadMemo();

  constructor(
    context: ConnectionContext,
    clock: EventClock,
    streams: Streams,
    budgets: AbuseBudgets,
    sender: Sender,
    answers: Answers,
    bodies: RequestBodies,
  ) {
    this.context = context;
    this.clock = clock;
    this.streams = streams;
    this.budgets = budgets;
    this.sender = sender;
    this.answers = answers;
    this.bodies = bodies;
    this.decoder = new HpackDecoder(context.limits.headerListBytesMax, context.limits.headerFieldsMax);
  }

  /**
   * Takes a whole block. It is decoded in any case, for the table's sake.
   * @throws {HpackError} when it cannot be; {ConnectionError} when its stream may have none
   */
  take(bytes: Buffer, start: number, end: number, streamId: number, endStream: boolean, selfDependent: boolean): void {
    const { streams } = this;
    if (streamId > streams.lastId) {
      streams.lastId = streamId;
      const head = this.read(bytes, start, end);
      if (streamId > streams.lastServedId) streams.ignore(streamId);
      else if (selfDependent || head.kind === "malformed") streams.provoke(streamId, ErrorCode.protocolError);
      else this.open(streamId, head, endStream);
      return;
    }
    const { fields, tooLarge } = this.decoder.decode(bytes, start, end);
    const stream = streams.get(streamId);
    if (stream === undefined) {
      this.refuseLate(streamId);
    } else if (stream.ended) {
      streams.provoke(streamId, ErrorCode.streamClosed);
    } else if (selfDependent || !endStream || tooLarge || !areTrailers(fields)) {
      streams.provoke(streamId, ErrorCode.protocolError);
    } else {
      this.bodies.end(stream);
    }
  }

  private read(bytes: Buffer, start: number, end: number): RequestHead {
    const { decoder, memo } = this;
    const { generation } = decoder;
    const known = memo.find(bytes, start, end, generation);
    if (known !== undefined) return known;
    const list = decoder.decode(bytes, start, end);
    if (list.tooLarge) this.context.onRefused("header-list");
    const head = readRequestHead(list, this.context.methods);
    if (decoder.generation === generation && !list.tooLarge) memo.keep(bytes, start, end, generation, head);
    return head;
  }

  private open(streamId: number, head: RequestHead, endStream: boolean): void {
    const { streams } = this;
    const { limits } = this.context;
    if (streams.busyCount >= limits.streamsMax) {
      this.context.onRefused("streams");
      this.budgets.spendClientReset();
      streams.reset(streamId, ErrorCode.refusedStream);
      return;
    }
    const stream = new Stream(streamId, head, this.clock.nowMs, this.sender.streamWindow, limits.streamWindowBytes);
    streams.add(stream);
    if (head.kind === "failed") {
      stream.ended = endStream;
      this.answers.failure(stream, head.code, head.message);
    } else if (endStream) {
      this.bodies.end(stream);
    }
  }

  /** Fields for a stream that is not open any more. */
  private refuseLate(streamId: number): void {
    const end = this.streams.endOf(streamId);
    if (end === Gone.resetByUs) return;
    if (end === Gone.resetByPeer) {
      this.streams.provoke(streamId, ErrorCode.streamClosed);
      return;
    }
    if (end === Gone.ended) throw new ConnectionError(ErrorCode.streamClosed, "HEADERS on a closed stream");
    throw new ConnectionError(ErrorCode.protocolError, "stream ids must grow");
  }
}
