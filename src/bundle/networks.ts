/** Which autonomous system announces an address: a compact table that was read beforehand. */

import { readAddress } from "./address.ts";

/** First bytes of a table; the digit is the version of its form. */
const MAGIC = "SPASN1\n\n";
const HEADER_BYTES = 16;

/**
 * Ranges in order of their first address, each lasting to the next one's; number 0 stands for "announced by nobody".
 * IPv6 ranges are told by their first 64 bits: none is announced in smaller pieces.
 */
export class Networks {
  private readonly starts4: Uint32Array;
  private readonly numbers4: Uint32Array;
  private readonly starts6: Uint32Array;
  private readonly numbers6: Uint32Array;

  private constructor(starts4: Uint32Array, numbers4: Uint32Array, starts6: Uint32Array, numbers6: Uint32Array) {
    this.starts4 = starts4;
    this.numbers4 = numbers4;
    this.starts6 = starts6;
    this.numbers6 = numbers6;
  }

  /**
   * @param bytes kept as they are where they lie aligned, as what was read of a whole file does
   * @returns `undefined` when the bytes are no such table
   */
  static read(bytes: Uint8Array): Networks | undefined {
    if (bytes.byteLength < HEADER_BYTES || Buffer.from(bytes.subarray(0, 8)).toString("latin1") !== MAGIC)
      return undefined;
    const words = wordsOf(bytes.subarray(8, bytes.byteLength - (bytes.byteLength % 4)));
    const [count4 = 0, count6 = 0] = words;
    if (words.length !== 2 + count4 * 2 + count6 * 3) return undefined;
    const at6 = 2 + count4 * 2;
    return new Networks(
      words.subarray(2, 2 + count4),
      words.subarray(2 + count4, at6),
      words.subarray(at6, at6 + count6 * 2),
      words.subarray(at6 + count6 * 2),
    );
  }

  /** Bytes of a table, on a machine of the same byte order as the one that reads it: little-endian, as all that Envoy runs on. */
  static write(
    four: readonly (readonly [start: number, asn: number])[],
    six: readonly (readonly [high: number, low: number, asn: number])[],
  ): Uint8Array {
    const body = new Uint32Array(2 + four.length * 2 + six.length * 3);
    body[0] = four.length;
    body[1] = six.length;
    four.forEach(([start, asn], i) => {
      body[2 + i] = start;
      body[2 + four.length + i] = asn;
    });
    const at6 = 2 + four.length * 2;
    six.forEach(([high, low, asn], i) => {
      body[at6 + i * 2] = high;
      body[at6 + i * 2 + 1] = low;
      body[at6 + six.length * 2 + i] = asn;
    });
    return Buffer.concat([Buffer.from(MAGIC, "latin1"), new Uint8Array(body.buffer)]);
  }

  /** The number of the autonomous system; `undefined` when nobody announces the address, or it is none. */
  asnOf(address: string): number | undefined {
    const family = readAddress(address, parts);
    if (family === 0) return undefined;
    const asn = family === 4 ? this.find4(parts[3] as number) : this.find6(parts[0] as number, parts[1] as number);
    return asn === 0 ? undefined : asn;
  }

  private find4(address: number): number {
    const { starts4 } = this;
    let low = 0;
    let high = starts4.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((starts4[middle] as number) <= address) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? 0 : (this.numbers4[low - 1] as number);
  }

  private find6(first: number, second: number): number {
    const { starts6 } = this;
    let low = 0;
    let high = starts6.length / 2;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const start = starts6[middle * 2] as number;
      if (start < first || (start === first && (starts6[middle * 2 + 1] as number) <= second)) low = middle + 1;
      else high = middle;
    }
    return low === 0 ? 0 : (this.numbers6[low - 1] as number);
  }
}

/** Typed arrays want aligned bytes: others are copied. */
function wordsOf(bytes: Uint8Array): Uint32Array {
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % 4 === 0 ? bytes : Uint8Array.from(bytes);
  return new Uint32Array(buffer, byteOffset, byteLength / 4);
}

const parts = new Uint32Array(4);
