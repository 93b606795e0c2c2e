/** The tables that HPACK's indices point into (RFC 7541 section 2.3 and appendix A). */

/** A field as it was received: octets as latin1. */
export interface HeaderField {
  readonly name: string;
  readonly value: string;
}

/** RFC 7541 section 4.1. */
export const FIELD_OVERHEAD_BYTES = 32;

// biome-ignore format: as in the RFC's order
const STATIC_TEXT: readonly string[] = [
  ":authority", ":method GET", ":method POST", ":path /", ":path /index.html", ":scheme http", ":scheme https",
  ":status 200", ":status 204", ":status 206", ":status 304", ":status 400", ":status 404", ":status 500",
  "accept-charset", "accept-encoding gzip, deflate", "accept-language", "accept-ranges", "accept",
  "access-control-allow-origin", "age", "allow", "authorization", "cache-control", "content-disposition",
  "content-encoding", "content-language", "content-length", "content-location", "content-range", "content-type",
  "cookie", "date", "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since", "if-none-match",
  "if-range", "if-unmodified-since", "last-modified", "link", "location", "max-forwards", "proxy-authenticate",
  "proxy-authorization", "range", "referer", "refresh", "retry-after", "server", "set-cookie",
  "strict-transport-security", "transfer-encoding", "user-agent", "vary", "via", "www-authenticate",
];

/** Index 1 is the first. */
export const STATIC_TABLE: readonly HeaderField[] = STATIC_TEXT.map((text) => {
  const space = text.indexOf(" ");
  return space < 0 ? { name: text, value: "" } : { name: text.slice(0, space), value: text.slice(space + 1) };
});

/** The dynamic table of one direction: newest first, oldest evicted. */
export class DynamicTable {
  /** Grows by one with every change, so that equal numbers mean an equal table. */
  generation = 0;
  /** RFC 7541 section 4.1. */
  sizeBytes = 0;
  private sizeBytesMax: number;
  /** Oldest first, from `first` on. */
  private fields: HeaderField[] = [];
  private first = 0;

  constructor(sizeBytesMax: number) {
    this.sizeBytesMax = sizeBytesMax;
  }

  get length(): number {
    return this.fields.length - this.first;
  }

  /** @param index from 0, the newest */
  at(index: number): HeaderField | undefined {
    return index < this.length ? this.fields[this.fields.length - 1 - index] : undefined;
  }

  add(field: HeaderField): void {
    this.generation += 1;
    const size = field.name.length + field.value.length + FIELD_OVERHEAD_BYTES;
    this.evict(this.sizeBytesMax - size);
    // A field larger than the table empties it, and is not an error (RFC 7541 section 4.4).
    if (size > this.sizeBytesMax) return;
    this.fields.push(field);
    this.sizeBytes += size;
  }

  resize(sizeBytesMax: number): void {
    this.generation += 1;
    this.sizeBytesMax = sizeBytesMax;
    this.evict(sizeBytesMax);
  }

  private evict(sizeBytesMax: number): void {
    while (this.sizeBytes > sizeBytesMax && this.length > 0) {
      const oldest = this.fields[this.first] as HeaderField;
      this.first += 1;
      this.sizeBytes -= oldest.name.length + oldest.value.length + FIELD_OVERHEAD_BYTES;
    }
    // Evicted fields stay until they are as many as the others: constant time per field, at most twice the room.
    if (this.first > 32 && this.first * 2 > this.fields.length) {
      this.fields = this.fields.slice(this.first);
      this.first = 0;
    }
  }
}
