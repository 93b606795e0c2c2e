/** Bounded tables of the values of features that a principal has used, and how settled each of them is. */

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

/** Values kept of one principal: where each habit ends is told in one byte. */
const ENTRIES_MAX = 255;

/** An entry lies in three slots in a row: its value; weight and windows in one number; its latest window. */
const ENTRY_SLOTS = 3;
const WEIGHT_AND_WINDOWS = 1;
const LAST_WINDOW = 2;
const WINDOWS_BITS = 2;
const WINDOWS_MASK = 3;

/** Where habits end, in entries from the first: this many to a slot, a byte each. */
const ENDS_PER_SLOT = 4;

type Slots = (string | number)[];

/** What habits are bounded by; the same for all principals. */
export class HabitLimits {
  /** By habit: the most values it may hold. */
  readonly valuesMax: readonly number[];
  /** The habit of which only so many new values are remembered of one day; further ones stay new until another day. */
  readonly daily: { readonly habit: number; readonly newMax: number } | undefined;
  /** Slots before the first entry: where each habit ends. */
  readonly head: number;
  /** Of habits that know nothing: it is replaced, never written to. */
  readonly empty: Slots;

  /** @throws {RangeError} when there may be more entries than can be told apart */
  constructor(valuesMax: readonly number[], daily?: { readonly habit: number; readonly newMax: number }) {
    const entries = valuesMax.reduce((sum, values) => sum + values, 0);
    if (entries > ENTRIES_MAX) throw new RangeError(`habits may hold ${ENTRIES_MAX} values together, got ${entries}`);
    this.valuesMax = valuesMax;
    this.daily = daily;
    this.head = Math.ceil(valuesMax.length / ENDS_PER_SLOT);
    this.empty = Array.from({ length: this.head }, () => 0);
  }
}

/**
 * Values of some features of one principal, a habit each, with decaying weights. Of each at most so many are kept;
 * beyond that, the least settled and then the lightest value is forgotten, so that a flood of new values cannot push out a
 * settled one.
 *
 * There are ten habits of each of ten thousand principals, most with one or two values: all entries of all habits lie flat
 * in one array that is no longer than they need, of texts and small whole numbers, which need no memory of their own. It
 * begins with where each habit ends. In each, what is asked most often comes first. `test/bench/line.ts` measures both the
 * memory and the look-ups.
 */
export class Habits {
  private slots: Slots;
  private readonly limits: HabitLimits;
  /** The day that was counted last, and what was new of it where that is limited. */
  private day = 0;
  private newToday = 0;

  constructor(limits: HabitLimits) {
    this.limits = limits;
    this.slots = limits.empty;
  }

  /** How many values a habit keeps. */
  size(habit: number): number {
    return (this.endOf(habit) - this.startOf(habit)) / ENTRY_SLOTS;
  }

  /** All values of a habit with what is known of them, the most promoted first: a copy. */
  entries(habit: number): readonly HabitEntry[] {
    const entries: HabitEntry[] = [];
    this.each(habit, (value, weight, windows, lastWindow) => entries.push({ value, weight, windows, lastWindow }));
    return entries;
  }

  /** Tells all values in the order of {@link entries}, without making an object of each. */
  each(habit: number, tell: (value: string, weight: number, windows: number, lastWindow: number) => void): void {
    const { slots } = this;
    const end = this.endOf(habit);
    for (let at = this.startOf(habit); at < end; at += ENTRY_SLOTS) {
      tell(slots[at] as string, this.weightAt(at), this.windowsAt(at), slots[at + LAST_WINDOW] as number);
    }
  }

  /**
   * Takes over what {@link HabitsReader} made, instead of what was known.
   * @param slots are the habits' own from then on
   */
  restore(slots: Slots): void {
    this.slots = slots;
  }

  has(habit: number, value: string): boolean {
    return this.find(habit, value) >= 0;
  }

  /** Separate windows in which a value was seen, up to {@link SETTLE_WINDOWS}: 0 for a new one. */
  windowsOf(habit: number, value: string): number {
    const at = this.find(habit, value);
    return at < 0 ? 0 : this.windowsAt(at);
  }

  isSettled(habit: number, value: string): boolean {
    return this.windowsOf(habit, value) >= SETTLE_WINDOWS;
  }

  familiarity(habit: number, value: string): Familiarity {
    const windows = this.windowsOf(habit, value);
    return windows === 0 ? "new" : windows >= SETTLE_WINDOWS ? "settled" : "pending";
  }

  /**
   * Counts one use of `value`.
   * @param settle makes the value ordinary at once: an answered challenge, or a principal still in its first window
   * @returns how familiar the value was before
   */
  learn(habit: number, value: string, now: EpochMs, settle: boolean): Familiarity {
    const window = Math.floor(now / SETTLE_WINDOW_MS);
    const found = this.find(habit, value);
    if (found < 0) {
      if (settle || this.hasRoomToday(habit, now)) this.add(habit, value, settle ? SETTLE_WINDOWS : 1, window);
      return "new";
    }
    const at = this.promote(habit, found);
    const { slots } = this;
    const before = this.windowsAt(at);
    const elapsed = window - (slots[at + LAST_WINDOW] as number);
    let weight = this.weightAt(at);
    let windows = before;
    if (elapsed > 0) {
      weight = Math.round(weight * DECAY_PER_WINDOW ** elapsed);
      if (windows < SETTLE_WINDOWS) windows++;
      slots[at + LAST_WINDOW] = window;
    }
    if (settle) windows = SETTLE_WINDOWS;
    slots[at + WEIGHT_AND_WINDOWS] = together(Math.min(WEIGHT_MAX, weight + USE), windows);
    return before >= SETTLE_WINDOWS ? "settled" : "pending";
  }

  /** The most used values, heaviest first: what a reason names as expected. */
  top(habit: number, count: number): readonly string[] {
    const { slots } = this;
    const end = this.endOf(habit);
    const found: number[] = [];
    for (let at = this.startOf(habit); at < end; at += ENTRY_SLOTS) {
      let place = found.length;
      // Among values of one weight, the one that was promoted further comes first.
      while (place > 0 && this.weightAt(found[place - 1] as number) < this.weightAt(at)) place--;
      if (place >= count) continue;
      found.splice(place, 0, at);
      if (found.length > count) found.pop();
    }
    return found.map((at) => slots[at] as string);
  }

  /** Where an entry begins; -1 when there is none. */
  private find(habit: number, value: string): number {
    const { slots } = this;
    const end = this.endOf(habit);
    for (let at = this.startOf(habit); at < end; at += ENTRY_SLOTS) if (slots[at] === value) return at;
    return -1;
  }

  private startOf(habit: number): number {
    return habit === 0 ? this.limits.head : this.endOf(habit - 1);
  }

  private endOf(habit: number): number {
    return this.limits.head + endAt(this.slots, habit) * ENTRY_SLOTS;
  }

  private weightAt(at: number): number {
    return (this.slots[at + WEIGHT_AND_WINDOWS] as number) >>> WINDOWS_BITS;
  }

  private windowsAt(at: number): number {
    return (this.slots[at + WEIGHT_AND_WINDOWS] as number) & WINDOWS_MASK;
  }

  /** Moves an entry one step forward: what is used often is found soon. */
  private promote(habit: number, at: number): number {
    if (at === this.startOf(habit)) return at;
    const { slots } = this;
    const before = at - ENTRY_SLOTS;
    for (let i = 0; i < ENTRY_SLOTS; i++) {
      const moved = slots[at + i] as string | number;
      slots[at + i] = slots[before + i] as string | number;
      slots[before + i] = moved;
    }
    return before;
  }

  private hasRoomToday(habit: number, now: EpochMs): boolean {
    const { daily } = this.limits;
    if (daily?.habit !== habit) return true;
    const day = Math.floor(now / DAY_MS);
    if (day !== this.day) {
      this.day = day;
      this.newToday = 0;
    }
    return ++this.newToday <= daily.newMax;
  }

  private add(habit: number, value: string, windows: number, window: number): void {
    const { slots } = this;
    const end = this.endOf(habit);
    if (this.size(habit) < (this.limits.valuesMax[habit] as number)) {
      // A new array of just the length needed: pushing would make room for many more.
      const grown = slots.slice(0, end).concat([value, together(USE, windows), window], slots.slice(end));
      for (let later = habit; later < this.limits.valuesMax.length; later++) addToEnd(grown, later, 1);
      this.slots = grown;
      return;
    }
    let worst = this.startOf(habit);
    for (let at = worst + ENTRY_SLOTS; at < end; at += ENTRY_SLOTS) {
      if (this.isLessWorthKeeping(at, worst)) worst = at;
    }
    slots[worst] = value;
    slots[worst + WEIGHT_AND_WINDOWS] = together(USE, windows);
    slots[worst + LAST_WINDOW] = window;
  }

  private isLessWorthKeeping(a: number, b: number): boolean {
    const slots = this.slots as number[];
    const aSettled = this.windowsAt(a) >= SETTLE_WINDOWS;
    const bSettled = this.windowsAt(b) >= SETTLE_WINDOWS;
    if (aSettled !== bSettled) return !aSettled;
    const windows = (slots[b + LAST_WINDOW] as number) - (slots[a + LAST_WINDOW] as number);
    return this.weightAt(a) * DECAY_PER_WINDOW ** windows < this.weightAt(b);
  }
}

/**
 * Puts together what {@link Habits.restore} takes over: the habits in order, and the entries of each in order. Whoever uses
 * it says when each habit is at its end.
 */
export class HabitsReader {
  private readonly limits: HabitLimits;
  private readonly slots: Slots;
  private habit = 0;
  /** Room that is left in the habit that is read. */
  private room: number;

  constructor(limits: HabitLimits) {
    this.limits = limits;
    this.slots = limits.empty.slice();
    this.room = limits.valuesMax[0] as number;
  }

  /** Goes on to the first habit, with nothing read yet. */
  begin(): void {
    this.slots.length = this.limits.head;
    this.slots.fill(0);
    this.habit = 0;
    this.room = this.limits.valuesMax[0] as number;
  }

  /** Adds a value to the habit that is read; one for which there is no room is left out. */
  add(value: string, weight: number, windows: number, lastWindow: number): void {
    if (this.room === 0) return;
    this.room--;
    this.slots.push(
      value,
      together(Math.max(0, Math.min(WEIGHT_MAX, weight)), Math.max(0, Math.min(SETTLE_WINDOWS, windows))),
      lastWindow,
    );
  }

  /** Goes on to the next habit. */
  next(): void {
    const { slots, limits } = this;
    addToEnd(slots, this.habit, (slots.length - limits.head) / ENTRY_SLOTS);
    this.habit++;
    this.room = limits.valuesMax[this.habit] ?? 0;
  }

  /** All that was read since {@link begin}, in an array no longer than it needs. */
  read(): Slots {
    return this.slots.length === this.limits.head ? this.limits.empty : this.slots.slice();
  }
}

/** Where a habit ends, in entries from the first. */
function endAt(slots: Slots, habit: number): number {
  return ((slots[habit >> 2] as number) >>> ((habit & 3) << 3)) & 0xff;
}

function addToEnd(slots: Slots, habit: number, entries: number): void {
  // Signed, as small whole numbers are: the byte at the top takes part as any other.
  slots[habit >> 2] = ((slots[habit >> 2] as number) + (entries << ((habit & 3) << 3))) | 0;
}

/** Weight and windows in 32 bits, signed, as small whole numbers are. */
function together(weight: number, windows: number): number {
  return (weight << WINDOWS_BITS) | windows;
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
