/** A bounded table of the values of one feature that a principal has used, and how settled each of them is. */

import { DAY_MS, type EpochMs, HOUR_MS } from "../model/units.ts";

/** A value counts as settled once it was seen in this many separate windows. */
export const SETTLE_WINDOWS = 3;

/** Length of one such window: a thief needs hours of unchallenged use, not one burst, to become a habit. */
export const SETTLE_WINDOW_MS = HOUR_MS;

/** Old habits lose half their weight in this time. */
export const HABIT_HALF_LIFE_MS = 7 * DAY_MS;

/** How well a value is known: `settled` is ordinary, `pending` was seen but not yet in enough separate windows. */
export type Familiarity = "new" | "pending" | "settled";

export interface HabitEntry {
  value: string;
  weight: number;
  lastSeenMs: number;
  /** Separate windows in which the value was seen, up to {@link SETTLE_WINDOWS}; settled entries hold that maximum. */
  windows: number;
  lastWindow: number;
}

/**
 * Values of one feature with decaying weights. At most `valuesMax` are kept; beyond that, the least settled and then
 * the lightest value is forgotten, so that a flood of new values cannot push out a settled one.
 */
export class Habit {
  readonly entries: HabitEntry[] = [];
  private readonly valuesMax: number;

  constructor(valuesMax: number) {
    this.valuesMax = valuesMax;
  }

  find(value: string): HabitEntry | undefined {
    for (const entry of this.entries) if (entry.value === value) return entry;
    return undefined;
  }

  familiarity(value: string): Familiarity {
    const entry = this.find(value);
    if (entry === undefined) return "new";
    return entry.windows >= SETTLE_WINDOWS ? "settled" : "pending";
  }

  /**
   * Counts one use of `value`.
   * @param settle makes the value ordinary at once: an answered challenge, or a principal still in its first window
   * @returns how familiar the value was before
   */
  learn(value: string, now: EpochMs, settle: boolean): Familiarity {
    const window = Math.floor(now / SETTLE_WINDOW_MS);
    const entry = this.find(value);
    if (entry === undefined) {
      this.add({ value, weight: 1, lastSeenMs: now, windows: settle ? SETTLE_WINDOWS : 1, lastWindow: window });
      return "new";
    }
    const before: Familiarity = entry.windows >= SETTLE_WINDOWS ? "settled" : "pending";
    const idleMs = Math.max(0, now - entry.lastSeenMs);
    entry.weight = 1 + (idleMs === 0 ? entry.weight : entry.weight * 2 ** (-idleMs / HABIT_HALF_LIFE_MS));
    entry.lastSeenMs = Math.max(entry.lastSeenMs, now);
    if (settle) entry.windows = SETTLE_WINDOWS;
    else if (window !== entry.lastWindow && entry.windows < SETTLE_WINDOWS) entry.windows++;
    entry.lastWindow = window;
    return before;
  }

  /** The most used values, heaviest first: what a reason names as expected. */
  top(count: number): readonly string[] {
    return [...this.entries]
      .sort((a, b) => b.weight - a.weight)
      .slice(0, count)
      .map((entry) => entry.value);
  }

  private add(entry: HabitEntry): void {
    if (this.entries.length >= this.valuesMax) {
      let worst = 0;
      for (let i = 1; i < this.entries.length; i++) {
        if (isLessWorthKeeping(this.entries[i] as HabitEntry, this.entries[worst] as HabitEntry)) worst = i;
      }
      this.entries[worst] = entry;
    } else {
      this.entries.push(entry);
    }
  }
}

function isLessWorthKeeping(a: HabitEntry, b: HabitEntry): boolean {
  const aSettled = a.windows >= SETTLE_WINDOWS;
  const bSettled = b.windows >= SETTLE_WINDOWS;
  if (aSettled !== bSettled) return !aSettled;
  return a.weight * 2 ** (a.lastSeenMs / HABIT_HALF_LIFE_MS - b.lastSeenMs / HABIT_HALF_LIFE_MS) < b.weight;
}
