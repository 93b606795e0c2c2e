/** Hands whole requests to their methods, within the time that their callers give. */

import type { Answers } from "./answers.ts";
import type { EventClock } from "./clock.ts";
import { INT31_MAX } from "./frames.ts";
import { faultOfBody, MESSAGE_PREFIX_BYTES } from "./grpc-message.ts";
import type { Stream } from "./stream.ts";
import type { Streams } from "./streams.ts";
import { GrpcCode } from "./unary.ts";

export class Calls {
  private readonly messageBytesMax: number;
  private readonly clock: EventClock;
  private readonly streams: Streams;
  private readonly answers: Answers;
  private readonly later: (work: () => void) => void;

  /** @param later does what is due outside of any chunk, as an event of its own */
  constructor(
    messageBytesMax: number,
    clock: EventClock,
    streams: Streams,
    answers: Answers,
    later: (work: () => void) => void,
  ) {
    this.messageBytesMax = messageBytesMax;
    this.clock = clock;
    this.streams = streams;
    this.answers = answers;
    this.later = later;
  }

  /** @param bytes hold the whole body as `bytes[start, end)`; what a promise still needs is the stream's own body */
  call(stream: Stream, bytes: Buffer, start: number, end: number): void {
    const { head } = stream;
    if (head.kind !== "call") return;
    const fault = faultOfBody(bytes, start, end, this.messageBytesMax);
    if (fault !== undefined) {
      this.answers.fault(stream, fault);
      return;
    }
    const leftMs = head.timeoutMs === undefined ? undefined : head.timeoutMs - (this.clock.nowMs - stream.openedMs);
    if (leftMs !== undefined && leftMs <= 0) {
      this.answers.failure(stream, GrpcCode.deadlineExceeded, "deadline exceeded");
      return;
    }
    let answer: Uint8Array | Promise<Uint8Array>;
    try {
      answer = head.method.handle(bytes.subarray(start + MESSAGE_PREFIX_BYTES, end), leftMs);
    } catch (error) {
      // Fails closed: the caller gets a status, and Envoy's own setting says what that means.
      this.answers.error(stream, error);
      return;
    }
    if (answer instanceof Uint8Array) this.answers.message(stream, answer);
    else this.await(stream, answer, leftMs);
  }

  private await(stream: Stream, answer: Promise<Uint8Array>, leftMs: number | undefined): void {
    stream.running = true;
    if (leftMs !== undefined) {
      stream.deadline = setTimeout(() => this.expire(stream), Math.min(Math.ceil(leftMs), INT31_MAX));
    }
    Promise.resolve(answer).then(
      (message) => this.settle(stream, () => this.answers.message(stream, message)),
      (error: unknown) => this.settle(stream, () => this.answers.error(stream, error)),
    );
  }

  private settle(stream: Stream, answer: () => void): void {
    this.streams.settle(stream);
    // Closed: reset, out of time, or its connection is gone. Nobody waits for this answer any more.
    if (!stream.closed) this.later(answer);
  }

  private expire(stream: Stream): void {
    if (stream.closed) return;
    this.later(() => this.answers.failure(stream, GrpcCode.deadlineExceeded, "deadline exceeded"));
  }
}
