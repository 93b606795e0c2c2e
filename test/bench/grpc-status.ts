/** Finds `grpc-status: 0` in the header blocks of one HTTP/2 connection (RFC 7541), and reads nothing else of them. */

/** Entries of the static table (RFC 7541, appendix A); `grpc-status` is none of them. */
const STATIC_ENTRIES = 61;
/** What an entry takes of the table beyond its name and value (RFC 7541, section 4.1). */
const ENTRY_BYTES = 32;
const NAME = Buffer.from("grpc-status");
/** The same in the Huffman code of appendix B. */
const NAME_HUFFMAN = Buffer.from("9acac8b21234da8f", "hex");
const ZERO = Buffer.from("0");
const ZERO_HUFFMAN = Buffer.from("07", "hex");

type Name = "status" | "other";
interface Entry {
  readonly name: Name;
  /** Says `grpc-status: 0`. */
  readonly ok: boolean;
  readonly bytes: number;
}

const OTHER: Entry = { name: "other", ok: false, bytes: 0 };

/** Keeps of the dynamic table only whether an entry is the one looked for, and how many bytes it takes. */
export class StatusReader {
  private readonly entries: Entry[] = [];
  private tableBytes = 0;
  private tableBytesMax = 4_096;
  private block: Buffer = ZERO;
  private at = 0;

  /** Reads every block in turn. @returns whether this one says `grpc-status: 0` */
  saysOk(block: Buffer): boolean {
    this.block = block;
    this.at = 0;
    let ok = false;
    while (this.at < block.length) {
      const first = block[this.at] as number;
      if (first >= 0x80) ok = this.entryAt(this.integer(7)).ok || ok;
      else if (first >= 0x40) ok = this.remember(this.literal(6)) || ok;
      else if (first >= 0x20) this.resize(this.integer(5));
      else ok = this.literal(4).ok || ok;
    }
    return ok;
  }

  private entryAt(index: number): Entry {
    return index <= STATIC_ENTRIES ? OTHER : (this.entries[index - STATIC_ENTRIES - 1] ?? OTHER);
  }

  private literal(prefixBits: number): Entry {
    const index = this.integer(prefixBits);
    const own = index === 0 ? this.text() : undefined;
    const isStatus = own === undefined ? this.entryAt(index).name === "status" : same(own, NAME, NAME_HUFFMAN);
    const value = this.text();
    // Of Huffman-coded texts and static names the length is taken for 8/5 of what is there: only large tables would tell.
    const bytes = ENTRY_BYTES + Math.ceil(((own?.bytes.length ?? 10) + value.bytes.length) * (value.huffman ? 1.6 : 1));
    return { name: isStatus ? "status" : "other", ok: isStatus && same(value, ZERO, ZERO_HUFFMAN), bytes };
  }

  private remember(entry: Entry): boolean {
    this.entries.unshift(entry);
    this.tableBytes += entry.bytes;
    this.evict();
    return entry.ok;
  }

  private resize(bytes: number): void {
    this.tableBytesMax = bytes;
    this.evict();
  }

  private evict(): void {
    while (this.tableBytes > this.tableBytesMax) this.tableBytes -= this.entries.pop()?.bytes ?? this.tableBytes;
  }

  private text(): { readonly bytes: Buffer; readonly huffman: boolean } {
    const huffman = (this.block[this.at] as number) >= 0x80;
    const length = this.integer(7);
    this.at += length;
    return { bytes: this.block.subarray(this.at - length, this.at), huffman };
  }

  /** RFC 7541, section 5.1. */
  private integer(prefixBits: number): number {
    const most = (1 << prefixBits) - 1;
    let value = (this.block[this.at++] as number) & most;
    if (value < most) return value;
    for (let shift = 0; ; shift += 7) {
      const byte = this.block[this.at++] as number;
      value += (byte & 0x7f) << shift;
      if (!(byte & 0x80)) return value;
    }
  }
}

function same(text: { readonly bytes: Buffer; readonly huffman: boolean }, plain: Buffer, coded: Buffer): boolean {
  return text.bytes.equals(text.huffman ? coded : plain);
}
