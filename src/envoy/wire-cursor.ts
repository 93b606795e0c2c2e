/**
 * Walks over the protobuf wire format (https://protobuf.dev/programming-guides/encoding) without copying anything.
 *
 * It takes and refuses exactly what `fromBinary` of `@bufbuild/protobuf` takes and refuses, which `test/envoy-edge/
 * wire-request.test.ts` holds it to: known fields are read as what they are whatever their wire type says, and only the end
 * of all bytes bounds what lies within.
 */

import { isUtf8 } from "node:buffer";

/** Messages within messages, and groups within groups, beyond this are refused. */
const DEPTH_MAX = 100;

const VARINT = 0;
const BIT64 = 1;
const LENGTH_DELIMITED = 2;
const START_GROUP = 3;
const END_GROUP = 4;
const BIT32 = 5;

/** Bytes that are no message of the schema. */
export class WireError extends Error {
  override readonly name = "WireError";
}

export class WireCursor {
  readonly bytes: Buffer;
  at = 0;
  /** Where the bytes lie that {@link span} or {@link text} passed last. */
  start = 0;
  end = 0;
  private readonly size: number;
  private wireType = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.size = bytes.length;
  }

  /** Field number of the tag that comes next. */
  field(): number {
    const start = this.at;
    const first = this.bytes[start];
    let tag: number;
    // Tags of one byte are nearly all that there are.
    if (first !== undefined && first < 0x80) {
      this.at = start + 1;
      tag = first;
    } else {
      tag = this.uint32();
      const read = this.at - start;
      if (read > 5 || (read === 5 && (this.bytes[this.at - 1] as number) > 0x0f)) {
        throw new WireError("a tag is larger than 32 bits");
      }
    }
    this.wireType = tag & 7;
    if (tag < 8 || this.wireType > BIT32) throw new WireError("a tag is none");
    return tag >>> 3;
  }

  /** Skips the field whose number was read last. @param depth of the message that holds it; the outermost is 1 */
  skip(field: number, depth: number): void {
    this.skipped(field, this.wireType, DEPTH_MAX - depth);
  }

  /** A varint of which 32 bits count, as unsigned. */
  uint32(): number {
    const { bytes } = this;
    let at = this.at;
    let byte = bytes[at++] as number;
    let value = byte & 0x7f;
    for (let shift = 7; byte & 0x80; shift += 7) {
      if (shift > 63) throw new WireError("a varint is longer than 10 bytes");
      byte = bytes[at++] as number;
      if (shift < 28) value |= (byte & 0x7f) << shift;
      else if (shift === 28) value |= (byte & 0x0f) << 28;
    }
    this.at = at;
    this.within();
    return value >>> 0;
  }

  /** A signed varint of 64 bits, as a number: exact to 2^53, and beyond that beyond 2^53, too. */
  int64(): number {
    const { bytes } = this;
    let low = 0;
    let high = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = bytes[this.at++] as number;
      const bits = byte & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high = bits >> 4;
      } else high |= bits << (shift - 32);
      if ((byte & 0x80) === 0) {
        this.within();
        return high * 2 ** 32 + (low >>> 0);
      }
    }
    throw new WireError("a varint is longer than 10 bytes");
  }

  double(): number {
    this.at += 8;
    this.within();
    return this.bytes.readDoubleLE(this.at - 8);
  }

  /** Passes over length and bytes. */
  span(): void {
    const length = this.uint32();
    this.start = this.at;
    this.at += length;
    this.within();
    this.end = this.at;
  }

  /** Passes over length and text, which must be UTF-8. */
  text(): void {
    this.span();
    demandUtf8(this.bytes, this.start, this.end);
  }

  /** Where the message ends whose length comes next. @param depth of that message */
  message(depth: number): number {
    if (depth > DEPTH_MAX) throw new WireError(`messages are nested deeper than ${DEPTH_MAX}`);
    const length = this.uint32();
    return this.at + length;
  }

  private skipped(field: number, wireType: number, depthLeft: number): void {
    switch (wireType) {
      case VARINT:
        while ((this.bytes[this.at++] as number) & 0x80);
        break;
      case BIT64:
        this.at += 8;
        break;
      case BIT32:
        this.at += 4;
        break;
      case LENGTH_DELIMITED: {
        const length = this.uint32();
        this.at += length;
        break;
      }
      case START_GROUP:
        if (depthLeft <= 0) throw new WireError(`groups are nested deeper than ${DEPTH_MAX}`);
        for (;;) {
          const inner = this.field();
          if (this.wireType === END_GROUP) {
            if (inner !== field) throw new WireError("a group ends that did not begin");
            break;
          }
          this.skipped(inner, this.wireType, depthLeft - 1);
        }
        break;
      default:
        throw new WireError("a group ends that did not begin");
    }
    this.within();
  }

  private within(): void {
    if (this.at > this.size) throw new WireError("the message ends too early");
  }
}

/** Below this, looking at each byte is quicker than asking. */
const ASKED_BYTES_MIN = 128;

/** @throws {WireError} when what lies between is no UTF-8 */
export function demandUtf8(bytes: Buffer, start: number, end: number): void {
  if (end - start < ASKED_BYTES_MIN && isAscii(bytes, start, end)) return;
  if (!isUtf8(bytes.subarray(start, end))) throw new WireError("a text is no UTF-8");
}

function isAscii(bytes: Buffer, start: number, end: number): boolean {
  let all = 0;
  for (let i = start; i < end; i++) all |= bytes[i] as number;
  return all < 0x80;
}

/** Whether the cursor's last text is this one, of ASCII. */
export function isText({ bytes, start, end }: WireCursor, text: string): boolean {
  if (end - start !== text.length) return false;
  for (let i = 0; i < text.length; i++) if (bytes[start + i] !== text.charCodeAt(i)) return false;
  return true;
}

const strict = new TextDecoder("utf-8", { fatal: true });
const lenient = new TextDecoder();

/**
 * The text that lies between; a text of its own, which keeps nothing else in memory.
 * @throws {TypeError} when it is no UTF-8
 */
export function textOf(bytes: Buffer, start: number, end: number): string {
  if (start === end) return "";
  if (isAscii(bytes, start, end)) return bytes.toString("latin1", start, end);
  return strict.decode(bytes.subarray(start, end));
}

/**
 * Passes over length and text, and tells the text.
 * @throws {TypeError} when it is no UTF-8
 */
export function readText(cursor: WireCursor): string {
  cursor.span();
  return textOf(cursor.bytes, cursor.start, cursor.end);
}

/** As {@link textOf}, with U+FFFD for what is no UTF-8. */
export function lenientTextOf(bytes: Buffer, start: number, end: number): string {
  if (start === end) return "";
  if (isAscii(bytes, start, end)) return bytes.toString("latin1", start, end);
  return lenient.decode(bytes.subarray(start, end));
}
