/** Remembers what was said, so that the same thing is said once and not at every look. */

const REMEMBERED_MAX = 64;
/** What still holds after this long is said again. */
const AGAIN_MS = 3_600_000;

export class Told {
  private readonly at = new Map<string, number>();

  /** @returns whether it should be said now: not said within the last hour, or forgotten among 64 newer things */
  isNew(what: string, monotonicMs: number): boolean {
    const before = this.at.get(what);
    if (before !== undefined && monotonicMs - before < AGAIN_MS) return false;
    this.at.delete(what);
    this.at.set(what, monotonicMs);
    const [oldest] = this.at.keys();
    if (this.at.size > REMEMBERED_MAX && oldest !== undefined) this.at.delete(oldest);
    return true;
  }

  forget(): void {
    this.at.clear();
  }
}
