/** Ends a connection without losing a call that is on its way: two GOAWAYs, a round trip apart (RFC 9113 section 6.8). */

import type { FrameWriter } from "./frame-writer.ts";
import { ErrorCode, INT31_MAX } from "./frames.ts";
import type { Streams } from "./streams.ts";

/** Tells a client that does not answer the drain's PING from one on a slow network. */
const PING_MS_MAX = 1000;
const PING = Buffer.from("draining");

export class Drain {
  private readonly writer: FrameWriter;
  private readonly streams: Streams;
  private readonly onSettled: () => void;
  private started = false;
  private timer: NodeJS.Timeout | undefined;

  /** @param onSettled told once, when the client cannot expect any further call to be served */
  constructor(writer: FrameWriter, streams: Streams, onSettled: () => void) {
    this.writer = writer;
    this.streams = streams;
    this.onSettled = onSettled;
  }

  /** Warns the client; its calls are served until it must have heard. */
  start(): void {
    if (this.started) return;
    this.started = true;
    this.writer.goaway(INT31_MAX, ErrorCode.noError, "");
    this.writer.ping(0, PING);
    this.timer = setTimeout(() => this.settle(), PING_MS_MAX);
  }

  /** @param payload of a PING's acknowledgement */
  hear(payload: Buffer): void {
    if (this.started && PING.equals(payload)) this.settle();
  }

  /** The connection is over. */
  stop(): void {
    clearTimeout(this.timer);
  }

  private settle(): void {
    clearTimeout(this.timer);
    const { streams } = this;
    if (streams.lastServedId !== INT31_MAX) return;
    streams.lastServedId = streams.lastId;
    this.writer.goaway(streams.lastId, ErrorCode.noError, "");
    this.onSettled();
  }
}
