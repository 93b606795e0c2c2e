/** Gathers header blocks (RFC 9113 section 4.3) out of HEADERS and the CONTINUATION frames that follow. */

import type { EventClock } from "./clock.ts";
import { paddingLength } from "./frame-reader.ts";
import { ConnectionError, ErrorCode, Flag, FrameType, INT31_MAX, readUint32 } from "./frames.ts";
import type { TransportLimits } from "./limits.ts";

/**
 * Takes one whole block, `bytes[start, end)`, not decoded yet; a view that is valid only until this returns.
 * @param selfDependent whether its priority made the stream depend on itself, which is a stream error
 */
export type TakeBlock = (
  bytes: Buffer,
  start: number,
  end: number,
  streamId: number,
  endStream: boolean,
  selfDependent: boolean,
) => void;

/** A header block that goes on in CONTINUATION frames. */
interface OpenBlock {
  readonly streamId: number;
  readonly endStream: boolean;
  readonly selfDependent: boolean;
  sinceMs: number;
  readonly parts: Buffer[];
  bytes: number;
  continuations: number;
}

/** At most one block is open at a time: the protocol lets no other frame in between. */
export class HeaderBlocks {
  private readonly limits: TransportLimits;
  private readonly clock: EventClock;
  private readonly take: TakeBlock;
  private block: OpenBlock | undefined;

  constructor(limits: TransportLimits, clock: EventClock, take: TakeBlock) {
    this.limits = limits;
    this.clock = clock;
    this.take = take;
  }

  /** Since when the end of the open block is waited for; undefined without one. */
  get waitingSinceMs(): number | undefined {
    return this.block?.sinceMs;
  }

  /** Counts the wait for the rest of a block from now on: it has waited for us, not for the client. */
  restartWait(): void {
    if (this.block !== undefined) this.block.sinceMs = this.clock.nowMs;
  }

  /** @throws {ConnectionError} when a frame comes in the middle of a header block that is not its next part */
  refuseInterruption(type: number, streamId: number): void {
    if (this.block === undefined || (type === FrameType.continuation && streamId === this.block.streamId)) return;
    throw new ConnectionError(ErrorCode.protocolError, "header block interrupted");
  }

  /** @throws {ConnectionError} when the frame is malformed, or its block too large; and whatever `take` throws */
  readHeaders(flags: number, streamId: number, bytes: Buffer, from: number, to: number): void {
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
      this.take(bytes, start, end, streamId, endStream, selfDependent);
      return;
    }
    this.block = {
      streamId,
      endStream,
      selfDependent,
      sinceMs: this.clock.nowMs,
      parts: [],
      bytes: 0,
      continuations: 0,
    };
    this.add(this.block, bytes, start, end);
  }

  /** @throws {ConnectionError} when no block is open, or it is too large or in too many parts; and whatever `take` throws */
  readContinuation(flags: number, bytes: Buffer, start: number, end: number): void {
    const { block } = this;
    if (block === undefined) throw new ConnectionError(ErrorCode.protocolError, "CONTINUATION of nothing");
    block.continuations += 1;
    if (block.continuations > this.limits.continuationsMax) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many CONTINUATION frames", "header-block");
    }
    this.add(block, bytes, start, end);
    if ((flags & Flag.endHeaders) === 0) return;
    this.block = undefined;
    const whole = Buffer.concat(block.parts);
    this.take(whole, 0, whole.length, block.streamId, block.endStream, block.selfDependent);
  }

  /** Forgets the open block. */
  drop(): void {
    this.block = undefined;
  }

  private add(block: OpenBlock, bytes: Buffer, start: number, end: number): void {
    block.bytes += end - start;
    if (block.bytes > this.limits.headerBlockBytesMax) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "header block too large", "header-block");
    }
    // A copy: a few bytes would otherwise keep their whole chunk.
    block.parts.push(Buffer.from(bytes.subarray(start, end)));
  }
}
