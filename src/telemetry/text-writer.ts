/** Writes text into bytes that are used again and again: putting strings together leaves one behind for every part. */

const CAPACITY_BYTES = 16 * 1024;
/** One long text does not keep its memory. */
const KEPT_BYTES_MAX = 256 * 1024;
/** Of UTF-8, for each unit of UTF-16. */
const CHAR_BYTES_MAX = 3;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const MINUS = 0x2d;
const DIGIT_0 = 0x30;
/** Whole numbers below are written digit by digit. */
const DIGITS_MAX = 1e9;

export class TextWriter {
  private buffer = Buffer.allocUnsafeSlow(CAPACITY_BYTES);
  private at = 0;

  /** What was written since {@link begin}: a view that is good until the next `begin`. */
  get written(): Buffer {
    return this.buffer.subarray(0, this.at);
  }

  get size(): number {
    return this.at;
  }

  begin(): void {
    this.at = 0;
    if (this.buffer.length > KEPT_BYTES_MAX) this.buffer = Buffer.allocUnsafeSlow(CAPACITY_BYTES);
  }

  /** Copies what was written to where another holds it; there must be room. */
  copyTo(target: Buffer, at: number): void {
    target.set(this.buffer.subarray(0, this.at), at);
  }

  /** Text that is ASCII already: names, words and marks of the form. */
  ascii(text: string): void {
    const { length } = text;
    this.room(length);
    const { buffer, at } = this;
    for (let i = 0; i < length; i++) buffer[at + i] = text.charCodeAt(i);
    this.at = at + length;
  }

  /** Text that was encoded before. */
  part(part: Uint8Array): void {
    this.room(part.length);
    this.buffer.set(part, this.at);
    this.at += part.length;
  }

  /** Any text as JSON writes it, with its quotes (RFC 8259, section 7). */
  json(text: string): void {
    const { length } = text;
    this.room(length + 2);
    const { buffer } = this;
    const start = this.at;
    let at = start;
    buffer[at++] = QUOTE;
    for (let i = 0; i < length; i++) {
      const code = text.charCodeAt(i);
      if (code < 0x20 || code >= 0x80 || code === QUOTE || code === BACKSLASH) {
        this.utf8(JSON.stringify(text));
        return;
      }
      buffer[at++] = code;
    }
    buffer[at++] = QUOTE;
    this.at = at;
  }

  /** Any text, as it is. */
  utf8(text: string): void {
    this.room(text.length * CHAR_BYTES_MAX);
    this.at += this.buffer.write(text, this.at, "utf8");
  }

  /** A number as JSON writes it, which has no words for what is none. */
  number(value: number): void {
    if (Number.isInteger(value) && value > -DIGITS_MAX && value < DIGITS_MAX) this.whole(value);
    else this.ascii(Number.isFinite(value) ? String(value) : "null");
  }

  private whole(value: number): void {
    this.room(11);
    const { buffer } = this;
    if (value < 0) buffer[this.at++] = MINUS;
    let rest = Math.abs(value);
    let digits = 1;
    for (let power = 10; power <= rest; power *= 10) digits++;
    for (let i = digits - 1; i >= 0; i--) {
      const next = Math.floor(rest / 10);
      buffer[this.at + i] = DIGIT_0 + (rest - next * 10);
      rest = next;
    }
    this.at += digits;
  }

  private room(bytes: number): void {
    if (this.at + bytes <= this.buffer.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(this.buffer.length * 2, this.at + bytes));
    this.buffer.copy(grown, 0, 0, this.at);
    this.buffer = grown;
  }
}
