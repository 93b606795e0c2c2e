/** Counts how often scores really reach each level, to be held against what the score promises. */

import type { ScoreBand } from "../model/line.ts";

/** Requests of proven callers by whole points of their score; certain facts (100) are no statistics and left out. */
export class ScoreBands {
  private readonly counts = new Float64Array(100);
  requests = 0;

  count(score: number): void {
    if (score >= 100) return;
    this.requests++;
    const bin = Math.floor(score);
    this.counts[bin] = (this.counts[bin] as number) + 1;
  }

  /** @param levels whole points, 1..99 */
  at(levels: readonly number[]): readonly ScoreBand[] {
    return levels.map((score) => {
      let reached = 0;
      for (let bin = Math.ceil(score); bin < 100; bin++) reached += this.counts[bin] as number;
      return {
        score,
        promised: 10 ** (-score / 10),
        observed: this.requests === 0 ? 0 : reached / this.requests,
        requests: reached,
      };
    });
  }
}
