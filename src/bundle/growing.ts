/** Typed arrays that grow: many numbers without an object for each. */

const LENGTH_MIN = 64;

export class Words {
  private array: Uint32Array<ArrayBuffer>;
  length = 0;

  constructor(capacity = LENGTH_MIN) {
    this.array = new Uint32Array(Math.max(LENGTH_MIN, capacity));
  }

  push(value: number): void {
    if (this.length === this.array.length) {
      const wider = new Uint32Array(this.array.length * 2);
      wider.set(this.array);
      this.array = wider;
    }
    this.array[this.length++] = value;
  }

  at(index: number): number {
    return this.array[index]!;
  }

  set(index: number, value: number): void {
    this.array[index] = value;
  }

  /** What was pushed, in an array of its own. */
  pack(): Uint32Array<ArrayBuffer> {
    return this.array.slice(0, this.length);
  }
}
