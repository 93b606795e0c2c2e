/** Remembers what was made of bytes that come again and again, and finds it by the very same bytes. */

export interface BytesMemoLimits {
  /** What was added first is forgotten beyond. */
  readonly entriesMax: number;
  /**
   * Of all bytes that are kept to compare with. Longer ones than a quarter of it, or than {@link PIECE_BYTES}, are never
   * remembered.
   */
  readonly bytesMax: number;
}

interface Entry<T> {
  /** The piece of the store that holds its bytes. */
  readonly piece: Buffer;
  readonly start: number;
  readonly length: number;
  readonly value: T;
}

/** The store is taken in pieces of this size: none is ever copied to grow, and what is not needed is not taken. */
const PIECE_BYTES = 256 * 1024;
const PIECES_MIN = 4;
/** Odd, and its bits are without pattern: 2^32 divided by the golden ratio. */
const MULTIPLIER = 0x9e3779b1;

/**
 * A bounded table by exact bytes. The hash only finds the candidate; what is returned was made of equal bytes. Bytes that
 * were chosen so that they collide replace one another, which costs no more than making their values again.
 *
 * The bytes of all entries lie in a few large pieces that are filled in turn, oldest first: ten thousand buffers of their
 * own would cost more than they hold.
 */
export class BytesMemo<T> {
  private readonly entries = new Map<number, Entry<T>>();
  private readonly entriesMax: number;
  private readonly pieceBytes: number;
  private readonly piecesMax: number;
  private readonly pieces: Buffer[] = [];
  /** The piece that is filled, and how far. */
  private current = -1;
  private head = 0;

  constructor({ entriesMax, bytesMax }: BytesMemoLimits) {
    this.entriesMax = entriesMax;
    this.pieceBytes = Math.min(PIECE_BYTES, Math.floor(bytesMax / PIECES_MIN));
    this.piecesMax = this.pieceBytes === 0 ? 0 : Math.floor(bytesMax / this.pieceBytes);
  }

  get size(): number {
    return this.entries.size;
  }

  find(bytes: Buffer, start: number, end: number): T | undefined {
    const entry = this.entries.get(hashOf(bytes, start, end));
    if (entry === undefined || entry.length !== end - start) return undefined;
    const same = bytes.compare(entry.piece, entry.start, entry.start + entry.length, start, end) === 0;
    return same ? entry.value : undefined;
  }

  /** Remembers a copy of the bytes, and what was made of them. */
  add(bytes: Buffer, start: number, end: number, value: T): void {
    const length = end - start;
    if (length > this.pieceBytes || this.piecesMax < 1 || this.entriesMax < 1) return;
    const hash = hashOf(bytes, start, end);
    this.entries.delete(hash);
    if (this.entries.size >= this.entriesMax) this.forgetOldest();
    const piece = this.pieceFor(length);
    bytes.copy(piece, this.head, start, end);
    this.entries.set(hash, { piece, start: this.head, length, value });
    this.head += length;
  }

  /** The piece that has room from `head` on. */
  private pieceFor(length: number): Buffer {
    const current = this.pieces[this.current];
    if (current !== undefined && this.head + length <= current.length) return current;
    this.current = (this.current + 1) % this.piecesMax;
    this.head = 0;
    const next = this.pieces[this.current];
    if (next !== undefined) {
      this.forgetWithin(next);
      return next;
    }
    const taken = Buffer.allocUnsafeSlow(this.pieceBytes);
    this.pieces.push(taken);
    return taken;
  }

  /** Forgets the oldest entries as long as they lie in a piece: none that is younger does. */
  private forgetWithin(piece: Buffer): void {
    for (const [hash, entry] of this.entries) {
      if (entry.piece !== piece) return;
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
