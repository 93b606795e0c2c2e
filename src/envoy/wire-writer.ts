/**
 * Writes protobuf messages from their end to their beginning: whatever stands before something is written after it, so that
 * the length of a message within is known when its turn comes. Fields of one message are therefore written last to first.
 */

const CAPACITY_BYTES = 4_096;
/** One large message does not keep its memory. */
const KEPT_BYTES_MAX = 64 * 1024;
/** Up to here, copying byte by byte is quicker than asking for it. */
const COPIED_BYTES_MAX = 48;
/** Of UTF-8, for each unit of UTF-16. */
const CHAR_BYTES_MAX = 3;
const VARINT_BYTES_MAX = 5;
const DOUBLE_BYTES = 8;

export class WireWriter {
  private bytes = Buffer.allocUnsafeSlow(CAPACITY_BYTES);
  private at = CAPACITY_BYTES;

  /** Begins a message; forgets one that was not finished. */
  begin(): void {
    this.at = this.bytes.length;
  }

  /** Bytes written so far: tell it to {@link close} once what belongs to a message is written. */
  get written(): number {
    return this.bytes.length - this.at;
  }

  /** One byte: the tag of a field below 16, or a number below 128. */
  byte(value: number): void {
    if (this.at < 1) this.grow(1);
    this.bytes[--this.at] = value;
  }

  /** @param value 0 to 2^32 - 1 */
  varint(value: number): void {
    if (value < 0x80) {
      this.byte(value);
      return;
    }
    if (this.at < VARINT_BYTES_MAX) this.grow(VARINT_BYTES_MAX);
    const length = value < 1 << 14 ? 2 : value < 1 << 21 ? 3 : value < 1 << 28 ? 4 : 5;
    this.at -= length;
    let rest = value;
    for (let i = 0; i < length - 1; i++) {
      this.bytes[this.at + i] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.bytes[this.at + length - 1] = rest;
  }

  double(value: number): void {
    if (this.at < DOUBLE_BYTES) this.grow(DOUBLE_BYTES);
    this.at -= DOUBLE_BYTES;
    this.bytes.writeDoubleLE(value, this.at);
  }

  /** Bytes that were encoded before. */
  part(part: Uint8Array): void {
    const { length } = part;
    if (this.at < length) this.grow(length);
    this.at -= length;
    if (length > COPIED_BYTES_MAX) {
      this.bytes.set(part, this.at);
      return;
    }
    for (let i = 0; i < length; i++) this.bytes[this.at + i] = part[i] as number;
  }

  /** A field that holds text. */
  text(tag: number, text: string): void {
    const before = this.written;
    this.chars(text);
    this.close(tag, before);
  }

  /** What was written since, as a field's message or text: its length and its tag go before it. */
  close(tag: number, before: number): void {
    this.varint(this.written - before);
    this.byte(tag);
  }

  /** What was written since {@link begin}: a view that is valid until the next message begins. */
  finish(): Buffer {
    const message = this.bytes.subarray(this.at);
    if (this.bytes.length > KEPT_BYTES_MAX) this.bytes = Buffer.allocUnsafeSlow(CAPACITY_BYTES);
    this.begin();
    return message;
  }

  private chars(text: string): void {
    const { length } = text;
    if (this.at < length) this.grow(length);
    if (length <= COPIED_BYTES_MAX) {
      const { bytes } = this;
      const start = this.at - length;
      let all = 0;
      for (let i = 0; i < length; i++) {
        const code = text.charCodeAt(i);
        all |= code;
        bytes[start + i] = code;
      }
      if (all < 0x80) {
        this.at = start;
        return;
      }
    }
    if (this.at < length * CHAR_BYTES_MAX) this.grow(length * CHAR_BYTES_MAX);
    const size = Buffer.byteLength(text);
    this.at -= size;
    this.bytes.write(text, this.at, size, "utf8");
  }

  /** Makes room for so many bytes before what is written. */
  private grow(room: number): void {
    const { written } = this;
    const grown = Buffer.allocUnsafeSlow(Math.max(this.bytes.length * 2, written + room));
    this.bytes.copy(grown, grown.length - written, this.at);
    this.bytes = grown;
    this.at = grown.length - written;
  }
}
