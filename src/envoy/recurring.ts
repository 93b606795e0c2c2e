/** Short texts that come again and again in requests, with what is made of each: made once as long as they keep coming. */

import { lenientTextOf } from "./wire-cursor.ts";

const BYTES_MAX = 256;

interface Known<T> {
  readonly text: string;
  readonly made: T;
}

/**
 * A table with one place for each hash: a text takes its place from another one, so that it is bounded without an order to
 * keep. Nothing secret may be read by it, since what was read is remembered.
 */
export class Recurring<T> {
  private readonly places: (Known<T> | undefined)[];
  private readonly mask: number;
  private readonly make: (text: string) => T;

  /**
   * @param places how many texts are remembered at most; a power of two
   * @param make what is made of a text; must depend on nothing else
   */
  constructor(places: number, make: (text: string) => T) {
    if (places < 1 || (places & (places - 1)) !== 0)
      throw new RangeError(`places must be a power of two, got ${places}`);
    this.places = new Array<Known<T> | undefined>(places).fill(undefined);
    this.mask = places - 1;
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
    const place = (hash ^ (hash >>> 15)) & this.mask;
    const known = this.places[place];
    if (known !== undefined && known.text.length === length && isText(known.text, bytes, start)) return known.made;
    const text = bytes.toString("latin1", start, end);
    const made = this.make(text);
    this.places[place] = { text, made };
    return made;
  }
}

function isText(text: string, bytes: Buffer, start: number): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) !== bytes[start + i]) return false;
  return true;
}
