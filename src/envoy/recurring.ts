/** Short texts that come again and again in requests, with what is made of each: made once as long as they keep coming. */

import { lenientTextOf } from "./wire-cursor.ts";

const BYTES_MAX = 256;

interface Known<T> {
  readonly text: string;
  readonly made: T;
}

/** Places in which a text may stand, by its hash: with one alone, half of ten thousand callers would keep displacing each other. */
const WAYS_MAX = 4;

/**
 * A table with a few places for each hash: a text that is new takes a free one, else one in turn. It is thereby bounded
 * without an order to keep, and what is found is only read. Nothing secret may be read by it, since what was read is
 * remembered.
 */
export class Recurring<T> {
  private readonly places: (Known<T> | undefined)[];
  /** Of the text in each place, zero where there is none: what is another's is passed over without being looked at. */
  private readonly hashes: Int32Array;
  private readonly mask: number;
  private readonly ways: number;
  private readonly make: (text: string) => T;
  /** Which of a hash's places is taken next, where none is free. */
  private turn = 0;

  /**
   * @param places how many texts are remembered at most; a power of two
   * @param make what is made of a text; must depend on nothing else
   */
  constructor(places: number, make: (text: string) => T) {
    if (places < 1 || (places & (places - 1)) !== 0)
      throw new RangeError(`places must be a power of two, got ${places}`);
    this.places = new Array<Known<T> | undefined>(places).fill(undefined);
    this.hashes = new Int32Array(places);
    this.ways = Math.min(WAYS_MAX, places);
    this.mask = places - this.ways;
    this.make = make;
  }

  /** What is made of the text that lies between; U+FFFD stands for what is no UTF-8. */
  read(bytes: Buffer, start: number, end: number): T {
    const length = end - start;
    if (length > BYTES_MAX) return this.make(lenientTextOf(bytes, start, end));
    let hash = length;
    let all = 0;
    for (let i = start; i < end; i++) {
      const byte = bytes[i] as number;
      all |= byte;
      hash = Math.imul(hash ^ byte, 0x01000193);
    }
    // Only of ASCII is a character a byte.
    if (all >= 0x80) return this.make(lenientTextOf(bytes, start, end));
    hash ^= hash >>> 15;
    const { places, hashes } = this;
    const first = hash & this.mask;
    const last = first + this.ways - 1;
    let place = first;
    for (; place <= last; place++) {
      if (hashes[place] !== hash && hashes[place] !== 0) continue;
      const known = places[place];
      if (known === undefined) break;
      if (hashes[place] !== hash || !isTextAt(known.text, bytes, start, end)) continue;
      return known.made;
    }
    const text = bytes.toString("latin1", start, end);
    const made = this.make(text);
    const taken = place <= last ? place : first + (this.turn++ & (this.ways - 1));
    places[taken] = { text, made };
    hashes[taken] = hash;
    return made;
  }
}

/** Whether the bytes that lie between are just those of an ASCII text. */
export function isTextAt(text: string, bytes: Buffer, start: number, end: number): boolean {
  if (text.length !== end - start) return false;
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) !== bytes[start + i]) return false;
  return true;
}
