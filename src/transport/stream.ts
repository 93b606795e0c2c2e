/** One call on a connection, from its headers to the end of its answer. */

import type { RequestHead } from "./grpc-head.ts";

/** How a stream that is gone ended; decides what a late frame for it means (RFC 9113 section 5.1). */
export const Gone = { unknown: 0, ended: 1, resetByPeer: 2, resetByUs: 3 } as const;

/** Small on purpose: there is one per check. Written only by its connection. */
export class Stream {
  readonly id: number;
  readonly head: RequestHead;
  /** Monotonic; when its headers had been read. */
  readonly openedMs: number;
  /** Bytes that may still be sent; negative after the peer has made its windows smaller (RFC 9113 section 6.9.2). */
  sendWindow: number;
  /** Bytes that the peer may still send. */
  receiveWindow: number;
  /** The peer has ended its half. */
  ended = false;
  /** Its handler has been called; it holds its place among the streams until that settles. */
  running = false;
  /** Nothing more is to be sent: answered in full, or reset by either side. */
  closed = false;
  /** DATA bytes so far, padding not counted. */
  bodyBytes = 0;
  /** Body kept across frames, `bodyBytes` of it filled. */
  body: Buffer | undefined = undefined;
  /** What of the answer waits for a window, and the trailers that follow it (undefined: the DATA ends the stream). */
  unsent: Buffer | undefined = undefined;
  unsentTrailers: Buffer | undefined = undefined;
  unsentSinceMs = 0;
  deadline: NodeJS.Timeout | undefined = undefined;

  constructor(id: number, head: RequestHead, openedMs: number, sendWindow: number, receiveWindow: number) {
    this.id = id;
    this.head = head;
    this.openedMs = openedMs;
    this.sendWindow = sendWindow;
    this.receiveWindow = receiveWindow;
  }
}

/** Remembers how the latest streams of a connection ended, in constant room. */
export class GoneStreams {
  private readonly ids = new Uint32Array(SLOTS);
  private readonly ends = new Uint8Array(SLOTS);

  put(id: number, end: number): void {
    const slot = (id >>> 1) & (SLOTS - 1);
    this.ids[slot] = id;
    this.ends[slot] = end;
  }

  get(id: number): number {
    const slot = (id >>> 1) & (SLOTS - 1);
    return this.ids[slot] === id ? (this.ends[slot] as number) : Gone.unknown;
  }
}

/** More than the frames that can be on their way for streams just closed. */
const SLOTS = 2048;
