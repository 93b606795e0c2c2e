/** Short texts that come again and again in requests, with what is made of each: made once as long as they keep coming. */

import { lenientTextOf } from "./wire-cursor.ts";

const BYTES_MAX = 256;

interface Known<T> {
  readonly text: string;
  readonly made: T;
}

/** Places in which a text may stand, by its hash: with one alone, half of ten thousand callers would keep displacing each other. */
const WAYS_MAX = 4;

/** Of what is noted of a place: whether its text has been found since the last one was looked for to give way. */
const FOUND = 1;

/**
 * A table with a few places for each hash: a text that is new takes a free one, else one in turn whose text has not been
 * found lately. It is thereby bounded without an order to keep, what is found is hardly ever written to, and what comes once
 * displaces nothing that comes again. Nothing secret may be read by it, since what was read is remembered.
 */
export class Recurring<T> {
  private readonly places: (Known<T> | undefined)[];
  /**
   * Hash of the text in each place but for its last bit, {@link FOUND}; zero where there is none: what is another's is passed
   * over without being looked at.
   */
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
    const noted = (hash ^ (hash >>> 15)) & ~FOUND;
    const { places, hashes } = this;
    const first = noted & this.mask;
    const last = first + this.ways - 1;
    let place = first;
    for (; place <= last; place++) {
      const found = hashes[place] as number;
      if ((found & ~FOUND) !== noted && found !== 0) continue;
      const known = places[place];
      if (known === undefined) break;
      if ((found & ~FOUND) !== noted || !isTextAt(known.text, bytes, start, end)) continue;
      if ((found & FOUND) === 0) hashes[place] = found | FOUND;
      return known.made;
    }
    const text = bytes.toString("latin1", start, end);
    const made = this.make(text);
    const taken = place <= last ? place : this.givesWay(first);
    places[taken] = { text, made };
    hashes[taken] = noted;
    return made;
  }

  /** The place in turn whose text has not been found since its turn came last; ends after one round, at the latest. */
  private givesWay(first: number): number {
    const { hashes, ways } = this;
    for (;;) {
      const place = first + (this.turn++ & (ways - 1));
      const found = hashes[place] as number;
      if ((found & FOUND) === 0) return place;
      hashes[place] = found & ~FOUND;
    }
  }
}

/** Whether the bytes that lie between are just those of an ASCII text. */
export function isTextAt(text: string, bytes: Buffer, start: number, end: number): boolean {
  if (text.length !== end - start) return false;
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) !== bytes[start + i]) return false;
  return true;
}
