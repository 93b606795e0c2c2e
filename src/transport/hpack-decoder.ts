/** Decodes the header blocks of one connection (RFC 7541). */

import { decodeHuffman, HpackError } from "./hpack-huffman.ts";
import { DynamicTable, FIELD_OVERHEAD_BYTES, type HeaderField, STATIC_TABLE } from "./hpack-table.ts";

/** SETTINGS_HEADER_TABLE_SIZE as the protocol starts with; ours stays there. */
export const HEADER_TABLE_BYTES_MAX = 4096;

/** Beyond this an integer is an attack, not a length or an index. Also keeps shifts within 32 bits. */
const INTEGER_MAX = 1 << 24;

const EMPTY = Buffer.alloc(0);

/** A decoded block; `tooLarge` when it went over a bound, and then `fields` holds what came before. */
export interface HeaderList {
  readonly fields: readonly HeaderField[];
  readonly tooLarge: boolean;
}

/** One per connection and direction: the table is its state. */
export class HpackDecoder {
  private readonly table = new DynamicTable(HEADER_TABLE_BYTES_MAX);
  private readonly listBytesMax: number;
  private readonly fieldsMax: number;
  private bytes: Buffer = EMPTY;
  private at = 0;
  private end = 0;

  constructor(listBytesMax: number, fieldsMax: number) {
    this.listBytesMax = listBytesMax;
    this.fieldsMax = fieldsMax;
  }

  /** Equal numbers mean an equal table: the same block then decodes to the same list. */
  get generation(): number {
    return this.table.generation;
  }

  /** RFC 7541 section 4.1. */
  get tableBytes(): number {
    return this.table.sizeBytes;
  }

  /**
   * Decodes one whole block, to its end even if its list is over a bound: the table must follow the peer's.
   * @throws {HpackError} when the block is wrong; the connection cannot go on
   */
  decode(bytes: Buffer, start: number, end: number): HeaderList {
    this.bytes = bytes;
    this.at = start;
    this.end = end;
    const fields: HeaderField[] = [];
    let listBytes = 0;
    let tooLarge = false;
    let resizable = true;
    while (this.at < end) {
      const first = bytes[this.at] as number;
      if ((first & 0xe0) === 0x20) {
        if (!resizable) throw new HpackError("size update after a field");
        const size = this.integer(5);
        if (size > HEADER_TABLE_BYTES_MAX) throw new HpackError("size update beyond the setting");
        this.table.resize(size);
        continue;
      }
      resizable = false;
      const field = this.field(first);
      listBytes += field.name.length + field.value.length + FIELD_OVERHEAD_BYTES;
      if (listBytes > this.listBytesMax || fields.length >= this.fieldsMax) tooLarge = true;
      else fields.push(field);
    }
    this.bytes = EMPTY;
    return { fields, tooLarge };
  }

  private field(first: number): HeaderField {
    if ((first & 0x80) !== 0) return this.indexed(this.integer(7));
    const indexing = (first & 0x40) !== 0;
    const index = this.integer(indexing ? 6 : 4);
    const name = index === 0 ? this.text() : this.indexed(index).name;
    const field = { name, value: this.text() };
    if (indexing) this.table.add(field);
    return field;
  }

  private indexed(index: number): HeaderField {
    const field =
      index <= STATIC_TABLE.length ? STATIC_TABLE[index - 1] : this.table.at(index - STATIC_TABLE.length - 1);
    if (field === undefined) throw new HpackError("index outside the tables");
    return field;
  }

  private text(): string {
    if (this.at >= this.end) throw new HpackError("block ends before a string");
    const huffman = ((this.bytes[this.at] as number) & 0x80) !== 0;
    const length = this.integer(7);
    const start = this.at;
    if (length > this.end - start) throw new HpackError("string beyond its block");
    this.at = start + length;
    if (huffman) return decodeHuffman(this.bytes, start, this.at);
    return this.bytes.toString("latin1", start, this.at);
  }

  /** RFC 7541 section 5.1, with a prefix of `bits`. */
  private integer(bits: number): number {
    const mask = (1 << bits) - 1;
    let value = (this.bytes[this.at++] as number) & mask;
    if (value < mask) return value;
    for (let shift = 0; ; shift += 7) {
      if (this.at >= this.end) throw new HpackError("block ends inside an integer");
      const byte = this.bytes[this.at++] as number;
      if (shift > 21) throw new HpackError("overlong integer");
      value += (byte & 0x7f) << shift;
      if (value > INTEGER_MAX) throw new HpackError("integer too large");
      if ((byte & 0x80) === 0) return value;
    }
  }
}
