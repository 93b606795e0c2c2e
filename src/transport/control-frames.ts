/** Reads the frames that carry no request: PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY and WINDOW_UPDATE. */

import type { AbuseBudgets } from "./abuse-budgets.ts";
import type { FrameWriter } from "./frame-writer.ts";
import { ConnectionError, ErrorCode, Flag, INT31_MAX, readUint32, Setting } from "./frames.ts";
import type { TransportLimits } from "./limits.ts";
import type { Sender } from "./sender.ts";
import { Gone } from "./stream.ts";
import type { Streams } from "./streams.ts";

/** Payloads are `bytes[start, start + length)`. Each method throws a ConnectionError when its frame breaks the connection. */
export class ControlFrames {
  private readonly limits: TransportLimits;
  private readonly writer: FrameWriter;
  private readonly streams: Streams;
  private readonly budgets: AbuseBudgets;
  private readonly sender: Sender;

  constructor(limits: TransportLimits, writer: FrameWriter, streams: Streams, budgets: AbuseBudgets, sender: Sender) {
    this.limits = limits;
    this.writer = writer;
    this.streams = streams;
    this.budgets = budgets;
    this.sender = sender;
  }

  readPriority(streamId: number, bytes: Buffer, start: number, length: number): void {
    if (streamId === 0) throw new ConnectionError(ErrorCode.protocolError, "PRIORITY of no stream");
    this.budgets.spendControlFrame();
    const idle = this.streams.isIdle(streamId);
    if (length !== 5) {
      if (idle) throw new ConnectionError(ErrorCode.frameSizeError, "PRIORITY is not 5 bytes");
      this.streams.provoke(streamId, ErrorCode.frameSizeError);
    } else if ((readUint32(bytes, start) & INT31_MAX) === streamId) {
      // An idle stream cannot be reset.
      if (idle) throw new ConnectionError(ErrorCode.protocolError, "stream depends on itself");
      this.streams.provoke(streamId, ErrorCode.protocolError);
    }
  }

  readRstStream(streamId: number, length: number): void {
    if (length !== 4) throw new ConnectionError(ErrorCode.frameSizeError, "RST_STREAM is not 4 bytes");
    if (this.streams.isIdle(streamId)) {
      throw new ConnectionError(ErrorCode.protocolError, "RST_STREAM on an idle stream");
    }
    const stream = this.streams.get(streamId);
    if (stream === undefined) {
      // It crossed our answer on the way, and the answer has earned more than this costs.
      this.budgets.spendControlFrame();
      return;
    }
    this.streams.close(stream, Gone.resetByPeer);
    this.budgets.spendClientReset();
  }

  readSettings(flags: number, streamId: number, bytes: Buffer, start: number, length: number): void {
    if (streamId !== 0) throw new ConnectionError(ErrorCode.protocolError, "SETTINGS on a stream");
    this.budgets.spendControlFrame();
    if ((flags & Flag.ack) !== 0) {
      if (length !== 0) throw new ConnectionError(ErrorCode.frameSizeError, "SETTINGS acknowledgement with a payload");
      return;
    }
    if (length % 6 !== 0) throw new ConnectionError(ErrorCode.frameSizeError, "SETTINGS of a wrong length");
    if (length / 6 > this.limits.settingsPerFrameMax) {
      throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many settings", "control-frames");
    }
    let window = this.sender.streamWindow;
    for (let at = start; at < start + length; at += 6) {
      const id = ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
      const value = readUint32(bytes, at + 2);
      if (id === Setting.initialWindowSize) {
        if (value > INT31_MAX) throw new ConnectionError(ErrorCode.flowControlError, "window too large");
        window = value;
      } else {
        this.apply(id, value);
      }
    }
    this.writer.settingsAck();
    // Once per frame: windows that go to and fro within one would move every open stream each time.
    this.sender.setStreamWindow(window);
  }

  /** @returns the payload of an acknowledgement; undefined for a PING, which is answered */
  readPing(flags: number, streamId: number, bytes: Buffer, start: number, length: number): Buffer | undefined {
    if (streamId !== 0) throw new ConnectionError(ErrorCode.protocolError, "PING on a stream");
    if (length !== 8) throw new ConnectionError(ErrorCode.frameSizeError, "PING is not 8 bytes");
    this.budgets.spendControlFrame();
    const payload = bytes.subarray(start, start + length);
    if ((flags & Flag.ack) !== 0) return payload;
    this.writer.ping(Flag.ack, payload);
    return undefined;
  }

  readGoaway(streamId: number, length: number): void {
    if (streamId !== 0) throw new ConnectionError(ErrorCode.protocolError, "GOAWAY on a stream");
    if (length < 8) throw new ConnectionError(ErrorCode.frameSizeError, "GOAWAY is too short");
    this.budgets.spendControlFrame();
  }

  readWindowUpdate(streamId: number, bytes: Buffer, start: number, length: number): void {
    if (length !== 4) throw new ConnectionError(ErrorCode.frameSizeError, "WINDOW_UPDATE is not 4 bytes");
    const by = readUint32(bytes, start) & INT31_MAX;
    this.budgets.spendControlFrame();
    if (streamId === 0) {
      if (by === 0) throw new ConnectionError(ErrorCode.protocolError, "WINDOW_UPDATE by 0");
      this.sender.widen(by);
      return;
    }
    if (this.streams.isIdle(streamId)) {
      throw new ConnectionError(ErrorCode.protocolError, "WINDOW_UPDATE on an idle stream");
    }
    const stream = this.streams.get(streamId);
    if (stream !== undefined) this.sender.widenStream(stream, by);
  }

  private apply(id: number, value: number): void {
    switch (id) {
      case Setting.headerTableSize:
        this.writer.setPeerTable(value);
        break;
      case Setting.enablePush:
        if (value > 1) throw new ConnectionError(ErrorCode.protocolError, "ENABLE_PUSH is 0 or 1");
        break;
      case Setting.maxFrameSize:
        this.writer.setPayloadMax(value);
        break;
      default:
        // Unknown ones are ignored, and the limits on lists and streams ask nothing of us (RFC 9113 section 6.5.2).
        break;
    }
  }
}
