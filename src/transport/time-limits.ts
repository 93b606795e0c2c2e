/** Ends what a client takes too long for: its preface, a frame, a header block, a body, or the reading of an answer. */

import type { Answers } from "./answers.ts";
import type { EventClock } from "./clock.ts";
import type { ConnectionContext } from "./context.ts";
import type { FrameReader } from "./frame-reader.ts";
import { ConnectionError, ErrorCode } from "./frames.ts";
import type { HeaderBlocks } from "./header-blocks.ts";
import type { Stream } from "./stream.ts";
import type { Streams } from "./streams.ts";
import { GrpcCode } from "./unary.ts";

export class TimeLimits {
  private readonly context: ConnectionContext;
  private readonly clock: EventClock;
  private readonly reader: FrameReader;
  private readonly blocks: HeaderBlocks;
  private readonly streams: Streams;
  private readonly answers: Answers;
  private readonly openedMs: number;

  constructor(
    context: ConnectionContext,
    clock: EventClock,
    reader: FrameReader,
    blocks: HeaderBlocks,
    streams: Streams,
    answers: Answers,
  ) {
    this.context = context;
    this.clock = clock;
    this.reader = reader;
    this.blocks = blocks;
    this.streams = streams;
    this.answers = answers;
    this.openedMs = clock.nowMs;
  }

  /** @throws {ConnectionError} when the connection itself is too slow */
  enforce(): void {
    const { limits } = this.context;
    const { nowMs } = this.clock;
    if (!this.reader.isGreeted && nowMs - this.openedMs > limits.prefaceMsMax) {
      throw new ConnectionError(ErrorCode.protocolError, "preface too slow", "slow-preface");
    }
    const since = this.blocks.waitingSinceMs ?? this.reader.waitingSinceMs;
    if (since !== undefined && nowMs - since > limits.frameMsMax) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "frame too slow", "slow-frame");
    }
    for (const stream of this.streams.all()) if (!stream.closed) this.endIfLate(stream, nowMs);
  }

  private endIfLate(stream: Stream, nowMs: number): void {
    const { limits, onRefused } = this.context;
    if (stream.unsent !== undefined) {
      if (nowMs - stream.unsentSinceMs > limits.unsentMsMax) {
        onRefused("unsent");
        this.streams.reset(stream.id, ErrorCode.cancel);
      }
      return;
    }
    if (stream.ended) return;
    const ageMs = nowMs - stream.openedMs;
    const timeoutMs = stream.head.kind === "call" ? (stream.head.timeoutMs ?? Infinity) : Infinity;
    if (ageMs > limits.bodyMsMax) onRefused("slow-body");
    if (ageMs > Math.min(timeoutMs, limits.bodyMsMax)) {
      this.answers.failure(stream, GrpcCode.deadlineExceeded, "request body came too late");
    }
  }
}
