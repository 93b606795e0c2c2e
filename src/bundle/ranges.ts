/** Looks up how an address stands on lists of many thousands of ranges, by binary search and without allocating. */

import type { AddressLists, ListHit } from "../model/policy.ts";
import { type AddressRange, readAddress } from "./address.ts";

/** One range on one list. */
export interface ListedRange {
  readonly range: AddressRange;
  readonly hit: ListHit;
}

/**
 * Builds the look-up. Where ranges overlap, the narrowest counts; of equal ones the one that {@link prefer}s.
 * IPv4-mapped IPv6 addresses and ranges count as IPv4.
 */
export function buildAddressLists(listed: readonly ListedRange[]): AddressLists {
  const four: Interval<number>[] = [];
  const six: Interval<bigint>[] = [];
  for (const { range, hit } of listed) {
    if (range.family === 4) {
      const start = range.words[3];
      four.push({ start, end: start + 2 ** (32 - range.prefix) - 1, hit });
    } else {
      const start = range.words.reduce((value, word) => (value << 32n) | BigInt(word), 0n);
      six.push({ start, end: start + (1n << BigInt(128 - range.prefix)) - 1n, hit });
    }
  }
  return new SortedLists(
    listed.length,
    flatten(four, (end) => end + 1),
    flatten(six, (end) => end + 1n),
  );
}

/** The hit that counts of two on the same range or value: a `block`, then the one of most bits, then the earlier. */
export function prefer(earlier: ListHit, later: ListHit): ListHit {
  if (earlier.action !== later.action) return earlier.action === "block" ? earlier : later;
  return later.bits > earlier.bits ? later : earlier;
}

interface Interval<Value> {
  readonly start: Value;
  /** The last address. */
  readonly end: Value;
  readonly hit: ListHit;
}

/** From `start` up to the next step, `hit` counts. */
interface Step<Value> {
  readonly start: Value;
  readonly hit: ListHit | undefined;
}

/** Turns ranges, which nest or are apart, into steps that do not overlap. */
function flatten<Value extends number | bigint>(
  intervals: Interval<Value>[],
  after: (end: Value) => Value,
): readonly Step<Value>[] {
  const order = (a: Value, b: Value): number => (a < b ? -1 : a > b ? 1 : 0);
  intervals.sort((a, b) => order(a.start, b.start) || order(b.end, a.end));
  const steps: Step<Value>[] = [];
  const open: Interval<Value>[] = [];
  const step = (start: Value, hit: ListHit | undefined): void => {
    if (steps.at(-1)?.start === start) steps.pop();
    if (steps.at(-1)?.hit !== hit) steps.push({ start, hit });
  };
  const close = (): void => {
    const closed = open.pop()!;
    step(after(closed.end), open.at(-1)?.hit);
  };
  for (const interval of intervals) {
    while (open.length > 0 && open.at(-1)!.end < interval.start) close();
    const around = open.at(-1);
    const same = around !== undefined && around.start === interval.start && around.end === interval.end;
    const hit = same ? prefer(around.hit, interval.hit) : interval.hit;
    if (same) open.pop();
    open.push({ start: interval.start, end: interval.end, hit });
    step(interval.start, hit);
  }
  while (open.length > 0) close();
  return steps;
}

class SortedLists implements AddressLists {
  readonly size: number;
  private readonly fourStarts: Uint32Array;
  private readonly fourHits: readonly (ListHit | undefined)[];
  /** Four words to a start, highest first. */
  private readonly sixStarts: Uint32Array;
  private readonly sixHits: readonly (ListHit | undefined)[];
  /** The address being looked up. */
  private readonly words = new Uint32Array(4);

  constructor(size: number, four: readonly Step<number>[], six: readonly Step<bigint>[]) {
    this.size = size;
    // The step after the last address of all starts beyond it and can never be reached.
    const reachable = four.filter(({ start }) => start < 2 ** 32);
    this.fourStarts = Uint32Array.from(reachable, ({ start }) => start);
    this.fourHits = reachable.map(({ hit }) => hit);
    const sixReachable = six.filter(({ start }) => start < 1n << 128n);
    this.sixStarts = new Uint32Array(sixReachable.length * 4);
    for (const [index, { start }] of sixReachable.entries()) {
      for (let word = 0; word < 4; word++) {
        this.sixStarts[index * 4 + word] = Number((start >> BigInt(96 - word * 32)) & 0xffffffffn);
      }
    }
    this.sixHits = sixReachable.map(({ hit }) => hit);
  }

  lookup(address: string): ListHit | undefined {
    if (this.size === 0) return undefined;
    const family = readAddress(address, this.words);
    if (family === 0) return undefined;
    return family === 4 ? this.lookupFour(this.words[3]!) : this.lookupSix();
  }

  private lookupFour(value: number): ListHit | undefined {
    const starts = this.fourStarts;
    let low = 0;
    let high = starts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (starts[middle]! <= value) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? undefined : this.fourHits[low - 1];
  }

  private lookupSix(): ListHit | undefined {
    let low = 0;
    let high = this.sixHits.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.startsAtOrBelow(middle * 4)) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? undefined : this.sixHits[low - 1];
  }

  private startsAtOrBelow(offset: number): boolean {
    const { sixStarts, words } = this;
    for (let word = 0; word < 4; word++) {
      const start = sixStarts[offset + word]!;
      const value = words[word]!;
      if (start !== value) return start < value;
    }
    return true;
  }
}
