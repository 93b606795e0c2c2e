/** Writes the answers to calls: a message and OK, a failure, or what is told to those who make no gRPC call. */

import type { ConnectionContext } from "./context.ts";
import type { FrameWriter } from "./frame-writer.ts";
import { Flag, FRAME_HEADER_BYTES, FrameType, writeFrameHeader } from "./frames.ts";
import { ANSWER_HEADERS, failureBlock, HTTP_BODY, httpBlock, OK_TRAILERS } from "./grpc-answer.ts";
import { type BodyFault, MESSAGE_PREFIX_BYTES, writeMessagePrefix } from "./grpc-message.ts";
import type { Output } from "./output.ts";
import type { Sender } from "./sender.ts";
import type { Stream } from "./stream.ts";
import { GrpcCode, GrpcFailure } from "./unary.ts";

/** A handler's fault is told to `onError`, never to the caller. */
const INTERNAL_TEXT = "internal error";

/** Each answers a stream that is open, once, and closes it when all is sent. */
export class Answers {
  private readonly context: ConnectionContext;
  private readonly output: Output;
  private readonly writer: FrameWriter;
  private readonly sender: Sender;

  constructor(context: ConnectionContext, output: Output, writer: FrameWriter, sender: Sender) {
    this.context = context;
    this.output = output;
    this.writer = writer;
    this.sender = sender;
  }

  /** @param message copied before this returns: it may be a view that the next call changes */
  message(stream: Stream, message: Uint8Array): void {
    if (!(message instanceof Uint8Array)) {
      this.error(stream, new TypeError("a handler answered with something else than bytes"));
      return;
    }
    const framedBytes = MESSAGE_PREFIX_BYTES + message.length;
    if (this.writer.sizeUpdateDue || !this.sender.fits(stream, framedBytes)) {
      const framed = Buffer.allocUnsafe(framedBytes);
      writeMessagePrefix(framed, 0, message.length);
      framed.set(message, MESSAGE_PREFIX_BYTES);
      this.writer.headers(stream.id, 0, ANSWER_HEADERS);
      this.sender.send(stream, framed, OK_TRAILERS);
      return;
    }
    // The usual case: three frames into one piece of the output.
    const { output } = this;
    let at = output.reserve(3 * FRAME_HEADER_BYTES + ANSWER_HEADERS.length + framedBytes + OK_TRAILERS.length);
    const { slab } = output;
    writeFrameHeader(slab, at, ANSWER_HEADERS.length, FrameType.headers, Flag.endHeaders, stream.id);
    at += FRAME_HEADER_BYTES;
    for (let index = 0; index < ANSWER_HEADERS.length; index++) slab[at++] = ANSWER_HEADERS[index] as number;
    writeFrameHeader(slab, at, framedBytes, FrameType.data, 0, stream.id);
    at += FRAME_HEADER_BYTES;
    writeMessagePrefix(slab, at, message.length);
    at += MESSAGE_PREFIX_BYTES;
    slab.set(message, at);
    at += message.length;
    writeFrameHeader(slab, at, OK_TRAILERS.length, FrameType.headers, Flag.endHeaders | Flag.endStream, stream.id);
    at += FRAME_HEADER_BYTES;
    for (let index = 0; index < OK_TRAILERS.length; index++) slab[at++] = OK_TRAILERS[index] as number;
    this.sender.spend(stream, framedBytes);
    this.sender.finish(stream);
  }

  /** What a handler threw: a GrpcFailure speaks for itself, anything else is INTERNAL and told to `onError`. */
  error(stream: Stream, error: unknown): void {
    if (error instanceof GrpcFailure) {
      this.failure(stream, error.code, error.message);
      return;
    }
    this.context.onError(error);
    this.failure(stream, GrpcCode.internal, INTERNAL_TEXT);
  }

  fault(stream: Stream, fault: BodyFault): void {
    if (fault.code === GrpcCode.resourceExhausted) this.context.onRefused("message-size");
    this.failure(stream, fault.code, fault.message);
  }

  /** @param code google.rpc.Code; @param message for the caller to see */
  failure(stream: Stream, code: number, message: string): void {
    this.writer.headers(stream.id, Flag.endStream, failureBlock(code, message));
    this.sender.finish(stream);
  }

  /** @param head whether the answer is to have no body */
  http(stream: Stream, status: number, head: boolean): void {
    this.writer.headers(stream.id, head ? Flag.endStream : 0, httpBlock(status, HTTP_BODY.length));
    if (head) this.sender.finish(stream);
    else this.sender.send(stream, HTTP_BODY, undefined);
  }
}
