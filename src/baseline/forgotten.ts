/** Names of principals that were forgotten for want of room: bounded, and a few bytes each. */

/** Names that share a bucket; the oldest of them gives way. */
const BUCKET_SLOTS = 4;
const ENTRIES_MIN = 64;

/**
 * A principal that is not in memory either never called here, or was forgotten when memory was full. Only the first is
 * strange: without this table a service with more callers than it can remember would take every one that returns for a
 * stranger.
 *
 * Kept are 32 bits of a hash of each name, found by further bits of it: one name in a billion is taken for another, whose
 * first call then counts as ordinary. Nothing is allocated before the first name is added.
 */
export class ForgottenNames {
  private readonly bucketsMask: number;
  private slots: Uint32Array | undefined;

  /** @param entriesMax names remembered, at least; rounded up to a power of two */
  constructor(entriesMax: number) {
    const entries = 2 ** Math.ceil(Math.log2(Math.max(ENTRIES_MIN, entriesMax)));
    this.bucketsMask = entries / BUCKET_SLOTS - 1;
  }

  has(name: string): boolean {
    if (this.slots === undefined) return false;
    return this.hasMark(this.bucketOf(name), markOf(name));
  }

  add(name: string): void {
    this.addMark(this.bucketOf(name), markOf(name));
  }

  clear(): void {
    this.slots = undefined;
  }

  /** All that is remembered, as pairs of bucket and mark, oldest first within a bucket: what a snapshot keeps. */
  *entries(): IterableIterator<readonly [bucket: number, mark: number]> {
    const { slots } = this;
    if (slots === undefined) return;
    for (let at = slots.length - 1; at >= 0; at--) {
      const mark = slots[at] as number;
      if (mark !== 0) yield [Math.floor(at / BUCKET_SLOTS), mark];
    }
  }

  /** Takes over one of {@link entries}; of a table of another size it finds nobody, which costs no more than not knowing. */
  restore(bucket: number, mark: number): void {
    this.addMark(bucket & this.bucketsMask, mark);
  }

  private hasMark(bucket: number, mark: number): boolean {
    const { slots } = this;
    if (slots === undefined) return false;
    const first = bucket * BUCKET_SLOTS;
    for (let at = first; at < first + BUCKET_SLOTS; at++) if (slots[at] === mark) return true;
    return false;
  }

  /** The newest of a bucket stands first. */
  private addMark(bucket: number, mark: number): void {
    if (this.hasMark(bucket, mark)) return;
    this.slots ??= new Uint32Array((this.bucketsMask + 1) * BUCKET_SLOTS);
    const first = bucket * BUCKET_SLOTS;
    this.slots.copyWithin(first + 1, first, first + BUCKET_SLOTS - 1);
    this.slots[first] = mark;
  }

  private bucketOf(name: string): number {
    return hashOf(name, 0x9e3779b1) & this.bucketsMask;
  }
}

/** Never 0, which stands for an empty slot. */
function markOf(name: string): number {
  return hashOf(name, 0x85ebca6b) >>> 0 || 1;
}

/** FNV-1a over UTF-16 units with a seed, its bits mixed at the end as MurmurHash3 does. */
function hashOf(text: string, seed: number): number {
  let hash = seed;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
