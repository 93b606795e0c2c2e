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

/** One value as it is told to others. */
export interface HabitEntry {
  readonly value: string;
  /** Decayed uses as of `lastWindow`, in units of 1/64, at most 2^29. */
  readonly weight: number;
  /** Separate windows in which the value was seen, up to {@link SETTLE_WINDOWS}; settled entries hold that maximum. */
  readonly windows: number;
  /** Latest window of use, counted from the epoch. */
  readonly lastWindow: number;
}

const USE = 64;
const WEIGHT_MAX = 2 ** 29;
const DECAY_PER_WINDOW = 2 ** (-SETTLE_WINDOW_MS / HABIT_HALF_LIFE_MS);

/** An entry lies in four slots in a row: its value, then these. */
const ENTRY_SLOTS = 4;
const WEIGHT = 1;
const WINDOWS = 2;
const LAST_WINDOW = 3;

const NO_SLOTS: (string | number)[] = [];

/**
 * Values of one feature with decaying weights. At most `valuesMax` are kept; beyond that, the least settled and then
 * the lightest value is forgotten, so that a flood of new values cannot push out a settled one.
 *
 * There are ten of these for each of ten thousand principals, most with one or two values: all entries lie flat in one
 * array that is no longer than they need, of texts and small whole numbers, which need no memory of their own. What is
 * asked most often comes first. `test/bench/line.ts` measures both the memory and the look-ups.
 */
export class Habit {
  private slots = NO_SLOTS;
  private readonly valuesMax: number;
  /** What is new of the day, where that is limited. */
  private readonly daily: { readonly newMax: number; day: number; newToday: number } | undefined;

  /** @param newPerDayMax new values that are remembered of one day; further ones stay new until another day */
  constructor(valuesMax: number, newPerDayMax?: number) {
    this.valuesMax = valuesMax;
    this.daily = newPerDayMax === undefined ? undefined : { newMax: newPerDayMax, day: 0, newToday: 0 };
  }

  /** How many values are kept. */
  get size(): number {
    return this.slots.length / ENTRY_SLOTS;
  }

  /** All values with what is known of them, the most promoted first: a copy. */
  get entries(): readonly HabitEntry[] {
    const { slots } = this;
    const entries: HabitEntry[] = [];
    for (let at = 0; at < slots.length; at += ENTRY_SLOTS) {
      entries.push({
        value: slots[at] as string,
        weight: slots[at + WEIGHT] as number,
        windows: slots[at + WINDOWS] as number,
        lastWindow: slots[at + LAST_WINDOW] as number,
      });
    }
    return entries;
  }

  /** Tells all values in the order of {@link entries}, without making an object of each. */
  each(tell: (value: string, weight: number, windows: number, lastWindow: number) => void): void {
    const { slots } = this;
    for (let at = 0; at < slots.length; at += ENTRY_SLOTS) {
      tell(
        slots[at] as string,
        slots[at + WEIGHT] as number,
        slots[at + WINDOWS] as number,
        slots[at + LAST_WINDOW] as number,
      );
    }
  }

  /**
   * Takes over what {@link each} told, instead of what was known: as many values as there is room for.
   * @param flat value, weight, windows and latest window of one value after the other; it is taken over, and is best
   *   no longer than it needs to be
   */
  restore(flat: (string | number)[]): void {
    const room = this.valuesMax * ENTRY_SLOTS;
    if (flat.length === 0) this.slots = NO_SLOTS;
    else this.slots = flat.length > room ? flat.slice(0, room) : flat;
  }

  has(value: string): boolean {
    return this.find(value) >= 0;
  }

  /** Separate windows in which a value was seen, up to {@link SETTLE_WINDOWS}: 0 for a new one. */
  windowsOf(value: string): number {
    const at = this.find(value);
    return at < 0 ? 0 : (this.slots[at + WINDOWS] as number);
  }

  isSettled(value: string): boolean {
    return this.windowsOf(value) >= SETTLE_WINDOWS;
  }

  familiarity(value: string): Familiarity {
    const windows = this.windowsOf(value);
    return windows === 0 ? "new" : windows >= SETTLE_WINDOWS ? "settled" : "pending";
  }

  /**
   * Counts one use of `value`.
   * @param settle makes the value ordinary at once: an answered challenge, or a principal still in its first window
   * @returns how familiar the value was before
   */
  learn(value: string, now: EpochMs, settle: boolean): Familiarity {
    const window = Math.floor(now / SETTLE_WINDOW_MS);
    const found = this.find(value);
    if (found < 0) {
      if (settle || this.hasRoomToday(now)) this.add(value, settle ? SETTLE_WINDOWS : 1, window);
      return "new";
    }
    const at = this.promote(found);
    const { slots } = this;
    const windows = slots[at + WINDOWS] as number;
    const elapsed = window - (slots[at + LAST_WINDOW] as number);
    let weight = slots[at + WEIGHT] as number;
    if (elapsed > 0) {
      weight = Math.round(weight * DECAY_PER_WINDOW ** elapsed);
      if (windows < SETTLE_WINDOWS) slots[at + WINDOWS] = windows + 1;
      slots[at + LAST_WINDOW] = window;
    }
    if (settle) slots[at + WINDOWS] = SETTLE_WINDOWS;
    slots[at + WEIGHT] = Math.min(WEIGHT_MAX, weight + USE);
    return windows >= SETTLE_WINDOWS ? "settled" : "pending";
  }

  /** The most used values, heaviest first: what a reason names as expected. */
  top(count: number): readonly string[] {
    return [...this.entries]
      .sort((a, b) => b.weight - a.weight)
      .slice(0, count)
      .map((entry) => entry.value);
  }

  /** Where an entry begins; -1 when there is none. */
  private find(value: string): number {
    const { slots } = this;
    for (let at = 0; at < slots.length; at += ENTRY_SLOTS) if (slots[at] === value) return at;
    return -1;
  }

  /** Moves an entry one step forward: what is used often is found soon. */
  private promote(at: number): number {
    if (at === 0) return at;
    const { slots } = this;
    const before = at - ENTRY_SLOTS;
    for (let i = 0; i < ENTRY_SLOTS; i++) {
      const moved = slots[at + i] as string | number;
      slots[at + i] = slots[before + i] as string | number;
      slots[before + i] = moved;
    }
    return before;
  }

  private hasRoomToday(now: EpochMs): boolean {
    const { daily } = this;
    if (daily === undefined) return true;
    const day = Math.floor(now / DAY_MS);
    if (day !== daily.day) {
      daily.day = day;
      daily.newToday = 0;
    }
    return ++daily.newToday <= daily.newMax;
  }

  private add(value: string, windows: number, window: number): void {
    const { slots } = this;
    if (slots.length < this.valuesMax * ENTRY_SLOTS) {
      // A new array of just the length needed: pushing would make room for many more.
      this.slots = slots.concat([value, USE, windows, window]);
      return;
    }
    let worst = 0;
    for (let at = ENTRY_SLOTS; at < slots.length; at += ENTRY_SLOTS) {
      if (this.isLessWorthKeeping(at, worst)) worst = at;
    }
    slots[worst] = value;
    slots[worst + WEIGHT] = USE;
    slots[worst + WINDOWS] = windows;
    slots[worst + LAST_WINDOW] = window;
  }

  private isLessWorthKeeping(a: number, b: number): boolean {
    const slots = this.slots as number[];
    const aSettled = (slots[a + WINDOWS] as number) >= SETTLE_WINDOWS;
    const bSettled = (slots[b + WINDOWS] as number) >= SETTLE_WINDOWS;
    if (aSettled !== bSettled) return !aSettled;
    const windows = (slots[b + LAST_WINDOW] as number) - (slots[a + LAST_WINDOW] as number);
    return (slots[a + WEIGHT] as number) * DECAY_PER_WINDOW ** windows < (slots[b + WEIGHT] as number);
  }
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
