/** Messages as bytes by their schema: fields in any order and number, unknown ones among them, what is no text as text. */

import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import fc from "fast-check";

/** Of one message; those deep within have fewer, so that messages stay small. */
const FIELDS_MAX = 6;
const DEPTH_MAX = 9;

export interface WireOptions {
  /** Texts that mean something, by the field's name. */
  readonly texts: Readonly<Record<string, readonly string[]>>;
  /** Whether some texts are no UTF-8. */
  readonly broken: boolean;
}

/** Bytes of any message of that kind. Built by chance from a seed: arbitraries of nested arbitraries take seconds each. */
export function wireMessage(desc: DescMessage, options: WireOptions): fc.Arbitrary<Uint8Array> {
  return fc.integer().map((seed) => new Builder(seed, options).message(desc, 0));
}

const NO_TEXT = Buffer.from([0x66, 0xff, 0xfe, 0x80, 0xc3]);
const SPECIAL_TEXTS = ["", "\uFEFFmarked", `${"long ".repeat(60)}ü`, "zoë", "\u{1F600}", "plain"];

class Builder {
  private state: number;
  private readonly options: WireOptions;

  constructor(seed: number, options: WireOptions) {
    this.state = seed;
    this.options = options;
  }

  message(desc: DescMessage, depth: number): Uint8Array {
    const fields = depth >= DEPTH_MAX ? desc.fields.filter(({ message }) => message === undefined) : desc.fields;
    const parts: Uint8Array[] = [];
    const most = depth < 5 ? FIELDS_MAX : 2;
    // The outermost messages are hardly ever empty: there is nothing to read then.
    for (let left = this.below(most + 1) + (depth < 2 ? 2 : 0); left > 0; left--) {
      const isUnknown = fields.length === 0 || this.below(12) === 0;
      parts.push(isUnknown ? this.unknown() : this.field(this.oneOf(fields), depth));
    }
    return Buffer.concat(parts);
  }

  private field(field: DescField, depth: number): Uint8Array {
    const { number } = field;
    if (field.fieldKind === "map") {
      const entry: Uint8Array[] = [];
      // Key and value may come in any order, twice, or not at all.
      for (const part of this.oneOf([[1, 2], [1, 2], [2, 1], [1], [2], [1, 2, 2]])) {
        if (part === 1) entry.push(delimited(1, this.text("key")));
        else
          entry.push(
            delimited(2, field.message === undefined ? this.text("value") : this.message(field.message, depth + 1)),
          );
      }
      return delimited(number, Buffer.concat(entry));
    }
    if (field.message !== undefined) return delimited(number, this.message(field.message, depth + 1));
    const writer = new BinaryWriter();
    switch (field.scalar) {
      case ScalarType.STRING:
        return delimited(number, this.text(field.name));
      case ScalarType.BYTES:
        return delimited(number, this.below(6) === 0 ? NO_TEXT : this.text("value"));
      case ScalarType.DOUBLE:
        return writer
          .tag(number, WireType.Bit64)
          .double(this.oneOf([0, -1.5, 1e300, Number.NaN, 1_772_452_800]))
          .finish();
      case ScalarType.INT64:
        return writer
          .tag(number, WireType.Varint)
          .int64(this.oneOf([0n, 17n, -1n, 2n ** 53n, 2n ** 53n - 1n, 2n ** 63n - 1n, -(2n ** 63n), 5_000_000_000n]))
          .finish();
      default:
        return writer
          .tag(number, WireType.Varint)
          .uint32(this.oneOf([0, 1, 443, 40_000, 2 ** 32 - 1]))
          .finish();
    }
  }

  private unknown(): Uint8Array {
    const number = 100 + this.below(2 ** 20);
    const writer = new BinaryWriter();
    switch (this.below(5)) {
      case 0:
        return writer
          .tag(number, WireType.Varint)
          .uint32(this.below(2 ** 31))
          .finish();
      case 1:
        return writer.tag(number, WireType.Bit32).fixed32(7).finish();
      case 2:
        return writer.tag(number, WireType.Bit64).fixed64(7).finish();
      case 3:
        return delimited(number, Buffer.alloc(this.below(200), 0xff));
      default: {
        const inner = this.below(3);
        writer.tag(number, WireType.StartGroup);
        for (let i = 0; i < inner; i++) writer.tag(1, WireType.StartGroup).tag(2, WireType.Varint).uint32(300);
        for (let i = 0; i < inner; i++) writer.tag(1, WireType.EndGroup);
        // Some groups end by another number.
        return writer.tag(this.below(20) === 0 ? number + 1 : number, WireType.EndGroup).finish();
      }
    }
  }

  private text(name: string): Uint8Array {
    const { texts, broken } = this.options;
    if (broken && this.below(20) === 0) return NO_TEXT;
    const meant = texts[name] ?? texts.value ?? [];
    return Buffer.from(this.oneOf(meant.length === 0 || this.below(8) === 0 ? SPECIAL_TEXTS : meant));
  }

  private oneOf<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)] as T;
  }

  /** A number from 0 on, by chance (mulberry32). */
  private below(max: number): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * max);
  }
}

export function delimited(field: number, content: Uint8Array): Uint8Array {
  return new BinaryWriter().tag(field, WireType.LengthDelimited).bytes(content).finish();
}

/** The bytes with some of them changed, left out, put in or cut off. */
export function changed(bytes: Uint8Array): fc.Arbitrary<Uint8Array> {
  const at = fc.nat(bytes.length);
  return fc.oneof(
    at.map((end) => bytes.slice(0, end)),
    fc.array(fc.tuple(at, fc.nat(255)), { minLength: 1, maxLength: 4 }).map((changes) => {
      const copy = Uint8Array.from(bytes);
      for (const [where, byte] of changes) copy[where] = byte;
      return copy;
    }),
    fc
      .tuple(at, fc.uint8Array({ maxLength: 16 }), fc.nat(12))
      .map(([where, put, left]) => Buffer.concat([bytes.subarray(0, where), put, bytes.subarray(where + left)])),
  );
}
