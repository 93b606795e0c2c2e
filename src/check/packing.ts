/**
 * Numbers and texts as few bytes, written and read quickly: small whole numbers in one byte, a text that was there
 * before as a small number. What is written with {@link Packer} is read in the same order with {@link Unpacker}.
 */

/** A whole number below this takes one to five bytes, any other number nine. */
const WHOLE_MAX = 2 ** 31;

/** The mark of a number that is told in full, as a double (IEEE 754, little-endian). */
const IN_FULL = 0;
const DOUBLE_BYTES = 8;
/** A varint of 32 bits (as in Protocol Buffers). */
const WHOLE_BYTES = 5;

/** The mark of a text that is told in full; any other number is the place of one told before, from 1. */
const TOLD = 0;

/**
 * Texts remembered on both sides; when there are so many, all are forgotten. Few, because a large table stops whoever
 * writes it while it grows.
 */
const TEXTS_MAX = 4_096;

/** In UTF-8 at most, per UTF-16 unit. */
const UNIT_BYTES = 3;

/** Texts up to this length are copied here, which is quicker than calling into the encoder; one byte tells it. */
const SHORT_MAX = 127;

/** What a buffer has beyond the size it is meant for, so that it need not grow. */
const ROOM = 4_096;

/** Writes into a buffer of its own, which is used again after {@link Packer.reset}. */
export class Packer {
  private bytes: Buffer;
  private view: DataView;
  private at = 0;
  private readonly texts = new Map<string, number>();

  /** @param sizeUsual bytes that are taken at a time, usually */
  constructor(sizeUsual: number) {
    this.bytes = Buffer.allocUnsafe(sizeUsual + ROOM);
    this.view = viewOf(this.bytes);
  }

  /** Bytes written since the last {@link Packer.reset}. */
  get size(): number {
    return this.at;
  }

  /** What was written: a view, good until something else is. */
  written(): Uint8Array {
    return this.bytes.subarray(0, this.at);
  }

  /** Begins anew at the start of the buffer; texts stay remembered. */
  reset(): void {
    this.at = 0;
  }

  /** Adds bytes as they are, at most {@link ROOM} of them. */
  raw(bytes: Uint8Array): void {
    this.reserve(bytes.length);
    this.bytes.set(bytes, this.at);
    this.at += bytes.length;
  }

  /** Any number, exactly. */
  number(value: number): void {
    this.reserve(1 + DOUBLE_BYTES);
    // The sign of -0 is none that matters to anybody.
    if (value >= 0 && value < WHOLE_MAX && Math.floor(value) === value) {
      this.varint(value + 1);
    } else {
      this.bytes[this.at] = IN_FULL;
      this.view.setFloat64(this.at + 1, value, true);
      this.at += 1 + DOUBLE_BYTES;
    }
  }

  /** So many numbers, whose count the reader knows: all of an array, or those before `end`. */
  numbers(values: ArrayLike<number>, end = values.length): void {
    for (let i = 0; i < end; i++) this.number(values[i] as number);
  }

  /** The same from `start` on, where most of them may be zero: only the others are told. */
  sparse(values: ArrayLike<number>, start: number, end: number): void {
    let told = 0;
    for (let i = start; i < end; i++) if (values[i] !== 0) told++;
    this.number(told);
    for (let i = start; i < end; i++) {
      if (values[i] === 0) continue;
      this.number(i - start);
      this.number(values[i] as number);
    }
  }

  /** A text that may well have been told before. */
  text(value: string): void {
    const { texts } = this;
    const known = texts.get(value);
    if (known !== undefined) {
      this.reserve(WHOLE_BYTES);
      this.varint(known);
      return;
    }
    this.reserve(1);
    this.bytes[this.at++] = TOLD;
    this.ownText(value);
    if (texts.size === TEXTS_MAX) texts.clear();
    texts.set(value, texts.size + 1);
  }

  /** A text that nothing else has: it is not remembered. */
  ownText(value: string): void {
    const { length } = value;
    this.reserve(WHOLE_BYTES + length * UNIT_BYTES);
    if (length <= SHORT_MAX && this.ascii(value)) return;
    const size = Buffer.byteLength(value);
    this.varint(size);
    this.at += this.bytes.write(value, this.at, size, "utf8");
  }

  /** Writes a short text of ASCII alone; false, and nothing written, when it is none. */
  private ascii(value: string): boolean {
    const { bytes, at } = this;
    const { length } = value;
    for (let i = 0; i < length; i++) {
      const unit = value.charCodeAt(i);
      if (unit > 0x7f) return false;
      bytes[at + 1 + i] = unit;
    }
    bytes[at] = length;
    this.at = at + 1 + length;
    return true;
  }

  private varint(value: number): void {
    const { bytes } = this;
    let { at } = this;
    let rest = value >>> 0;
    while (rest > 0x7f) {
      bytes[at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    bytes[at++] = rest;
    this.at = at;
  }

  private reserve(size: number): void {
    if (this.at + size <= this.bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(this.bytes.length * 2, this.at + size));
    this.bytes.copy(larger, 0, 0, this.at);
    this.bytes = larger;
    this.view = viewOf(larger);
  }
}

/** Reads what a {@link Packer} wrote. Every method throws a {@link RangeError} where the bytes end, or are not its. */
export class Unpacker {
  private readonly bytes: Buffer;
  private readonly view: DataView;
  private readonly end: number;
  private at: number;
  private readonly texts: string[] = [];

  constructor(bytes: Buffer, start: number, end: number) {
    this.bytes = bytes;
    this.view = viewOf(bytes);
    this.at = start;
    this.end = end;
  }

  /** Whether all was read. */
  get done(): boolean {
    return this.at === this.end;
  }

  number(): number {
    const value = this.varint();
    return value === IN_FULL ? this.double() : value - 1;
  }

  /** @throws {RangeError} also when it is not a whole number from 0 to `max` */
  whole(max: number): number {
    const value = this.varint() - 1;
    if (value < 0 || value > max) throw new RangeError(`expected a whole number up to ${max}`);
    return value;
  }

  /** Fills an array from its start to its end, or to `end`. */
  numbers<Into extends { [index: number]: number; readonly length: number }>(into: Into, end = into.length): Into {
    for (let i = 0; i < end; i++) into[i] = this.number();
    return into;
  }

  /**
   * Fills zeros between `start` and `end` with what {@link Packer.sparse} told.
   * @returns where the last number is that was told, or one before the first place
   */
  sparse(into: number[], start: number, end: number): number {
    let place = -1;
    for (let left = this.whole(end - start); left > 0; left--) {
      place = this.whole(end - start - 1);
      into[start + place] = this.number();
    }
    return start + place;
  }

  text(): string {
    const { texts } = this;
    const place = this.varint();
    if (place !== TOLD) {
      const known = texts[place - 1];
      if (known === undefined) throw new RangeError("expected a text that was told before");
      return known;
    }
    const value = this.ownText();
    if (texts.length === TEXTS_MAX) texts.length = 0;
    texts.push(value);
    return value;
  }

  ownText(): string {
    const size = this.varint();
    const { at, bytes } = this;
    this.skip(size);
    // Most are ASCII, which needs no decoder.
    for (let i = at; i < at + size; i++) if ((bytes[i] as number) > 0x7f) return bytes.toString("utf8", at, at + size);
    return bytes.toString("latin1", at, at + size);
  }

  private double(): number {
    const { at } = this;
    this.skip(DOUBLE_BYTES);
    return this.view.getFloat64(at, true);
  }

  private varint(): number {
    const { bytes, end } = this;
    let { at } = this;
    // Nearly all of them are one byte.
    const first = bytes[at] as number;
    if (first < 0x80 && at < end) {
      this.at = at + 1;
      return first;
    }
    let value = 0;
    for (let shift = 0; shift < WHOLE_BYTES * 7; shift += 7) {
      if (at >= end) break;
      const byte = bytes[at++] as number;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) {
        this.at = at;
        return value >>> 0;
      }
    }
    throw new RangeError("expected a number");
  }

  private skip(size: number): void {
    if (size > this.end - this.at) throw new RangeError(`expected ${size} bytes`);
    this.at += size;
  }
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
