/** The streams of one connection (RFC 9113 section 5.1): which are open, how the latest ones ended, what they hold. */

import type { AbuseBudgets } from "./abuse-budgets.ts";
import type { ConnectionContext } from "./context.ts";
import type { FrameWriter } from "./frame-writer.ts";
import { INT31_MAX } from "./frames.ts";
import { Gone, GoneStreams, type Stream } from "./stream.ts";

export class Streams {
  /** The highest id that the client has opened a stream by. */
  lastId = 0;
  /** Streams above are not served: their client has been told by the drain's last GOAWAY. */
  lastServedId = INT31_MAX;
  /** Memory of bodies whose end has not come, and of those whose handler is at work. */
  bodiesBytes = 0;
  /** What waits for a window of the client's, and the streams that do. */
  unsentBytes = 0;
  readonly blocked = new Set<Stream>();
  /**
   * The one opened last, if it is open, is kept out of the table: an ordinary call is over before the next one begins, and
   * a Map that is added to and deleted from all the time allocates more for a call than all else here together.
   */
  private latest: Stream | undefined;
  private readonly earlier = new Map<number, Stream>();
  private readonly gone = new GoneStreams();
  /** Handlers still at work for streams that are gone. */
  private orphans = 0;
  private readonly writer: FrameWriter;
  private readonly budgets: AbuseBudgets;
  private readonly onRefused: ConnectionContext["onRefused"];
  private readonly onClosed: () => void;

  /** @param onClosed told after each stream that is no longer open */
  constructor(writer: FrameWriter, budgets: AbuseBudgets, context: ConnectionContext, onClosed: () => void) {
    this.writer = writer;
    this.budgets = budgets;
    this.onRefused = context.onRefused;
    this.onClosed = onClosed;
  }

  /** Calls not yet answered in full. */
  get openCount(): number {
    return this.earlier.size + (this.latest === undefined ? 0 : 1);
  }

  /** Calls that are open, or whose handler is still at work. */
  get busyCount(): number {
    return this.openCount + this.orphans;
  }

  /** Those open now. */
  all(): Stream[] {
    const all = [...this.earlier.values()];
    if (this.latest !== undefined) all.push(this.latest);
    return all;
  }

  get(streamId: number): Stream | undefined {
    return this.latest?.id === streamId ? this.latest : this.earlier.get(streamId);
  }

  /** How a stream that is not open ended, one of {@link Gone}. */
  endOf(streamId: number): number {
    return this.gone.get(streamId);
  }

  /** Even streams would be ours, and we open none. */
  isIdle(streamId: number): boolean {
    return streamId > this.lastId || (streamId & 1) === 0;
  }

  add(stream: Stream): void {
    if (this.latest !== undefined) this.earlier.set(this.latest.id, this.latest);
    this.latest = stream;
  }

  /** Leaves out a stream that was never opened, because the client cannot expect it to be. */
  ignore(streamId: number): void {
    this.gone.put(streamId, Gone.resetByUs);
  }

  /** @param end one of {@link Gone} */
  close(stream: Stream, end: number): void {
    stream.closed = true;
    if (this.latest === stream) this.latest = undefined;
    else this.earlier.delete(stream.id);
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
    this.onClosed();
  }

  /** The handler of a stream has settled, open or not. */
  settle(stream: Stream): void {
    stream.running = false;
    this.freeBody(stream);
    if (stream.closed) this.orphans -= 1;
  }

  closeAll(): void {
    for (const stream of this.all()) this.close(stream, Gone.resetByPeer);
  }

  /** Sends RST_STREAM, whether the stream is open or not. */
  reset(streamId: number, code: number): void {
    this.writer.rstStream(streamId, code);
    const stream = this.get(streamId);
    if (stream === undefined) this.gone.put(streamId, Gone.resetByUs);
    else this.close(stream, Gone.resetByUs);
  }

  /**
   * A stream error that the client is to blame for (RFC 9113 section 5.4.2).
   * @throws {ConnectionError} when there have been too many
   */
  provoke(streamId: number, code: number): void {
    this.onRefused("protocol");
    this.reset(streamId, code);
    this.budgets.spendProvokedReset();
  }

  private freeBody(stream: Stream): void {
    if (stream.body === undefined) return;
    this.bodiesBytes -= stream.body.length;
    stream.body = undefined;
  }
}
