/** One HTTP/2 connection (RFC 9113), as a server of unary gRPC methods sees it. */

import type { Socket } from "node:net";
import { Budget } from "./budget.ts";
import {
  ConnectionError,
  ErrorCode,
  Flag,
  FRAME_BYTES_MAX,
  FRAME_HEADER_BYTES,
  FrameType,
  frame,
  INITIAL_WINDOW_BYTES,
  INT31_MAX,
  PREFACE,
  readUint32,
  Setting,
  writeFrameHeader,
  writeUint32,
} from "./frames.ts";
import { ANSWER_HEADERS, failureBlock, HTTP_BODY, httpBlock, OK_TRAILERS } from "./grpc-answer.ts";
import { areTrailers, type RequestHead, readRequestHead } from "./grpc-head.ts";
import { faultOfBody, faultSoFar, MESSAGE_PREFIX_BYTES, writeMessagePrefix } from "./grpc-message.ts";
import { HeadMemo } from "./head-memo.ts";
import { HEADER_TABLE_BYTES_MAX, HpackDecoder } from "./hpack-decoder.ts";
import { SIZE_UPDATE_TO_ZERO } from "./hpack-encoder.ts";
import { HpackError } from "./hpack-huffman.ts";
import type { Refusal, TransportLimits } from "./limits.ts";
import { Output } from "./output.ts";
import { Gone, GoneStreams, Stream } from "./stream.ts";
import { GrpcCode, GrpcFailure, type UnaryMethod } from "./unary.ts";

/** What all connections of a server share. None of its functions throws. */
export interface ConnectionContext {
  readonly methods: ReadonlyMap<string, UnaryMethod>;
  readonly limits: TransportLimits;
  readonly onError: (error: unknown) => void;
  readonly onRefused: (reason: Refusal) => void;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** Tells a client that does not answer the drain's PING from one on a slow network. */
const DRAIN_PING_MS_MAX = 1000;
const DRAIN_PING = Buffer.from("draining");

/** DATA below this that does not end its stream is mostly overhead, and spends the control budget. */
const SMALL_DATA_BYTES = 256;

/** A handler's fault is told to `onError`, never to the caller. */
const INTERNAL_TEXT = "internal error";

/** A header block that goes on in CONTINUATION frames. */
interface OpenBlock {
  readonly streamId: number;
  readonly endStream: boolean;
  readonly selfDependent: boolean;
  readonly sinceMs: number;
  readonly parts: Buffer[];
  bytes: number;
  continuations: number;
}

/** Reads frames out of socket chunks, keeps the states, and writes answers; closes itself when the protocol is broken. */
export class Connection {
  private readonly socket: Socket;
  private readonly context: ConnectionContext;
  private readonly limits: TransportLimits;
  private readonly output: Output;
  private readonly decoder: HpackDecoder;
  private readonly memo = new HeadMemo();
  private readonly streams = new Map<number, Stream>();
  private readonly gone = new GoneStreams();
  private readonly clientResets: Budget;
  private readonly provokedResets: Budget;
  private readonly controlFrames: Budget;
  private readonly openedMs: number;

  /** Of the chunk in work. */
  private nowMs: number;
  private inChunk = false;
  private flushDue = false;
  private prefaceBytes = 0;
  private settingsSeen = false;
  /** The start of a frame whose end has not come, `partialBytes` of it filled. */
  private partial: Buffer | undefined;
  private partialBytes = 0;
  private partialSinceMs = 0;
  private block: OpenBlock | undefined;

  private lastStreamId = 0;
  /** Streams above are not served: their client has been told by the second GOAWAY. */
  private lastServedId = INT31_MAX;
  /** Handlers still at work for streams that are gone. */
  private orphans = 0;
  private bodiesBytes = 0;

  private sendWindow = INITIAL_WINDOW_BYTES;
  private receiveWindow: number;
  private peerStreamWindow = INITIAL_WINDOW_BYTES;
  private peerFrameBytesMax = FRAME_BYTES_MAX;
  private peerTableBytesMax = HEADER_TABLE_BYTES_MAX;
  private sizeUpdateDue = false;
  /** Answers that wait for a window. */
  private readonly blocked = new Set<Stream>();
  private unsentBytes = 0;
  private pausedSinceMs: number | undefined;

  private draining = false;
  private drainTimer: NodeJS.Timeout | undefined;
  /** The client opens no more streams: it said GOAWAY, or ended its half of the socket. */
  private leaving = false;
  /** The client has ended its half of the socket: not even a window update will come. */
  private inputEnded = false;
  /** Nothing more is read or answered. */
  private over = false;

  /** Takes the socket over: its data, its errors and its end. */
  constructor(socket: Socket, context: ConnectionContext) {
    const { limits } = context;
    this.socket = socket;
    this.context = context;
    this.limits = limits;
    this.output = new Output(socket);
    this.decoder = new HpackDecoder(limits.headerListBytesMax, limits.headerFieldsMax);
    this.nowMs = context.now();
    this.openedMs = this.nowMs;
    this.clientResets = new Budget(limits.clientResetsBurst, limits.clientResetsPerSecond, this.nowMs);
    this.provokedResets = new Budget(limits.provokedResetsBurst, limits.provokedResetsPerSecond, this.nowMs);
    this.controlFrames = new Budget(limits.controlFramesBurst, limits.controlFramesPerSecond, this.nowMs);
    this.receiveWindow = Math.max(INITIAL_WINDOW_BYTES, limits.connectionWindowBytes);
    this.greet();
    socket.on("data", (chunk: Buffer) => this.receive(chunk));
    socket.on("drain", () => this.resume());
    socket.on("end", () => this.hearEnd());
    // A broken socket closes right after; there is nobody left to answer.
    socket.on("error", () => this.release());
    socket.on("close", () => this.release());
  }

  /** Calls not yet answered in full. */
  get openStreams(): number {
    return this.streams.size;
  }

  /** Stops taking calls, without losing one that is on its way: RFC 9113 section 6.8. */
  drain(): void {
    if (this.draining || this.over) return;
    this.draining = true;
    this.writeGoaway(INT31_MAX, ErrorCode.noError, "");
    this.output.write(frame(FrameType.ping, 0, 0, DRAIN_PING));
    this.flush();
    this.drainTimer = setTimeout(() => this.endDrain(), DRAIN_PING_MS_MAX);
  }

  destroy(): void {
    this.release();
    this.socket.destroy();
  }

  /** Ends what has taken too long. Called about every `sweepMs` of the server. */
  sweep(): void {
    if (this.over) return;
    this.nowMs = this.context.now();
    this.guarded(() => {
      const { limits, nowMs } = this;
      if (this.pausedSinceMs !== undefined) {
        if (nowMs - this.pausedSinceMs > limits.unsentMsMax) this.refuseAndDestroy("output");
        return;
      }
      if (!this.settingsSeen && nowMs - this.openedMs > limits.prefaceMsMax) {
        throw new ConnectionError(ErrorCode.protocolError, "preface too slow", "slow-preface");
      }
      const since = this.block?.sinceMs ?? (this.partial === undefined ? undefined : this.partialSinceMs);
      if (since !== undefined && nowMs - since > limits.frameMsMax) {
        throw new ConnectionError(ErrorCode.enhanceYourCalm, "frame too slow", "slow-frame");
      }
      for (const stream of this.streams.values()) this.sweepStream(stream);
    });
    this.flush();
  }

  private sweepStream(stream: Stream): void {
    if (stream.unsent !== undefined) {
      if (this.nowMs - stream.unsentSinceMs > this.limits.unsentMsMax) {
        this.context.onRefused("unsent");
        this.resetByUs(stream.id, ErrorCode.cancel);
      }
      return;
    }
    if (stream.ended) return;
    const ageMs = this.nowMs - stream.openedMs;
    const timeoutMs = stream.head.kind === "call" ? (stream.head.timeoutMs ?? Infinity) : Infinity;
    if (ageMs > this.limits.bodyMsMax) this.context.onRefused("slow-body");
    if (ageMs > Math.min(timeoutMs, this.limits.bodyMsMax)) {
      this.answerFailure(stream, GrpcCode.deadlineExceeded, "request body came too late");
    }
  }

  // --- reading -----------------------------------------------------------------------------------------------------

  private receive(chunk: Buffer): void {
    if (this.over) return;
    this.nowMs = this.context.now();
    this.inChunk = true;
    this.guarded(() => this.read(chunk));
    this.inChunk = false;
    this.flush();
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

  private read(chunk: Buffer): void {
    let at = this.prefaceBytes < PREFACE.length ? this.readPreface(chunk) : 0;
    while (at < chunk.length && !this.over) {
      if (this.partial !== undefined) {
        at = this.readPartial(chunk, at);
        continue;
      }
      const left = chunk.length - at;
      if (left < FRAME_HEADER_BYTES) {
        this.keepPartial(chunk, at, FRAME_HEADER_BYTES);
        return;
      }
      const length = payloadLength(chunk, at);
      if (left < FRAME_HEADER_BYTES + length) {
        this.keepPartial(chunk, at, FRAME_HEADER_BYTES + length);
        return;
      }
      this.readFrame(chunk, at, length);
      at += FRAME_HEADER_BYTES + length;
    }
  }

  private readPreface(chunk: Buffer): number {
    let at = 0;
    for (; at < chunk.length && this.prefaceBytes < PREFACE.length; at++, this.prefaceBytes++) {
      if (chunk[at] !== PREFACE[this.prefaceBytes]) throw new ConnectionError(ErrorCode.protocolError, "no preface");
    }
    return at;
  }

  private keepPartial(chunk: Buffer, at: number, wanted: number): void {
    this.partial = Buffer.allocUnsafe(wanted);
    this.partialBytes = chunk.copy(this.partial, 0, at);
    this.partialSinceMs = this.nowMs;
  }

  /** Adds to the kept part of a frame, no further than the frame's end, and reads it once whole. */
  private readPartial(chunk: Buffer, from: number): number {
    let partial = this.partial as Buffer;
    let at = from;
    if (this.partialBytes < FRAME_HEADER_BYTES) {
      const copied = chunk.copy(partial, this.partialBytes, at, at + FRAME_HEADER_BYTES - this.partialBytes);
      this.partialBytes += copied;
      at += copied;
      if (this.partialBytes < FRAME_HEADER_BYTES) return at;
      const whole = Buffer.allocUnsafe(FRAME_HEADER_BYTES + payloadLength(partial, 0));
      partial.copy(whole, 0, 0, FRAME_HEADER_BYTES);
      partial = whole;
      this.partial = whole;
    }
    const copied = chunk.copy(partial, this.partialBytes, at, at + partial.length - this.partialBytes);
    this.partialBytes += copied;
    at += copied;
    if (this.partialBytes === partial.length) {
      this.partial = undefined;
      this.readFrame(partial, 0, partial.length - FRAME_HEADER_BYTES);
    }
    return at;
  }

  private readFrame(bytes: Buffer, at: number, length: number): void {
    const type = bytes[at + 3] as number;
    const flags = bytes[at + 4] as number;
    const streamId = readUint32(bytes, at + 5) & INT31_MAX;
    const start = at + FRAME_HEADER_BYTES;
    const end = start + length;
    if (this.block !== undefined && (type !== FrameType.continuation || streamId !== this.block.streamId)) {
      throw new ConnectionError(ErrorCode.protocolError, "header block interrupted");
    }
    if (!this.settingsSeen) {
      if (type !== FrameType.settings || (flags & Flag.ack) !== 0) {
        throw new ConnectionError(ErrorCode.protocolError, "first frame is not SETTINGS");
      }
      this.settingsSeen = true;
    }
    switch (type) {
      case FrameType.data:
        this.readData(bytes, start, end, flags, streamId);
        return;
      case FrameType.headers:
        this.readHeaders(bytes, start, end, flags, streamId);
        return;
      case FrameType.priority:
        this.readPriority(bytes, start, length, streamId);
        return;
      case FrameType.rstStream:
        this.readRstStream(length, streamId);
        return;
      case FrameType.settings:
        this.readSettings(bytes, start, length, flags, streamId);
        return;
      case FrameType.pushPromise:
        throw new ConnectionError(ErrorCode.protocolError, "clients do not push");
      case FrameType.ping:
        this.readPing(bytes, start, length, flags, streamId);
        return;
      case FrameType.goaway:
        this.readGoaway(length, streamId);
        return;
      case FrameType.windowUpdate:
        this.readWindowUpdate(bytes, start, length, streamId);
        return;
      case FrameType.continuation:
        this.readContinuation(bytes, start, end, flags);
        return;
      default:
        // Extensions are ignored (RFC 9113 section 5.5).
        this.spendControl();
        return;
    }
  }

  private spendControl(): void {
    if (!this.controlFrames.spend(this.nowMs)) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many frames without calls", "control-frames");
    }
  }

  // --- header blocks -----------------------------------------------------------------------------------------------

  private readHeaders(bytes: Buffer, from: number, to: number, flags: number, streamId: number): void {
    if ((streamId & 1) === 0) throw new ConnectionError(ErrorCode.protocolError, "HEADERS on a stream of no client");
    let start = from;
    let end = to;
    if ((flags & Flag.padded) !== 0) {
      end -= paddingLength(bytes, start, end);
      start += 1;
    }
    let selfDependent = false;
    if ((flags & Flag.priority) !== 0) {
      if (end - start < 5) throw new ConnectionError(ErrorCode.frameSizeError, "HEADERS shorter than its priority");
      selfDependent = (readUint32(bytes, start) & INT31_MAX) === streamId;
      start += 5;
    }
    const endStream = (flags & Flag.endStream) !== 0;
    if ((flags & Flag.endHeaders) !== 0) {
      this.takeBlock(bytes, start, end, streamId, endStream, selfDependent);
      return;
    }
    this.block = {
      streamId,
      endStream,
      selfDependent,
      sinceMs: this.nowMs,
      parts: [],
      bytes: 0,
      continuations: 0,
    };
    this.addToBlock(this.block, bytes, start, end);
  }

  private readContinuation(bytes: Buffer, start: number, end: number, flags: number): void {
    const { block } = this;
    if (block === undefined) throw new ConnectionError(ErrorCode.protocolError, "CONTINUATION of nothing");
    block.continuations += 1;
    if (block.continuations > this.limits.continuationsMax) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many CONTINUATION frames", "header-block");
    }
    this.addToBlock(block, bytes, start, end);
    if ((flags & Flag.endHeaders) === 0) return;
    this.block = undefined;
    const whole = Buffer.concat(block.parts);
    this.takeBlock(whole, 0, whole.length, block.streamId, block.endStream, block.selfDependent);
  }

  private addToBlock(block: OpenBlock, bytes: Buffer, start: number, end: number): void {
    block.bytes += end - start;
    if (block.bytes > this.limits.headerBlockBytesMax) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "header block too large", "header-block");
    }
    // A copy: a few bytes would otherwise keep their whole chunk.
    block.parts.push(Buffer.from(bytes.subarray(start, end)));
  }

  /** A whole header block: opens a stream, or ends one by trailers. It is decoded in any case, for the table's sake. */
  private takeBlock(
    bytes: Buffer,
    start: number,
    end: number,
    streamId: number,
    endStream: boolean,
    selfDependent: boolean,
  ): void {
    if (streamId > this.lastStreamId) {
      this.lastStreamId = streamId;
      const head = this.readHead(bytes, start, end);
      if (streamId > this.lastServedId) this.gone.put(streamId, Gone.resetByUs);
      else if (selfDependent || head.kind === "malformed") this.provoke(streamId, ErrorCode.protocolError);
      else this.open(streamId, head, endStream);
      return;
    }
    const { fields, tooLarge } = this.decoder.decode(bytes, start, end);
    const stream = this.streams.get(streamId);
    if (stream === undefined) {
      const end = this.gone.get(streamId);
      if (end === Gone.resetByUs) return;
      if (end === Gone.resetByPeer) {
        this.provoke(streamId, ErrorCode.streamClosed);
        return;
      }
      if (end === Gone.ended) throw new ConnectionError(ErrorCode.streamClosed, "HEADERS on a closed stream");
      throw new ConnectionError(ErrorCode.protocolError, "stream ids must grow");
    }
    if (stream.ended) {
      this.provoke(streamId, ErrorCode.streamClosed);
      return;
    }
    if (selfDependent || !endStream || tooLarge || !areTrailers(fields)) {
      this.provoke(streamId, ErrorCode.protocolError);
      return;
    }
    this.endBody(stream);
  }

  private readHead(bytes: Buffer, start: number, end: number): RequestHead {
    const { generation } = this.decoder;
    const known = this.memo.find(bytes, start, end, generation);
    if (known !== undefined) return known;
    const list = this.decoder.decode(bytes, start, end);
    if (list.tooLarge) this.context.onRefused("header-list");
    const head = readRequestHead(list, this.context.methods);
    if (this.decoder.generation === generation && !list.tooLarge) this.memo.keep(bytes, start, end, generation, head);
    return head;
  }

  private open(streamId: number, head: RequestHead, endStream: boolean): void {
    if (this.streams.size + this.orphans >= this.limits.streamsMax) {
      this.context.onRefused("streams");
      this.spendClientReset();
      this.resetByUs(streamId, ErrorCode.refusedStream);
      return;
    }
    const stream = new Stream(streamId, head, this.nowMs, this.peerStreamWindow, this.limits.streamWindowBytes);
    this.streams.set(streamId, stream);
    if (head.kind === "failed") {
      stream.ended = endStream;
      this.answerFailure(stream, head.code, head.message);
    } else if (endStream) {
      this.endBody(stream);
    }
  }

  // --- bodies ------------------------------------------------------------------------------------------------------

  private readData(bytes: Buffer, from: number, to: number, flags: number, streamId: number): void {
    if ((streamId & 1) === 0 || streamId > this.lastStreamId) {
      throw new ConnectionError(ErrorCode.protocolError, "DATA on an idle stream");
    }
    // Padding counts against the windows (RFC 9113 section 6.1).
    const length = to - from;
    const endStream = (flags & Flag.endStream) !== 0;
    this.receiveWindow -= length;
    if (this.receiveWindow < 0) throw new ConnectionError(ErrorCode.flowControlError, "connection window exceeded");
    if (!endStream && length < SMALL_DATA_BYTES) this.spendControl();
    let start = from;
    let end = to;
    if ((flags & Flag.padded) !== 0) {
      end -= paddingLength(bytes, start, end);
      start += 1;
    }
    this.refillConnection();
    const stream = this.streams.get(streamId);
    if (stream === undefined) {
      const end = this.gone.get(streamId);
      if (end === Gone.resetByUs) return;
      if (end === Gone.unknown) throw new ConnectionError(ErrorCode.streamClosed, "DATA on a closed stream");
      this.provoke(streamId, ErrorCode.streamClosed);
      return;
    }
    if (stream.ended) {
      this.provoke(streamId, ErrorCode.streamClosed);
      return;
    }
    stream.receiveWindow -= length;
    if (stream.receiveWindow < 0) {
      this.provoke(streamId, ErrorCode.flowControlError);
      return;
    }
    this.takeBody(stream, bytes, start, end, endStream);
    if (!stream.ended && !stream.closed) this.refillStream(stream);
  }

  private takeBody(stream: Stream, bytes: Buffer, start: number, end: number, endStream: boolean): void {
    const { head } = stream;
    // A stream that is not ended, and of a failed head, has been answered and reset.
    if (head.kind !== "call" && head.kind !== "http") return;
    if (head.kind === "call" && endStream && stream.body === undefined && stream.bodyBytes === 0) {
      // The usual case: a message that lies in one frame is handed on where it lies.
      if (head.contentLength !== undefined && head.contentLength !== end - start) {
        this.provoke(stream.id, ErrorCode.protocolError);
        return;
      }
      stream.ended = true;
      this.call(stream, bytes, start, end);
      return;
    }
    if (head.kind === "call" && !this.keepBody(stream, bytes, start, end)) return;
    stream.bodyBytes += end - start;
    if (head.contentLength !== undefined && stream.bodyBytes > head.contentLength) {
      this.provoke(stream.id, ErrorCode.protocolError);
    } else if (endStream) {
      this.endBody(stream);
    } else if (head.kind === "http") {
      if (stream.bodyBytes > this.limits.messageBytesMax) this.answerHttp(stream, head.status, head.head);
    } else if (stream.body !== undefined) {
      const fault = faultSoFar(stream.body, 0, stream.bodyBytes, this.limits.messageBytesMax);
      if (fault !== undefined) this.answerFault(stream, fault);
    }
  }

  /** Adds to the kept body; answers the call when that would be too much. */
  private keepBody(stream: Stream, bytes: Buffer, start: number, end: number): boolean {
    const wanted = stream.bodyBytes + end - start;
    const room = stream.body?.length ?? 0;
    if (wanted > room) {
      const grown = Math.min(
        Math.max(wanted, room * 2),
        Math.max(wanted, MESSAGE_PREFIX_BYTES + this.limits.messageBytesMax),
      );
      if (this.bodiesBytes + grown - room > this.limits.bodiesBytesMax) {
        this.context.onRefused("bodies");
        this.answerFailure(stream, GrpcCode.resourceExhausted, "too many unfinished requests");
        return false;
      }
      const body = Buffer.allocUnsafe(grown);
      stream.body?.copy(body, 0, 0, stream.bodyBytes);
      stream.body = body;
      this.bodiesBytes += grown - room;
    }
    if (stream.body !== undefined) bytes.copy(stream.body, stream.bodyBytes, start, end);
    return true;
  }

  private endBody(stream: Stream): void {
    const { head } = stream;
    stream.ended = true;
    if (head.kind !== "call" && head.kind !== "http") return;
    if (head.contentLength !== undefined && head.contentLength !== stream.bodyBytes) {
      this.provoke(stream.id, ErrorCode.protocolError);
    } else if (head.kind === "http") {
      this.answerHttp(stream, head.status, head.head);
    } else {
      this.call(stream, stream.body ?? EMPTY, 0, stream.bodyBytes);
    }
  }

  private freeBody(stream: Stream): void {
    if (stream.body === undefined) return;
    this.bodiesBytes -= stream.body.length;
    stream.body = undefined;
  }

  /** Windows are given back by halves: a frame for many DATA frames, long before the client has to wait. */
  private refillConnection(): void {
    const whole = Math.max(INITIAL_WINDOW_BYTES, this.limits.connectionWindowBytes);
    const owed = whole - this.receiveWindow;
    if (owed * 2 < whole) return;
    this.receiveWindow = whole;
    this.writeWindowUpdate(0, owed);
  }

  private refillStream(stream: Stream): void {
    const owed = this.limits.streamWindowBytes - stream.receiveWindow;
    if (owed * 2 < this.limits.streamWindowBytes || owed === 0) return;
    stream.receiveWindow = this.limits.streamWindowBytes;
    this.writeWindowUpdate(stream.id, owed);
  }

  // --- the other frames --------------------------------------------------------------------------------------------

  private readPriority(bytes: Buffer, start: number, length: number, streamId: number): void {
    if (streamId === 0) throw new ConnectionError(ErrorCode.protocolError, "PRIORITY of no stream");
    this.spendControl();
    const idle = this.isIdle(streamId);
    if (length !== 5) {
      if (idle) throw new ConnectionError(ErrorCode.frameSizeError, "PRIORITY is not 5 bytes");
      this.provoke(streamId, ErrorCode.frameSizeError);
    } else if ((readUint32(bytes, start) & INT31_MAX) === streamId) {
      // An idle stream cannot be reset.
      if (idle) throw new ConnectionError(ErrorCode.protocolError, "stream depends on itself");
      this.provoke(streamId, ErrorCode.protocolError);
    }
  }

  private readRstStream(length: number, streamId: number): void {
    if (length !== 4) throw new ConnectionError(ErrorCode.frameSizeError, "RST_STREAM is not 4 bytes");
    if (streamId === 0 || this.isIdle(streamId)) {
      throw new ConnectionError(ErrorCode.protocolError, "RST_STREAM on an idle stream");
    }
    const stream = this.streams.get(streamId);
    if (stream === undefined) {
      // It crossed our answer on the way, and the answer has earned more than this costs.
      this.spendControl();
      return;
    }
    this.closeStream(stream, Gone.resetByPeer);
    this.spendClientReset();
  }

  private spendClientReset(): void {
    if (!this.clientResets.spend(this.nowMs)) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many resets", "client-resets");
    }
  }

  private readSettings(bytes: Buffer, start: number, length: number, flags: number, streamId: number): void {
    if (streamId !== 0) throw new ConnectionError(ErrorCode.protocolError, "SETTINGS on a stream");
    this.spendControl();
    if ((flags & Flag.ack) !== 0) {
      if (length !== 0) throw new ConnectionError(ErrorCode.frameSizeError, "SETTINGS acknowledgement with a payload");
      return;
    }
    if (length % 6 !== 0) throw new ConnectionError(ErrorCode.frameSizeError, "SETTINGS of a wrong length");
    if (length / 6 > this.limits.settingsPerFrameMax) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many settings", "control-frames");
    }
    let window = this.peerStreamWindow;
    for (let at = start; at < start + length; at += 6) {
      const id = ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
      const value = readUint32(bytes, at + 2);
      if (id === Setting.initialWindowSize) {
        if (value > INT31_MAX) throw new ConnectionError(ErrorCode.flowControlError, "window too large");
        window = value;
      } else {
        this.applySetting(id, value);
      }
    }
    this.output.write(frame(FrameType.settings, Flag.ack, 0));
    if (window !== this.peerStreamWindow) this.moveWindows(window);
  }

  private applySetting(id: number, value: number): void {
    switch (id) {
      case Setting.headerTableSize:
        // Ours is always empty, but a smaller one must be acknowledged in the next block (RFC 7541 section 4.2).
        if (value < this.peerTableBytesMax) this.sizeUpdateDue = true;
        this.peerTableBytesMax = value;
        break;
      case Setting.enablePush:
        if (value > 1) throw new ConnectionError(ErrorCode.protocolError, "ENABLE_PUSH is 0 or 1");
        break;
      case Setting.maxFrameSize:
        if (value < FRAME_BYTES_MAX || value > 0xff_ffff) {
          throw new ConnectionError(ErrorCode.protocolError, "MAX_FRAME_SIZE out of range");
        }
        this.peerFrameBytesMax = value;
        break;
      default:
        // Unknown ones are ignored, and the limits on lists and streams ask nothing of us (RFC 9113 section 6.5.2).
        break;
    }
  }

  /** RFC 9113 section 6.9.2. */
  private moveWindows(window: number): void {
    const by = window - this.peerStreamWindow;
    this.peerStreamWindow = window;
    for (const stream of this.streams.values()) {
      stream.sendWindow += by;
      if (stream.sendWindow > INT31_MAX) throw new ConnectionError(ErrorCode.flowControlError, "window too large");
    }
    if (by > 0) this.pumpAll();
  }

  private readPing(bytes: Buffer, start: number, length: number, flags: number, streamId: number): void {
    if (streamId !== 0) throw new ConnectionError(ErrorCode.protocolError, "PING on a stream");
    if (length !== 8) throw new ConnectionError(ErrorCode.frameSizeError, "PING is not 8 bytes");
    this.spendControl();
    if ((flags & Flag.ack) === 0) {
      this.output.write(frame(FrameType.ping, Flag.ack, 0, bytes.subarray(start, start + length)));
    } else if (this.draining && DRAIN_PING.equals(bytes.subarray(start, start + length))) {
      this.endDrain();
    }
  }

  private readGoaway(length: number, streamId: number): void {
    if (streamId !== 0) throw new ConnectionError(ErrorCode.protocolError, "GOAWAY on a stream");
    if (length < 8) throw new ConnectionError(ErrorCode.frameSizeError, "GOAWAY is too short");
    this.spendControl();
    this.leaving = true;
    this.endIfDone();
  }

  private readWindowUpdate(bytes: Buffer, start: number, length: number, streamId: number): void {
    if (length !== 4) throw new ConnectionError(ErrorCode.frameSizeError, "WINDOW_UPDATE is not 4 bytes");
    const by = readUint32(bytes, start) & INT31_MAX;
    this.spendControl();
    if (streamId === 0) {
      if (by === 0) throw new ConnectionError(ErrorCode.protocolError, "WINDOW_UPDATE by 0");
      this.sendWindow += by;
      if (this.sendWindow > INT31_MAX) throw new ConnectionError(ErrorCode.flowControlError, "window too large");
      this.pumpAll();
      return;
    }
    if (this.isIdle(streamId)) throw new ConnectionError(ErrorCode.protocolError, "WINDOW_UPDATE on an idle stream");
    const stream = this.streams.get(streamId);
    if (stream === undefined) return;
    stream.sendWindow += by;
    if (by === 0) this.provoke(streamId, ErrorCode.protocolError);
    else if (stream.sendWindow > INT31_MAX) this.provoke(streamId, ErrorCode.flowControlError);
    else if (stream.unsent !== undefined) this.pump(stream);
  }

  /** Even streams would be ours, and we open none. */
  private isIdle(streamId: number): boolean {
    return streamId > this.lastStreamId || (streamId & 1) === 0;
  }

  // --- calls -------------------------------------------------------------------------------------------------------

  private call(stream: Stream, bytes: Buffer, start: number, end: number): void {
    const { head } = stream;
    if (head.kind !== "call") return;
    const fault = faultOfBody(bytes, start, end, this.limits.messageBytesMax);
    if (fault !== undefined) {
      this.answerFault(stream, fault);
      return;
    }
    const leftMs = head.timeoutMs === undefined ? undefined : head.timeoutMs - (this.nowMs - stream.openedMs);
    if (leftMs !== undefined && leftMs <= 0) {
      this.answerFailure(stream, GrpcCode.deadlineExceeded, "deadline exceeded");
      return;
    }
    let answer: Uint8Array | Promise<Uint8Array>;
    try {
      answer = head.method.handle(bytes.subarray(start + MESSAGE_PREFIX_BYTES, end), leftMs);
    } catch (error) {
      // Fails closed: the caller gets a status, and Envoy's own setting says what that means.
      this.answerError(stream, error);
      return;
    }
    if (answer instanceof Uint8Array) {
      this.answer(stream, answer);
      return;
    }
    stream.running = true;
    if (leftMs !== undefined) {
      stream.deadline = setTimeout(() => this.expire(stream), Math.min(Math.ceil(leftMs), INT31_MAX));
    }
    Promise.resolve(answer).then(
      (message) => this.settle(stream, () => this.answer(stream, message)),
      (error: unknown) => this.settle(stream, () => this.answerError(stream, error)),
    );
  }

  private settle(stream: Stream, answer: () => void): void {
    stream.running = false;
    this.freeBody(stream);
    if (stream.closed) {
      // Reset, or out of time: nobody waits for this answer any more.
      this.orphans -= 1;
      return;
    }
    if (this.over) return;
    this.nowMs = this.context.now();
    this.guarded(answer);
    this.flushSoon();
  }

  private expire(stream: Stream): void {
    if (stream.closed || this.over) return;
    this.nowMs = this.context.now();
    this.guarded(() => this.answerFailure(stream, GrpcCode.deadlineExceeded, "deadline exceeded"));
    this.flushSoon();
  }

  // --- answering ---------------------------------------------------------------------------------------------------

  private answer(stream: Stream, message: Uint8Array): void {
    if (!(message instanceof Uint8Array)) {
      this.answerError(stream, new TypeError("a handler answered with something else than bytes"));
      return;
    }
    const framedBytes = MESSAGE_PREFIX_BYTES + message.length;
    const fits =
      framedBytes <= stream.sendWindow && framedBytes <= this.sendWindow && framedBytes <= this.peerFrameBytesMax;
    if (!fits || this.sizeUpdateDue) {
      const framed = Buffer.allocUnsafe(framedBytes);
      writeMessagePrefix(framed, 0, message.length);
      framed.set(message, MESSAGE_PREFIX_BYTES);
      this.writeHeaders(stream.id, 0, ANSWER_HEADERS);
      this.send(stream, framed, OK_TRAILERS);
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
    stream.sendWindow -= framedBytes;
    this.sendWindow -= framedBytes;
    this.finish(stream);
  }

  private answerError(stream: Stream, error: unknown): void {
    if (error instanceof GrpcFailure) {
      this.answerFailure(stream, error.code, error.message);
      return;
    }
    this.context.onError(error);
    this.answerFailure(stream, GrpcCode.internal, INTERNAL_TEXT);
  }

  private answerFault(stream: Stream, fault: { readonly code: number; readonly message: string }): void {
    if (fault.code === GrpcCode.resourceExhausted) this.context.onRefused("message-size");
    this.answerFailure(stream, fault.code, fault.message);
  }

  private answerFailure(stream: Stream, code: number, message: string): void {
    this.writeHeaders(stream.id, Flag.endStream, failureBlock(code, message));
    this.finish(stream);
  }

  private answerHttp(stream: Stream, status: number, head: boolean): void {
    this.writeHeaders(stream.id, head ? Flag.endStream : 0, httpBlock(status, HTTP_BODY.length));
    if (head) this.finish(stream);
    else this.send(stream, HTTP_BODY, undefined);
  }

  /** Sends what the windows allow, and keeps the rest. */
  private send(stream: Stream, bytes: Buffer, trailers: Buffer | undefined): void {
    stream.unsent = bytes;
    stream.unsentTrailers = trailers;
    stream.unsentSinceMs = this.nowMs;
    this.unsentBytes += bytes.length;
    this.pump(stream);
    if (this.unsentBytes > this.limits.unsentBytesMax && stream.unsent !== undefined) {
      this.context.onRefused("unsent");
      this.resetByUs(stream.id, ErrorCode.enhanceYourCalm);
    }
  }

  private pumpAll(): void {
    for (const stream of this.blocked) {
      if (this.sendWindow <= 0) return;
      this.pump(stream);
    }
  }

  private pump(stream: Stream): void {
    let rest = stream.unsent;
    while (rest !== undefined) {
      const length = Math.min(stream.sendWindow, this.sendWindow, this.peerFrameBytesMax, rest.length);
      if (length <= 0) {
        stream.unsent = rest;
        if (this.inputEnded) this.closeStream(stream, Gone.resetByPeer);
        else this.blocked.add(stream);
        return;
      }
      const last = length === rest.length;
      const flags = last && stream.unsentTrailers === undefined ? Flag.endStream : 0;
      const at = this.output.reserve(FRAME_HEADER_BYTES + length);
      writeFrameHeader(this.output.slab, at, length, FrameType.data, flags, stream.id);
      rest.copy(this.output.slab, at + FRAME_HEADER_BYTES, 0, length);
      stream.sendWindow -= length;
      this.sendWindow -= length;
      this.unsentBytes -= length;
      rest = last ? undefined : rest.subarray(length);
    }
    stream.unsent = undefined;
    this.blocked.delete(stream);
    if (stream.unsentTrailers !== undefined) this.writeHeaders(stream.id, Flag.endStream, stream.unsentTrailers);
    this.finish(stream);
  }

  /** The answer is out. A client that still sends is told to stop (RFC 9113 section 8.1). */
  private finish(stream: Stream): void {
    this.controlFrames.earn(this.limits.controlFramesPerCall);
    this.clientResets.earn(1);
    if (stream.ended) this.closeStream(stream, Gone.ended);
    else this.resetByUs(stream.id, ErrorCode.noError);
    if (this.output.waitingBytes > this.limits.outputBytesMax) this.refuseAndDestroy("output");
  }

  private closeStream(stream: Stream, end: number): void {
    stream.closed = true;
    this.streams.delete(stream.id);
    this.gone.put(stream.id, end);
    if (stream.deadline !== undefined) clearTimeout(stream.deadline);
    if (stream.unsent !== undefined) {
      this.unsentBytes -= stream.unsent.length;
      stream.unsent = undefined;
      this.blocked.delete(stream);
    }
    // A running handler still looks at its message, and still holds its place.
    if (stream.running) this.orphans += 1;
    else this.freeBody(stream);
    this.endIfDone();
  }

  /** A stream error that the client is to blame for. */
  private provoke(streamId: number, code: number): void {
    this.context.onRefused("protocol");
    this.resetByUs(streamId, code);
    if (!this.provokedResets.spend(this.nowMs)) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many stream errors", "provoked-resets");
    }
  }

  private resetByUs(streamId: number, code: number): void {
    const payload = Buffer.allocUnsafe(4);
    writeUint32(payload, 0, code);
    this.output.write(frame(FrameType.rstStream, 0, streamId, payload));
    const stream = this.streams.get(streamId);
    if (stream === undefined) this.gone.put(streamId, Gone.resetByUs);
    else this.closeStream(stream, Gone.resetByUs);
  }

  // --- writing -----------------------------------------------------------------------------------------------------

  /** Our SETTINGS, and the connection's window brought to its size. */
  private greet(): void {
    const { limits } = this;
    const settings = Buffer.alloc(18);
    settings.writeUInt16BE(Setting.maxConcurrentStreams, 0);
    settings.writeUInt32BE(limits.streamsMax, 2);
    settings.writeUInt16BE(Setting.initialWindowSize, 6);
    settings.writeUInt32BE(limits.streamWindowBytes, 8);
    settings.writeUInt16BE(Setting.maxHeaderListSize, 12);
    settings.writeUInt32BE(limits.headerListBytesMax, 14);
    this.output.write(frame(FrameType.settings, 0, 0, settings));
    const more = this.receiveWindow - INITIAL_WINDOW_BYTES;
    if (more > 0) this.writeWindowUpdate(0, more);
    this.flush();
  }

  private writeHeaders(streamId: number, flags: number, block: Buffer): void {
    const prefix = this.sizeUpdateDue ? 1 : 0;
    this.sizeUpdateDue = false;
    let at = this.output.reserve(FRAME_HEADER_BYTES + prefix + block.length);
    const { slab } = this.output;
    writeFrameHeader(slab, at, prefix + block.length, FrameType.headers, flags | Flag.endHeaders, streamId);
    at += FRAME_HEADER_BYTES;
    if (prefix === 1) slab[at++] = SIZE_UPDATE_TO_ZERO;
    slab.set(block, at);
  }

  private writeWindowUpdate(streamId: number, by: number): void {
    const payload = Buffer.allocUnsafe(4);
    writeUint32(payload, 0, by);
    this.output.write(frame(FrameType.windowUpdate, 0, streamId, payload));
  }

  private writeGoaway(lastStreamId: number, code: number, debug: string): void {
    const payload = Buffer.alloc(8 + debug.length);
    writeUint32(payload, 0, lastStreamId);
    writeUint32(payload, 4, code);
    payload.write(debug, 8, "latin1");
    this.output.write(frame(FrameType.goaway, 0, 0, payload));
  }

  /** Answers that settle one after the other in one turn leave together. */
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
    if (this.pausedSinceMs === undefined && this.output.waitingBytes > this.limits.outputPauseBytes && !this.over) {
      this.pausedSinceMs = this.nowMs;
      this.socket.pause();
    }
  }

  private resume(): void {
    if (this.pausedSinceMs === undefined) return;
    this.pausedSinceMs = undefined;
    // What was on its way has waited for us, not for the client.
    this.partialSinceMs = this.context.now();
    this.socket.resume();
  }

  // --- the end -----------------------------------------------------------------------------------------------------

  private endDrain(): void {
    clearTimeout(this.drainTimer);
    if (this.over || this.lastServedId !== INT31_MAX) return;
    this.lastServedId = this.lastStreamId;
    this.writeGoaway(this.lastStreamId, ErrorCode.noError, "");
    this.endIfDone();
    this.flushSoon();
  }

  private hearEnd(): void {
    this.leaving = true;
    this.inputEnded = true;
    // Requests that are not whole by now never will be, and no window opens any more; others are still answered.
    for (const stream of [...this.streams.values()]) {
      if (!stream.ended || stream.unsent !== undefined) this.closeStream(stream, Gone.resetByPeer);
    }
    this.endIfDone();
  }

  private endIfDone(): void {
    if (this.over || this.streams.size > 0) return;
    if (this.leaving || this.lastServedId !== INT31_MAX) this.end(this.limits.unsentMsMax);
  }

  /** Breaks the connection, telling the client why. */
  private fail(code: number, message: string, refusal: Refusal | undefined): void {
    if (this.over) return;
    if (refusal !== undefined) this.context.onRefused(refusal);
    this.writeGoaway(this.lastStreamId, code, message);
    this.end(this.limits.lingerMs);
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
      timer = setTimeout(() => this.socket.destroy(), this.limits.lingerMs);
    });
    this.socket.once("close", () => clearTimeout(timer));
    this.socket.end();
    this.socket.resume();
  }

  /** Lets go of all calls: nobody is there to hear their answers. */
  private release(): void {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.drainTimer);
    for (const stream of [...this.streams.values()]) this.closeStream(stream, Gone.resetByPeer);
    this.partial = undefined;
    this.block = undefined;
  }
}

const EMPTY = Buffer.alloc(0);

function payloadLength(bytes: Buffer, at: number): number {
  const length = ((bytes[at] as number) << 16) | ((bytes[at + 1] as number) << 8) | (bytes[at + 2] as number);
  if (length > FRAME_BYTES_MAX) throw new ConnectionError(ErrorCode.frameSizeError, "frame too large");
  return length;
}

/** @returns how many bytes of padding end the payload, once its first byte has been read */
function paddingLength(bytes: Buffer, start: number, end: number): number {
  if (start >= end) throw new ConnectionError(ErrorCode.frameSizeError, "padded frame without a length");
  const padding = bytes[start] as number;
  if (padding >= end - start) throw new ConnectionError(ErrorCode.protocolError, "padding beyond its frame");
  return padding;
}
