/** Cuts what a socket delivers into frames (RFC 9113 sections 3.4 and 4.1), wherever its chunks begin and end. */

import type { EventClock } from "./clock.ts";
import {
  ConnectionError,
  ErrorCode,
  Flag,
  FRAME_BYTES_MAX,
  FRAME_HEADER_BYTES,
  FrameType,
  INT31_MAX,
  PREFACE,
  readUint32,
} from "./frames.ts";

/**
 * Takes one frame, whose payload is `bytes[start, end)`, a view that is valid only until this returns.
 * @param streamId without its reserved bit
 */
export type TakeFrame = (
  type: number,
  flags: number,
  streamId: number,
  bytes: Buffer,
  start: number,
  end: number,
) => void;

/** One per connection. Frames that lie whole in a chunk are handed on where they lie. */
export class FrameReader {
  private readonly clock: EventClock;
  private readonly take: TakeFrame;
  private prefaceBytes = 0;
  private settingsSeen = false;
  /** The start of a frame whose end has not come, `partialBytes` of it filled. */
  private partial: Buffer | undefined;
  private partialBytes = 0;
  private partialSinceMs = 0;
  private stopped = false;

  constructor(clock: EventClock, take: TakeFrame) {
    this.clock = clock;
    this.take = take;
  }

  /** Whether the client's whole preface has been read: the fixed bytes, and a SETTINGS frame. */
  get isGreeted(): boolean {
    return this.settingsSeen;
  }

  /** Since when the frame whose end has not come is waited for; undefined without one. */
  get waitingSinceMs(): number | undefined {
    return this.partial === undefined ? undefined : this.partialSinceMs;
  }

  /** Counts the wait for the rest of a frame from now on: it has waited for us, not for the client. */
  restartWait(): void {
    this.partialSinceMs = this.clock.nowMs;
  }

  /** No frame is handed on any more, not even of the chunk in work. */
  stop(): void {
    this.stopped = true;
    this.partial = undefined;
  }

  /** @throws {ConnectionError} when the client's preface is none, or a frame is too large; and whatever `take` throws */
  read(chunk: Buffer): void {
    let at = this.prefaceBytes < PREFACE.length ? this.readPreface(chunk) : 0;
    while (at < chunk.length && !this.stopped) {
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
    this.partialSinceMs = this.clock.nowMs;
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
    if (!this.settingsSeen) {
      if (type !== FrameType.settings || (flags & Flag.ack) !== 0) {
        throw new ConnectionError(ErrorCode.protocolError, "first frame is not SETTINGS");
      }
      this.settingsSeen = true;
    }
    const start = at + FRAME_HEADER_BYTES;
    this.take(type, flags, streamId, bytes, start, start + length);
  }
}

function payloadLength(bytes: Buffer, at: number): number {
  const length = ((bytes[at] as number) << 16) | ((bytes[at + 1] as number) << 8) | (bytes[at + 2] as number);
  if (length > FRAME_BYTES_MAX) throw new ConnectionError(ErrorCode.frameSizeError, "frame too large");
  return length;
}

/** @returns how many bytes of padding end the payload of a padded frame, once its first byte has been read */
export function paddingLength(bytes: Buffer, start: number, end: number): number {
  if (start >= end) throw new ConnectionError(ErrorCode.frameSizeError, "padded frame without a length");
  const padding = bytes[start] as number;
  if (padding >= end - start) throw new ConnectionError(ErrorCode.protocolError, "padding beyond its frame");
  return padding;
}
