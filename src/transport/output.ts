/** Gathers what goes out on one socket, so that all answers to one chunk leave in one write. */

import type { Socket } from "node:net";

/** Room for some hundred answers; what does not fit has a slab of its own. */
const SLAB_BYTES = 32 * 1024;

/** Bytes are written into `slab` where `reserve` says; a slab is never used again once its bytes are handed over. */
export class Output {
  slab: Buffer = EMPTY;
  private start = 0;
  private at = 0;
  private readonly socket: Socket;

  constructor(socket: Socket) {
    this.socket = socket;
  }

  /** Bytes not yet taken by the operating system. */
  get waitingBytes(): number {
    return this.socket.writableLength + this.at - this.start;
  }

  /** @returns where in `slab` the next `bytes` bytes go; the caller writes all of them at once */
  reserve(bytes: number): number {
    if (this.at + bytes > this.slab.length) {
      this.flush();
      this.slab = Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, bytes));
      this.start = 0;
      this.at = 0;
    }
    const at = this.at;
    this.at += bytes;
    return at;
  }

  write(bytes: Uint8Array): void {
    const at = this.reserve(bytes.length);
    this.slab.set(bytes, at);
  }

  flush(): void {
    if (this.at === this.start) return;
    if (this.socket.writable) this.socket.write(this.slab.subarray(this.start, this.at));
    this.start = this.at;
  }
}

const EMPTY = Buffer.alloc(0);
