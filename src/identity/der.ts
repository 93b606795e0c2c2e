/** Walks over DER (X.690): in one pass, nothing copied, and whatever could have been encoded otherwise is refused. */

/** Identifier octets (X.690, section 8.1.2) of what certificates hold. */
export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  objectIdentifier: 0x06,
  utf8String: 0x0c,
  numericString: 0x12,
  printableString: 0x13,
  teletexString: 0x14,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  universalString: 0x1c,
  bmpString: 0x1e,
  sequence: 0x30,
  set: 0x31,
} as const;

/** What {@link DerCursor.next} tells where no element comes. */
export const NONE = -1;

/** Where something lies: from `start` up to, and without, `end`. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** Bytes that are no DER, or not of the form that was asked for. */
export class DerError extends Error {
  override readonly name = "DerError";
}

/** Bits of the number; tag numbers of more than one octet have all of them (X.690, section 8.1.2.4): certificates have none. */
const NUMBER = 0x1f;
const UNIVERSAL_MAX = 0x3f;
/** What takes more digits is longer than anything that is read here. */
const LENGTH_DIGITS_MAX = 2;
/** Far beyond what is in use; without a bound, a single one could fill a certificate. */
const OBJECT_IDENTIFIER_BYTES_MAX = 64;
const NOTHING = Buffer.alloc(0);

/**
 * Reads elements one after another, and those within them between {@link enter} and {@link leave}. It never reads beyond the
 * element that it is in. Every method throws {@link DerError} when what comes is not what was asked for; the cursor is of no
 * use then until it begins anew.
 */
export class DerCursor {
  bytes: Buffer = NOTHING;
  at = 0;
  /** Where the content lies of the element that was passed last. */
  start = 0;
  end = 0;
  /** Where the element ends that was entered last. */
  private limit = 0;

  begin(bytes: Buffer, start: number, end: number): void {
    this.bytes = bytes;
    this.at = start;
    this.limit = end;
  }

  /** Tag of the element that comes; {@link NONE} at the end of the one that was entered. */
  next(): number {
    return this.at < this.limit ? (this.bytes[this.at] as number) : NONE;
  }

  /** Passes over an element. */
  pass(tag: number): void {
    const { bytes, limit } = this;
    let at = this.at;
    if (limit - at < 2 || bytes[at] !== tag) throw new DerError("another element was expected");
    let length = bytes[at + 1] as number;
    at += 2;
    if (length >= 0x80) {
      const digits = length & 0x7f;
      // No digits at all would be the indefinite form (X.690, section 10.1).
      if (digits === 0 || digits > LENGTH_DIGITS_MAX || limit - at < digits) throw new DerError("a length is none");
      length = bytes[at] as number;
      if (digits === 2) length = length * 256 + (bytes[at + 1] as number);
      if (length < (digits === 1 ? 0x80 : 0x100)) throw new DerError("a length is longer than it need be");
      at += digits;
    }
    if (length > limit - at) throw new DerError("an element is longer than what holds it");
    this.start = at;
    this.end = at + length;
    this.at = this.end;
  }

  /** Passes over an element of whatever type; what lies within others is not looked at. */
  passAny(): void {
    const tag = this.next();
    switch (tag) {
      case TAG.boolean:
        this.boolean();
        return;
      case TAG.integer:
        this.integer();
        return;
      case TAG.bitString:
        this.bitString();
        return;
      case TAG.objectIdentifier:
        this.objectIdentifier();
        return;
      case TAG.null:
        this.pass(tag);
        if (this.start !== this.end) throw new DerError("a NULL holds something");
        return;
      case TAG.bmpString:
      case TAG.universalString:
        this.text(tag, tag === TAG.bmpString ? 2 : 4);
        return;
    }
    if (tag === NONE || (tag & NUMBER) === NUMBER) throw new DerError("an element was expected");
    if (tag <= UNIVERSAL_MAX && tag !== TAG.sequence && tag !== TAG.set && !isPrimitive(tag)) {
      throw new DerError("an element has not the form that its type has");
    }
    this.pass(tag);
  }

  /** Passes over an element and tells where it lies, with tag and length. */
  whole(tag: number): Span {
    const start = this.at;
    this.pass(tag);
    return { start, end: this.end };
  }

  /** Goes into an element. @returns what {@link leave} takes */
  enter(tag: number): number {
    this.pass(tag);
    return this.enterPassed();
  }

  /** Goes into the element that was passed last, before anything else is read. @returns what {@link leave} takes */
  enterPassed(): number {
    const outer = this.limit;
    this.at = this.start;
    this.limit = this.end;
    return outer;
  }

  /** Leaves an element, of which everything must have been read. */
  leave(outer: number): void {
    if (this.at !== this.limit) throw new DerError("an element holds more than it should");
    this.limit = outer;
  }

  /** X.690, section 11.1, without holding FALSE to be absent where it is the default: too many certificates state it. */
  boolean(): boolean {
    this.pass(TAG.boolean);
    const value = this.bytes[this.start];
    if (this.end - this.start !== 1 || (value !== 0x00 && value !== 0xff)) throw new DerError("a BOOLEAN is none");
    return value === 0xff;
  }

  /** X.690, section 8.3: as few octets as will do. */
  integer(): void {
    this.pass(TAG.integer);
    const { bytes, start, end } = this;
    if (start === end) throw new DerError("an INTEGER is empty");
    if (end - start === 1) return;
    const first = bytes[start] as number;
    const isNegative = (bytes[start + 1] as number) >= 0x80;
    if (first === (isNegative ? 0xff : 0x00)) throw new DerError("an INTEGER is longer than it need be");
  }

  /**
   * X.690, sections 8.6 and 11.2.1: bits that are not used are zero. What was passed is then the bits without the octet that
   * counts the unused ones.
   * @returns how many bits of the last octet are not used
   */
  bitString(tag: number = TAG.bitString): number {
    this.pass(tag);
    const { bytes, start, end } = this;
    if (start === end) throw new DerError("a BIT STRING is empty");
    const unused = bytes[start] as number;
    const last = end - start > 1 ? (bytes[end - 1] as number) : 0;
    if (unused > 7 || (end - start === 1 && unused > 0) || (last & ((1 << unused) - 1)) !== 0) {
      throw new DerError("a BIT STRING is none");
    }
    this.start = start + 1;
    return unused;
  }

  /** A BIT STRING that holds whole octets. */
  octetsInBits(): void {
    if (this.bitString() !== 0) throw new DerError("a BIT STRING holds no whole octets");
  }

  /** X.690, section 8.19: every number in as few octets as will do. */
  objectIdentifier(tag: number = TAG.objectIdentifier): void {
    this.pass(tag);
    const { bytes, start, end } = this;
    if (end - start > OBJECT_IDENTIFIER_BYTES_MAX) throw new DerError("an OBJECT IDENTIFIER is too long");
    let isFirst = true;
    for (let i = start; i < end; i++) {
      const byte = bytes[i] as number;
      if (isFirst && byte === 0x80) throw new DerError("an OBJECT IDENTIFIER is longer than it need be");
      isFirst = byte < 0x80;
    }
    if (!isFirst || start === end) throw new DerError("an OBJECT IDENTIFIER is cut off");
  }

  /** Passes over a text whose characters have a fixed size, in octets (X.690, section 8.23.7 and 8.23.8). */
  text(tag: number, size: 2 | 4): void {
    this.pass(tag);
    if ((this.end - this.start) % size !== 0) throw new DerError("a text ends within a character");
  }

  /** What was passed last, one character an octet. */
  latin1(): string {
    return this.bytes.toString("latin1", this.start, this.end);
  }
}

/** Whether the same bytes lie in both places: the last ones first, by which identifiers of one arc differ. */
export function isSame(bytes: Buffer, a: Span, b: Span): boolean {
  const length = a.end - a.start;
  if (length !== b.end - b.start) return false;
  for (let i = length - 1; i >= 0; i--) if (bytes[a.start + i] !== bytes[b.start + i]) return false;
  return true;
}

/** Universal types that hold no others; zero, which ends indefinite forms, is none (X.690, sections 8.1.5 and 10.2). */
function isPrimitive(tag: number): boolean {
  return tag > 0 && tag <= NUMBER && tag !== (TAG.sequence & NUMBER) && tag !== (TAG.set & NUMBER);
}
