/** One HTTP/2 connection (RFC 9113), as a server of unary gRPC methods sees it: its parts, its events, and its end. */

import type { Socket } from "node:net";
import { AbuseBudgets } from "./abuse-budgets.ts";
import { Answers } from "./answers.ts";
import { Calls } from "./calls.ts";
import { EventClock } from "./clock.ts";
import type { ConnectionContext } from "./context.ts";
import { ControlFrames } from "./control-frames.ts";
import { Drain } from "./drain.ts";
import { FrameReader } from "./frame-reader.ts";
import { FrameWriter } from "./frame-writer.ts";
import { ConnectionError, ErrorCode, FrameType, INT31_MAX } from "./frames.ts";
import { HeaderBlocks } from "./header-blocks.ts";
import { HpackError } from "./hpack-huffman.ts";
import type { Refusal } from "./limits.ts";
import { Output } from "./output.ts";
import { RequestBodies } from "./request-bodies.ts";
import { RequestHeads } from "./request-heads.ts";
import { Sender } from "./sender.ts";
import { Gone } from "./stream.ts";
import { Streams } from "./streams.ts";
import { TimeLimits } from "./time-limits.ts";

/**
 * Turns a socket's events into work of its parts, and closes itself when the protocol is broken.
 *
 * Frames go from the reader to the part that knows them: header blocks and DATA to `request-heads.ts` and
 * `request-bodies.ts`, which make calls of them; the others to `control-frames.ts`. Answers gather in the output until the
 * chunk in work has been read.
 */
export class Connection {
  private readonly socket: Socket;
  private readonly context: ConnectionContext;
  private readonly clock: EventClock;
  private readonly output: Output;
  private readonly writer: FrameWriter;
  private readonly budgets: AbuseBudgets;
  private readonly streams: Streams;
  private readonly sender: Sender;
  private readonly bodies: RequestBodies;
  private readonly blocks: HeaderBlocks;
  private readonly control: ControlFrames;
  private readonly reader: FrameReader;
  private readonly timeLimits: TimeLimits;
  private readonly drainer: Drain;

  private inChunk = false;
  private flushDue = false;
  /** Since when nothing is read, because the client does not read either. */
  private pausedSinceMs: number | undefined;
  /** The client opens no more streams: it said GOAWAY, or ended its half of the socket. */
  private leaving = false;
  /** Nothing more is read or answered. */
  private over = false;

  /** Takes the socket over: its data, its errors and its end. */
  constructor(socket: Socket, context: ConnectionContext) {
    const { limits } = context;
    this.socket = socket;
    this.context = context;
    const clock = new EventClock(context.now);
    const output = new Output(socket);
    const writer = new FrameWriter(output);
    const budgets = new AbuseBudgets(limits, clock);
    const streams = new Streams(writer, budgets, context, () => this.endIfDone());
    const sender = new Sender(context, clock, output, writer, streams, budgets, () => this.refuseAndDestroy("output"));
    const answers = new Answers(context, output, writer, sender);
    const calls = new Calls(limits.messageBytesMax, clock, streams, answers, (work) => this.later(work));
    const bodies = new RequestBodies(context, writer, streams, budgets, answers, calls);
    const heads = new RequestHeads(context, clock, streams, budgets, sender, answers, bodies);
    this.clock = clock;
    this.output = output;
    this.writer = writer;
    this.budgets = budgets;
    this.streams = streams;
    this.sender = sender;
    this.bodies = bodies;
    this.control = new ControlFrames(limits, writer, streams, budgets, sender);
    this.blocks = new HeaderBlocks(limits, clock, (bytes, start, end, streamId, endStream, selfDependent) =>
      heads.take(bytes, start, end, streamId, endStream, selfDependent),
    );
    this.reader = new FrameReader(clock, (type, flags, streamId, bytes, start, end) =>
      this.takeFrame(type, flags, streamId, bytes, start, end),
    );
    this.timeLimits = new TimeLimits(context, clock, this.reader, this.blocks, streams, answers);
    this.drainer = new Drain(writer, streams, () => {
      this.endIfDone();
      this.flushSoon();
    });
    writer.settings(limits);
    bodies.greet();
    this.flush();
    socket.on("data", (chunk: Buffer) => this.receive(chunk));
    socket.on("drain", () => this.resume());
    socket.on("end", () => this.hearEnd());
    // A broken socket closes right after; there is nobody left to answer.
    socket.on("error", () => this.release());
    socket.on("close", () => this.release());
  }

  /** Calls not yet answered in full. */
  get openStreams(): number {
    return this.streams.openCount;
  }

  /** Stops taking calls, without losing one that is on its way, and ends once all are answered. */
  drain(): void {
    if (this.over) return;
    this.drainer.start();
    this.flush();
  }

  destroy(): void {
    this.release();
    this.socket.destroy();
  }

  /** Ends what has taken too long. Called about every `sweepMs` of the server. */
  sweep(): void {
    if (this.over) return;
    this.clock.tick();
    if (this.pausedSinceMs === undefined) this.guarded(() => this.timeLimits.enforce());
    else if (this.clock.nowMs - this.pausedSinceMs > this.context.limits.unsentMsMax) this.refuseAndDestroy("output");
    this.flush();
  }

  private receive(chunk: Buffer): void {
    if (this.over) return;
    this.clock.tick();
    this.inChunk = true;
    this.guarded(() => this.reader.read(chunk));
    this.inChunk = false;
    this.flush();
  }

  /** Work that is due outside of any chunk. Answers that settle one after the other in one turn leave together. */
  private later(work: () => void): void {
    if (this.over) return;
    this.clock.tick();
    this.guarded(work);
    this.flushSoon();
  }

  /** Closes the connection on whatever is thrown: event handlers never throw. */
  private guarded(work: () => void): void {
    try {
      work();
    } catch (error) {
      // Fails closed: after a broken frame, or a bug of ours, the state of this connection is not to be relied on.
      if (error instanceof ConnectionError) this.fail(error.code, error.message, error.refusal);
      else if (error instanceof HpackError) this.fail(ErrorCode.compressionError, error.message, "protocol");
      else {
        this.context.onError(error);
        this.fail(ErrorCode.internalError, "", undefined);
      }
    }
  }

  private takeFrame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    this.blocks.refuseInterruption(type, streamId);
    switch (type) {
      case FrameType.data:
        this.bodies.readData(flags, streamId, bytes, start, end);
        return;
      case FrameType.headers:
        this.blocks.readHeaders(flags, streamId, bytes, start, end);
        return;
      case FrameType.continuation:
        this.blocks.readContinuation(flags, bytes, start, end);
        return;
      case FrameType.priority:
        this.control.readPriority(streamId, bytes, start, end - start);
        return;
      case FrameType.rstStream:
        this.control.readRstStream(streamId, end - start);
        return;
      case FrameType.settings:
        this.control.readSettings(flags, streamId, bytes, start, end - start);
        return;
      case FrameType.pushPromise:
        throw new ConnectionError(ErrorCode.protocolError, "clients do not push");
      case FrameType.ping: {
        const acknowledged = this.control.readPing(flags, streamId, bytes, start, end - start);
        if (acknowledged !== undefined) this.drainer.hear(acknowledged);
        return;
      }
      case FrameType.goaway:
        this.control.readGoaway(streamId, end - start);
        this.leaving = true;
        this.endIfDone();
        return;
      case FrameType.windowUpdate:
        this.control.readWindowUpdate(streamId, bytes, start, end - start);
        return;
      default:
        // Extensions are ignored (RFC 9113 section 5.5).
        this.budgets.spendControlFrame();
        return;
    }
  }

  private flushSoon(): void {
    if (this.flushDue || this.inChunk) return;
    this.flushDue = true;
    process.nextTick(() => {
      this.flushDue = false;
      this.flush();
    });
  }

  private flush(): void {
    this.output.flush();
    // Whoever does not read its answers is not read from either: replies to floods cannot pile up.
    const { outputPauseBytes } = this.context.limits;
    if (this.pausedSinceMs === undefined && this.output.waitingBytes > outputPauseBytes && !this.over) {
      this.pausedSinceMs = this.clock.nowMs;
      this.socket.pause();
    }
  }

  private resume(): void {
    if (this.pausedSinceMs === undefined) return;
    this.pausedSinceMs = undefined;
    this.clock.tick();
    this.reader.restartWait();
    this.blocks.restartWait();
    this.socket.resume();
  }

  private hearEnd(): void {
    this.leaving = true;
    this.sender.inputEnded = true;
    // Requests that are not whole by now never will be, and no window opens any more; others are still answered.
    for (const stream of this.streams.all()) {
      if (!stream.ended || stream.unsent !== undefined) this.streams.close(stream, Gone.resetByPeer);
    }
    this.endIfDone();
  }

  private endIfDone(): void {
    if (this.over || this.streams.openCount > 0) return;
    if (this.leaving || this.streams.lastServedId !== INT31_MAX) this.end(this.context.limits.unsentMsMax);
  }

  /** Breaks the connection, telling the client why. */
  private fail(code: number, message: string, refusal: Refusal | undefined): void {
    if (this.over) return;
    if (refusal !== undefined) this.context.onRefused(refusal);
    this.writer.goaway(this.streams.lastId, code, message);
    this.end(this.context.limits.lingerMs);
  }

  private refuseAndDestroy(refusal: Refusal): void {
    this.context.onRefused(refusal);
    this.destroy();
  }

  /**
   * Sends what is left. Input is read and dropped until the client closes, or its reset would overtake the GOAWAY.
   * @param flushMsMax how long the client may take to read what is left; then it has `lingerMs` to close
   */
  private end(flushMsMax: number): void {
    this.release();
    this.output.flush();
    let timer = setTimeout(() => this.socket.destroy(), flushMsMax);
    this.socket.once("finish", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.socket.destroy(), this.context.limits.lingerMs);
    });
    this.socket.once("close", () => clearTimeout(timer));
    this.socket.end();
    this.socket.resume();
  }

  /** Lets go of all calls: nobody is there to hear their answers. */
  private release(): void {
    if (this.over) return;
    this.over = true;
    this.drainer.stop();
    this.streams.closeAll();
    this.reader.stop();
    this.blocks.drop();
  }
}
