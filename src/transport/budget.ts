/** A budget that is spent by what a client does, and refilled by time and by work that was worth it. */

/** Holds at most `burst`; starts full. */
export class Budget {
  private readonly burst: number;
  private readonly perMs: number;
  private left: number;
  private atMs: number;

  constructor(burst: number, perSecond: number, nowMs: number) {
    this.burst = burst;
    this.perMs = perSecond / 1000;
    this.left = burst;
    this.atMs = nowMs;
  }

  /** @returns whether there was one left to spend */
  spend(nowMs: number): boolean {
    this.left = Math.min(this.burst, this.left + Math.max(0, nowMs - this.atMs) * this.perMs);
    this.atMs = nowMs;
    if (this.left < 1) return false;
    this.left -= 1;
    return true;
  }

  earn(count: number): void {
    this.left = Math.min(this.burst, this.left + count);
  }
}
