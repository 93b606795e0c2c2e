/** Adds up evidence into a score and says what each part of it contributed. */

import { type Score, toScore } from "../model/units.ts";
import type { Reason } from "../model/verdict.ts";

/** One signal's part: bits after its cap, and what to tell people. */
export interface Evidence {
  readonly signal: string;
  readonly bits: number;
  readonly seen: string;
  readonly expected: string;
  /** Counted in the score; otherwise only shown (signals in observe mode). */
  readonly counted: boolean;
}

export interface Scored {
  readonly bits: number;
  readonly score: Score;
  readonly reasons: readonly Reason[];
}

/**
 * @param evidence of all signals that say anything
 * @param points what a total of bits is worth, 0..99
 * @param certain name of a signal that leaves no doubt: the score is 100 and all of it belongs to that signal
 */
export function score(
  evidence: readonly Evidence[],
  points: (bits: number) => number,
  certain: string | undefined,
): Scored {
  let total = 0;
  for (const part of evidence) if (part.counted) total += part.bits;
  const value = certain === undefined ? tenth(points(Math.max(0, total))) : 100;
  const reasons: Reason[] = [];
  let left = value;
  let heaviest = -1;
  for (const part of evidence) {
    let share = 0;
    if (certain !== undefined) share = part.signal === certain ? 100 : 0;
    else if (part.counted && total > 0) share = tenth((value * part.bits) / total);
    left -= share;
    reasons.push({
      signal: part.signal,
      bits: Math.round(part.bits * 100) / 100,
      points: share,
      seen: part.seen,
      expected: part.expected,
    });
    if (heaviest < 0 || share > (reasons[heaviest] as Reason).points) heaviest = reasons.length - 1;
  }
  // Rounding leaves a few tenths: the heaviest reason takes them, so that points sum to the score.
  const rest = tenth(left);
  const top = reasons[heaviest];
  if (rest !== 0 && top !== undefined) reasons[heaviest] = { ...top, points: tenth(top.points + rest) };
  reasons.sort((a, b) => b.points - a.points);
  return { bits: total, score: toScore(value), reasons };
}

function tenth(value: number): number {
  return Math.round(value * 10) / 10;
}
