/** Writes the frames that a server sends, but for the usual answer, which `answers.ts` writes in one piece. */

import {
  ConnectionError,
  ErrorCode,
  Flag,
  FRAME_BYTES_MAX,
  FRAME_HEADER_BYTES,
  FrameType,
  frame,
  Setting,
  writeFrameHeader,
  writeUint32,
} from "./frames.ts";
import { HEADER_TABLE_BYTES_MAX } from "./hpack-decoder.ts";
import { SIZE_UPDATE_TO_ZERO } from "./hpack-encoder.ts";
import type { TransportLimits } from "./limits.ts";
import type { Output } from "./output.ts";

/** Puts frames into the output; they leave with its next flush. */
export class FrameWriter {
  private readonly output: Output;
  private peerTableBytesMax = HEADER_TABLE_BYTES_MAX;
  private sizeUpdate = false;
  private frameBytesMax = FRAME_BYTES_MAX;

  constructor(output: Output) {
    this.output = output;
  }

  /** The next header block must begin with a size update of the header table. */
  get sizeUpdateDue(): boolean {
    return this.sizeUpdate;
  }

  /** The longest payload that the client takes. */
  get payloadBytesMax(): number {
    return this.frameBytesMax;
  }

  /** The client's SETTINGS_HEADER_TABLE_SIZE. Our table is always empty, but that it got smaller must be acknowledged. */
  setPeerTable(bytesMax: number): void {
    // In the next block (RFC 7541 section 4.2).
    if (bytesMax < this.peerTableBytesMax) this.sizeUpdate = true;
    this.peerTableBytesMax = bytesMax;
  }

  /**
   * The client's SETTINGS_MAX_FRAME_SIZE.
   * @throws {ConnectionError} when it is out of the range of RFC 9113 section 6.5.2
   */
  setPayloadMax(bytesMax: number): void {
    if (bytesMax < FRAME_BYTES_MAX || bytesMax > 0xff_ffff) {
      throw new ConnectionError(ErrorCode.protocolError, "MAX_FRAME_SIZE out of range");
    }
    this.frameBytesMax = bytesMax;
  }

  /** A whole header block in one frame: ours all fit the smallest frame that a peer may ask for. */
  headers(streamId: number, flags: number, block: Buffer): void {
    const prefix = this.sizeUpdate ? 1 : 0;
    this.sizeUpdate = false;
    let at = this.output.reserve(FRAME_HEADER_BYTES + prefix + block.length);
    const { slab } = this.output;
    writeFrameHeader(slab, at, prefix + block.length, FrameType.headers, flags | Flag.endHeaders, streamId);
    at += FRAME_HEADER_BYTES;
    if (prefix === 1) slab[at++] = SIZE_UPDATE_TO_ZERO;
    slab.set(block, at);
  }

  /** The first `length` of `bytes`, which are copied. */
  data(streamId: number, flags: number, bytes: Buffer, length: number): void {
    const at = this.output.reserve(FRAME_HEADER_BYTES + length);
    writeFrameHeader(this.output.slab, at, length, FrameType.data, flags, streamId);
    bytes.copy(this.output.slab, at + FRAME_HEADER_BYTES, 0, length);
  }

  rstStream(streamId: number, code: number): void {
    this.output.write(frame(FrameType.rstStream, 0, streamId, uint32(code)));
  }

  settings(limits: TransportLimits): void {
    const settings = Buffer.alloc(18);
    settings.writeUInt16BE(Setting.maxConcurrentStreams, 0);
    settings.writeUInt32BE(limits.streamsMax, 2);
    settings.writeUInt16BE(Setting.initialWindowSize, 6);
    settings.writeUInt32BE(limits.streamWindowBytes, 8);
    settings.writeUInt16BE(Setting.maxHeaderListSize, 12);
    settings.writeUInt32BE(limits.headerListBytesMax, 14);
    this.output.write(frame(FrameType.settings, 0, 0, settings));
  }

  settingsAck(): void {
    this.output.write(frame(FrameType.settings, Flag.ack, 0));
  }

  /** @param payload 8 bytes */
  ping(flags: number, payload: Buffer): void {
    this.output.write(frame(FrameType.ping, flags, 0, payload));
  }

  /** @param streamId 0 for the connection's window */
  windowUpdate(streamId: number, by: number): void {
    this.output.write(frame(FrameType.windowUpdate, 0, streamId, uint32(by)));
  }

  /** @param debug ASCII */
  goaway(lastStreamId: number, code: number, debug: string): void {
    const payload = Buffer.alloc(8 + debug.length);
    writeUint32(payload, 0, lastStreamId);
    writeUint32(payload, 4, code);
    payload.write(debug, 8, "latin1");
    this.output.write(frame(FrameType.goaway, 0, 0, payload));
  }
}

function uint32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  writeUint32(bytes, 0, value);
  return bytes;
}
