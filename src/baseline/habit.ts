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

/** Whole numbers only: entries are many, and small integers need no memory of their own. */
export interface HabitEntry {
  value: string;
  /** Decayed uses as of `lastWindow`, in units of 1/64, at most 2^29. */
  weight: number;
  /** Separate windows in which the value was seen, up to {@link SETTLE_WINDOWS}; settled entries hold that maximum. */
  windows: number;
  /** Latest window of use, counted from the epoch. */
  lastWindow: number;
}

const USE = 64;
const WEIGHT_MAX = 2 ** 29;
const DECAY_PER_WINDOW = 2 ** (-SETTLE_WINDOW_MS / HABIT_HALF_LIFE_MS);

/**
 * Values of one feature with decaying weights. At most `valuesMax` are kept; beyond that, the least settled and then
 * the lightest value is forgotten, so that a flood of new values cannot push out a settled one.
 */
export class Habit {
  readonly entries: HabitEntry[] = [];
  private readonly valuesMax: number;
  private readonly newPerDayMax: number;
  private day = 0;
  private newToday = 0;

  /** @param newPerDayMax new values that are remembered of one day; further ones stay new until another day */
  constructor(valuesMax: number, newPerDayMax = Number.POSITIVE_INFINITY) {
    this.valuesMax = valuesMax;
    this.newPerDayMax = newPerDayMax;
  }

  find(value: string): HabitEntry | undefined {
    for (const entry of this.entries) if (entry.value === value) return entry;
    return undefined;
  }

  /** Finds an entry and moves it one step forward: what is used often is found soon. */
  private findAndPromote(value: string): HabitEntry | undefined {
    const { entries } = this;
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i] as HabitEntry;
      if (entry.value !== value) continue;
      if (i > 0) {
        entries[i] = entries[i - 1] as HabitEntry;
        entries[i - 1] = entry;
      }
      return entry;
    }
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
    const entry = this.findAndPromote(value);
    if (entry === undefined) {
      if (!settle && !this.hasRoomToday(now)) return "new";
      this.add({ value, weight: USE, windows: settle ? SETTLE_WINDOWS : 1, lastWindow: window });
      return "new";
    }
    const before: Familiarity = entry.windows >= SETTLE_WINDOWS ? "settled" : "pending";
    if (window > entry.lastWindow) {
      entry.weight = Math.round(entry.weight * DECAY_PER_WINDOW ** (window - entry.lastWindow));
      if (entry.windows < SETTLE_WINDOWS) entry.windows++;
      entry.lastWindow = window;
    }
    if (settle) entry.windows = SETTLE_WINDOWS;
    entry.weight = Math.min(WEIGHT_MAX, entry.weight + USE);
    return before;
  }

  /** The most used values, heaviest first: what a reason names as expected. */
  top(count: number): readonly string[] {
    return [...this.entries]
      .sort((a, b) => b.weight - a.weight)
      .slice(0, count)
      .map((entry) => entry.value);
  }

  private hasRoomToday(now: EpochMs): boolean {
    const day = Math.floor(now / DAY_MS);
    if (day !== this.day) {
      this.day = day;
      this.newToday = 0;
    }
    return ++this.newToday <= this.newPerDayMax;
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
  return a.weight * DECAY_PER_WINDOW ** (b.lastWindow - a.lastWindow) < b.weight;
}

/**
 * Values that anybody here has used, by name alone: bounded, the one used longest ago goes first. What is asked for again
 * and again therefore stays, however many new values a scan invents.
 */
export class KnownValues {
  private readonly seen = new Set<string>();
  private readonly valuesMax: number;

  constructor(valuesMax: number) {
    this.valuesMax = valuesMax;
  }

  has(value: string): boolean {
    return this.seen.has(value);
  }

  /** @returns whether the value was new */
  learn(value: string): boolean {
    const isNew = !this.seen.has(value);
    // Order matters only when there is no room.
    if (!isNew && this.seen.size < this.valuesMax) return false;
    if (!isNew) this.seen.delete(value);
    this.seen.add(value);
    if (this.seen.size > this.valuesMax) {
      const oldest = this.seen.values().next().value;
      if (oldest !== undefined) this.seen.delete(oldest);
    }
    return isNew;
  }

  values(): readonly string[] {
    return [...this.seen];
  }

  restore(values: readonly string[]): void {
    for (const value of values) this.seen.add(value);
  }
}
