/** Remembers what was made of bytes that come again and again, and finds it by the very same bytes. */

export interface BytesMemoLimits {
  /** What was added first is forgotten beyond. */
  readonly entriesMax: number;
  /** Of all bytes that are kept to compare with; longer ones than a quarter of it are never remembered. */
  readonly bytesMax: number;
}

interface Entry<T> {
  readonly start: number;
  readonly length: number;
  readonly value: T;
}

const STORE_BYTES_MIN = 4_096;
/** Odd, and its bits are without pattern: 2^32 divided by the golden ratio. */
const MULTIPLIER = 0x9e3779b1;

/**
 * A bounded table by exact bytes. The hash only finds the candidate; what is returned was made of equal bytes. Bytes that
 * were chosen so that they collide replace one another, which costs no more than making their values again.
 *
 * The bytes of all entries lie in one ring, oldest first: ten thousand buffers of their own would cost more than they hold.
 */
export class BytesMemo<T> {
  private readonly entries = new Map<number, Entry<T>>();
  private readonly limits: BytesMemoLimits;
  private store = Buffer.alloc(0);
  private head = 0;

  constructor(limits: BytesMemoLimits) {
    this.limits = limits;
  }

  get size(): number {
    return this.entries.size;
  }

  find(bytes: Buffer, start: number, end: number): T | undefined {
    const entry = this.entries.get(hashOf(bytes, start, end));
    if (entry === undefined || entry.length !== end - start) return undefined;
    const same = bytes.compare(this.store, entry.start, entry.start + entry.length, start, end) === 0;
    return same ? entry.value : undefined;
  }

  /** Remembers a copy of the bytes, and what was made of them. */
  add(bytes: Buffer, start: number, end: number, value: T): void {
    const length = end - start;
    if (length > this.limits.bytesMax / 4 || this.limits.entriesMax < 1) return;
    const hash = hashOf(bytes, start, end);
    this.entries.delete(hash);
    if (this.entries.size >= this.limits.entriesMax) this.forgetOldest();
    const at = this.placeFor(length);
    bytes.copy(this.store, at, start, end);
    this.head = at + length;
    this.entries.set(hash, { start: at, length, value });
  }

  private placeFor(length: number): number {
    if (this.head + length > this.store.length && this.store.length < this.limits.bytesMax) {
      const wanted = Math.max(STORE_BYTES_MIN, this.store.length * 2, this.head + length);
      const grown = Buffer.allocUnsafeSlow(Math.min(wanted, this.limits.bytesMax));
      this.store.copy(grown, 0, 0, this.head);
      this.store = grown;
    }
    let at = this.head;
    if (at + length > this.store.length) {
      // Around the ring: what lies in its last part is older than what lies in its first.
      this.forgetWithin(at, this.store.length + 1);
      at = 0;
    }
    this.forgetWithin(at, at + length);
    return at;
  }

  /** Forgets the oldest entries as long as they lie where a new one is to lie. */
  private forgetWithin(start: number, end: number): void {
    for (const [hash, entry] of this.entries) {
      if (entry.start >= end || entry.start + Math.max(1, entry.length) <= start) return;
      this.entries.delete(hash);
    }
  }

  private forgetOldest(): void {
    const oldest = this.entries.keys().next();
    if (!oldest.done) this.entries.delete(oldest.value);
  }
}

/** Four bytes at a time: certificates differ where they please, so that every byte counts. */
function hashOf(bytes: Buffer, start: number, end: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset + start, end - start);
  const wholeWords = view.byteLength & ~3;
  let hash = view.byteLength;
  for (let i = 0; i < wholeWords; i += 4) {
    hash = Math.imul(hash ^ view.getInt32(i, true), MULTIPLIER);
    hash ^= hash >>> 15;
  }
  for (let i = wholeWords; i < view.byteLength; i++) hash = Math.imul(hash ^ view.getUint8(i), MULTIPLIER);
  return hash;
}
