/** Looks up how an address stands on lists of many thousands of ranges, by binary search and without allocating. */

import type { AddressLists, ListHit } from "../model/policy.ts";
import { type AddressRange, readAddress } from "./address.ts";
import { Words } from "./growing.ts";
import { type Hits, HitsBuilder } from "./list-hits.ts";

/** From each start up to the next one, a hit counts. */
export interface PackedSteps {
  /** One word to an IPv4 start, four to an IPv6 one, highest first. */
  readonly starts: Uint32Array;
  /** Number of the hit plus 1; 0: none. */
  readonly hits: Uint32Array;
}

/** Ranges of all lists as they travel between threads. */
export interface PackedRanges {
  /** How many were listed. */
  readonly size: number;
  readonly four: PackedSteps;
  readonly six: PackedSteps;
}

/** Most ranges of one family. */
const RANGES_MAX = 2 ** 22;

/**
 * Gathers ranges. Where they overlap, the narrowest counts; of equal ones the one that is preferred.
 * IPv4-mapped IPv6 addresses and ranges count as IPv4.
 */
export class RangesBuilder {
  private readonly four = new Family(1);
  private readonly six = new Family(4);
  private readonly prefer: (earlier: number, later: number) => number;

  /** @param prefer which of two hits' numbers counts */
  constructor(prefer: (earlier: number, later: number) => number) {
    this.prefer = prefer;
  }

  get size(): number {
    return this.four.size + this.six.size;
  }

  /** @throws {RangeError} beyond 4,194,304 of one family: the caller's bound is lower */
  add({ family, words, prefix }: AddressRange, hit: number): void {
    if (family === 4) this.four.add([words[3]], prefix, hit);
    else this.six.add(words, prefix, hit);
  }

  pack(): PackedRanges {
    return { size: this.size, four: this.four.pack(this.prefer), six: this.six.pack(this.prefer) };
  }
}

/** Ranges of one family, which nest or are apart. */
class Family {
  private readonly width: 1 | 4;
  private readonly starts = new Words();
  private readonly prefixes = new Words();
  private readonly hits = new Words();

  constructor(width: 1 | 4) {
    this.width = width;
  }

  get size(): number {
    return this.hits.length;
  }

  add(start: readonly number[], prefix: number, hit: number): void {
    if (this.size >= RANGES_MAX) throw new RangeError(`at most ${RANGES_MAX} ranges`);
    for (const word of start) this.starts.push(word);
    this.prefixes.push(prefix);
    this.hits.push(hit);
  }

  /** Turns ranges into steps that do not overlap. */
  pack(prefer: (earlier: number, later: number) => number): PackedSteps {
    const { width } = this;
    const starts = this.starts.pack();
    const steps = new Steps(width);
    // Ranges that the present one lies in, widest first: where each is over, its prefix and hit.
    const after = new Uint32Array(width * (width * 32 + 1));
    const endless: boolean[] = [];
    const prefixes: number[] = [];
    const hits: number[] = [];
    const close = (): void => {
      hits.pop();
      prefixes.pop();
      // Nothing comes after the last address of all.
      if (!endless.pop()) steps.add(after, hits.length * width, (hits.at(-1) ?? -1) + 1);
    };
    for (const index of this.order(starts)) {
      const at = index * width;
      const prefix = this.prefixes.at(index);
      while (hits.length > 0 && !endless.at(-1)! && compare(after, (hits.length - 1) * width, starts, at, width) <= 0) {
        close();
      }
      let hit = this.hits.at(index);
      if (prefixes.at(-1) === prefix) {
        hit = prefer(hits.at(-1)!, hit);
        hits[hits.length - 1] = hit;
      } else {
        endless.push(writeAfter(after, hits.length * width, starts, at, prefix, width));
        prefixes.push(prefix);
        hits.push(hit);
      }
      steps.add(starts, at, hit + 1);
    }
    while (hits.length > 0) close();
    return steps.pack();
  }

  /** Numbers of the ranges: by start, then the wider first, then the earlier. */
  private order(starts: Uint32Array): Iterable<number> {
    return this.width === 1 ? this.orderFour(starts) : this.orderSix(starts);
  }

  /** Start, prefix and number in one 64-bit key, which sorts natively; it is written as two halves. */
  private *orderFour(starts: Uint32Array): Generator<number> {
    const keys = new BigUint64Array(this.size);
    const halves = new Uint32Array(keys.buffer);
    for (let index = 0; index < this.size; index++) {
      const start = starts[index]!;
      halves[index * 2 + LOW] = (start << 28) | (this.prefixes.at(index) << 22) | index;
      halves[index * 2 + 1 - LOW] = start >>> 4;
    }
    keys.sort();
    for (let index = 0; index < this.size; index++) yield halves[index * 2 + LOW]! & (RANGES_MAX - 1);
  }

  private orderSix(starts: Uint32Array): Uint32Array {
    const numbers = Uint32Array.from({ length: this.size }, (_, index) => index);
    return numbers.sort(
      (a, b) => compare(starts, a * 4, starts, b * 4, 4) || this.prefixes.at(a) - this.prefixes.at(b) || a - b,
    );
  }
}

/** Where the lower half of a 64-bit number lies: first on machines of little-endian byte order. */
const LOW = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1 ? 0 : 1;

class Steps {
  private readonly width: number;
  private readonly starts = new Words();
  private readonly hits = new Words();

  constructor(width: number) {
    this.width = width;
  }

  /** From the address at `at` on, `hit` counts; a step at the same address is replaced. */
  add(words: Uint32Array, at: number, hit: number): void {
    if (this.hits.length > 0 && this.lastStartsAt(words, at)) {
      this.hits.length--;
      this.starts.length -= this.width;
    }
    const last = this.hits.length === 0 ? 0 : this.hits.at(this.hits.length - 1);
    if (last === hit) return;
    for (let word = 0; word < this.width; word++) this.starts.push(words[at + word]!);
    this.hits.push(hit);
  }

  pack(): PackedSteps {
    return { starts: this.starts.pack(), hits: this.hits.pack() };
  }

  private lastStartsAt(words: Uint32Array, at: number): boolean {
    const last = this.starts.length - this.width;
    for (let word = 0; word < this.width; word++) if (this.starts.at(last + word) !== words[at + word]) return false;
    return true;
  }
}

function compare(left: Uint32Array, leftAt: number, right: Uint32Array, rightAt: number, width: number): number {
  for (let word = 0; word < width; word++) {
    const difference = left[leftAt + word]! - right[rightAt + word]!;
    if (difference !== 0) return difference;
  }
  return 0;
}

/**
 * Writes the address after the last one of a range.
 * @returns whether there is none: the range reaches the last address of all
 */
function writeAfter(
  out: Uint32Array,
  outAt: number,
  starts: Uint32Array,
  at: number,
  prefix: number,
  width: number,
): boolean {
  // The bit just beyond the prefix's last one is added, from its word upwards.
  let carry = true;
  for (let word = width - 1; word >= 0; word--) {
    const start = starts[at + word]!;
    const bits = Math.min(32, Math.max(0, prefix - word * 32));
    const first = prefix > word * 32 && prefix <= (word + 1) * 32;
    if (bits === 0) {
      out[outAt + word] = 0;
      continue;
    }
    const sum: number = first ? start + 2 ** (32 - bits) : carry ? start + 1 : start;
    carry = sum >= 2 ** 32;
    out[outAt + word] = sum;
    if (!carry) {
      for (let higher = word - 1; higher >= 0; higher--) out[outAt + higher] = starts[at + higher]!;
      return false;
    }
  }
  return true;
}

/** One range on one list. */
export interface ListedRange {
  readonly range: AddressRange;
  readonly hit: ListHit;
}

/** Builds the look-up of a few ranges at once. */
export function buildAddressLists(listed: readonly ListedRange[]): AddressLists {
  const hits = new HitsBuilder();
  const numbers = new Map<ListHit, number>();
  const ranges = new RangesBuilder((earlier, later) => hits.prefer(earlier, later));
  for (const { range, hit } of listed) {
    const number = numbers.get(hit) ?? hits.list(hit)(hit.bits);
    numbers.set(hit, number);
    ranges.add(range, number);
  }
  const found = [...numbers.keys()];
  return new SortedLists(ranges.pack(), { at: (number) => found[number]! });
}

export class SortedLists implements AddressLists {
  readonly size: number;
  private readonly four: PackedSteps;
  private readonly six: PackedSteps;
  private readonly hits: Pick<Hits, "at">;
  /** The address being looked up. */
  private readonly words = new Uint32Array(4);

  constructor({ size, four, six }: PackedRanges, hits: Pick<Hits, "at">) {
    this.size = size;
    this.four = four;
    this.six = six;
    this.hits = hits;
  }

  lookup(address: string): ListHit | undefined {
    if (this.size === 0) return undefined;
    const family = readAddress(address, this.words);
    if (family === 0) return undefined;
    const number = family === 4 ? this.findFour(this.words[3]!) : this.findSix();
    return number === 0 ? undefined : this.hits.at(number - 1);
  }

  private findFour(value: number): number {
    const { starts, hits } = this.four;
    let low = 0;
    let high = starts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (starts[middle]! <= value) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? 0 : hits[low - 1]!;
  }

  private findSix(): number {
    const { starts, hits } = this.six;
    let low = 0;
    let high = hits.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (compare(starts, middle * 4, this.words, 0, 4) <= 0) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? 0 : hits[low - 1]!;
  }
}
