/** Entries in the order of their latest use, so that the one to forget is found at once, however many there are. */

/** What an entry of an {@link AgeList} carries for it; nobody else touches these. An entry is in one list at a time. */
export interface Aged<Entry> {
  older: Entry | undefined;
  newer: Entry | undefined;
}

/**
 * A doubly linked list through the entries themselves. A `Map` keeps an order too, but finding its first entry costs a
 * step for every entry deleted before it since the table was last rebuilt: tens of thousands when it is full.
 */
export class AgeList<Entry extends Aged<Entry>> {
  size = 0;
  oldest: Entry | undefined;
  private youngest: Entry | undefined;

  /** Adds an entry that is in no list at the young end. */
  add(entry: Entry): void {
    entry.older = this.youngest;
    entry.newer = undefined;
    if (this.youngest === undefined) this.oldest = entry;
    else this.youngest.newer = entry;
    this.youngest = entry;
    this.size++;
  }

  /** Takes an entry of this list out. */
  remove(entry: Entry): void {
    const { older, newer } = entry;
    if (older === undefined) this.oldest = newer;
    else older.newer = newer;
    if (newer === undefined) this.youngest = older;
    else newer.older = older;
    entry.older = undefined;
    entry.newer = undefined;
    this.size--;
  }

  /** Moves an entry of this list to the young end. */
  renew(entry: Entry): void {
    if (entry === this.youngest) return;
    this.remove(entry);
    this.add(entry);
  }

  clear(): void {
    this.size = 0;
    this.oldest = undefined;
    this.youngest = undefined;
  }

  /** Oldest first. The entry given last may be removed meanwhile. */
  *[Symbol.iterator](): IterableIterator<Entry> {
    let next = this.oldest;
    while (next !== undefined) {
      const entry: Entry = next;
      next = entry.newer;
      yield entry;
    }
  }
}
