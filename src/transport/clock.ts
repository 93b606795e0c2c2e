/** The time of what a connection has at work: one reading for each chunk, timer or sweep, however much that holds. */

export class EventClock {
  /** Monotonic milliseconds. */
  nowMs: number;
  private readonly read: () => number;

  constructor(read: () => number) {
    this.read = read;
    this.nowMs = read();
  }

  /** To be called where an event begins. */
  tick(): void {
    this.nowMs = this.read();
  }
}
