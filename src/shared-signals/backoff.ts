/** How long to wait before trying again, and waiting that can be called off. */

/** Doubles from `minMs` to `maxMs`, of which the upper half is left to chance, so that many do not come at once. */
export function backoffMs(failures: number, minMs: number, maxMs: number, random: () => number): number {
  const full = Math.min(maxMs, minMs * 2 ** Math.min(30, Math.max(0, failures - 1)));
  return full / 2 + (full / 2) * random();
}

/** Resolves after `ms`, or at once when `signal` is or gets aborted. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    timer.unref();
    signal.addEventListener("abort", done, { once: true });
  });
}

/** Lets through `perSecond` on average, and `burst` at once. */
export class Bucket {
  private readonly perSecond: number;
  private readonly burst: number;
  private level: number;
  private atMs: number | undefined;

  constructor(perSecond: number, burst: number) {
    this.perSecond = perSecond;
    this.burst = burst;
    this.level = burst;
  }

  /** Whether one more may pass now. */
  take(nowMs: number): boolean {
    const elapsedMs = this.atMs === undefined ? 0 : Math.max(0, nowMs - this.atMs);
    this.atMs = nowMs;
    this.level = Math.min(this.burst, this.level + (elapsedMs * this.perSecond) / 1_000);
    if (this.level < 1) return false;
    this.level -= 1;
    return true;
  }
}
