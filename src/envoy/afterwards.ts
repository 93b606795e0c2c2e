/** Puts off what no answer waits for until the answers are on their way, in slices between which further calls are read. */

/** Items done in one turn of the event loop: some hundred microseconds of work. */
const SLICE = 64;
/** From so many on, all are done at once: memory is bounded, and checks wait for it as they should. */
const BACKLOG_MAX = 8_192;

export class Afterwards<Item> {
  private items: Item[] = [];
  private next = 0;
  private scheduled = false;
  private readonly take: (item: Item) => void;
  private readonly onError: (error: unknown) => void;

  /**
   * @param take does one item
   * @param onError told of what `take` throws; the others go on
   */
  constructor(take: (item: Item) => void, onError: (error: unknown) => void) {
    this.take = take;
    this.onError = onError;
  }

  /** Items that are still to be done. */
  get size(): number {
    return this.items.length - this.next;
  }

  add(item: Item): void {
    this.items.push(item);
    if (this.size >= BACKLOG_MAX) this.flush();
    else if (!this.scheduled) this.schedule();
  }

  /** Does all of them now. */
  flush(): void {
    this.run(this.size);
  }

  private schedule(): void {
    this.scheduled = true;
    setImmediate(this.turn);
  }

  private readonly turn = (): void => {
    this.scheduled = false;
    this.run(SLICE);
    if (this.size > 0) this.schedule();
  };

  private run(count: number): void {
    const end = Math.min(this.items.length, this.next + count);
    while (this.next < end) {
      const item = this.items[this.next++] as Item;
      try {
        this.take(item);
      } catch (error) {
        this.onError(error); // one that fails must not keep the others from being learned and logged
      }
    }
    if (this.next < this.items.length) return;
    this.items = [];
    this.next = 0;
  }
}
