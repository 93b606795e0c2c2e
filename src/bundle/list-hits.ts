/** What being listed means, for millions of entries of few lists: an entry keeps a number, the hit is made when asked for. */

import type { ListHit } from "../model/policy.ts";

export type ListMeaning = Pick<ListHit, "list" | "action" | "reason">;

/** Hits as they travel between threads; a hit's number is its place. */
export interface PackedHits {
  readonly lists: readonly ListMeaning[];
  readonly listOf: Uint32Array;
  readonly bits: Float64Array;
}

/** Gathers hits; those of one list with the same bits share a number. */
export class HitsBuilder {
  private readonly lists: ListMeaning[] = [];
  private readonly listOf: number[] = [];
  private readonly bits: number[] = [];

  /** Adds a list; the function gives the number of its hit of these bits. */
  list(meaning: ListMeaning): (bits: number) => number {
    const index = this.lists.push(meaning) - 1;
    const known = new Map<number, number>();
    return (bits) => {
      let number = known.get(bits);
      if (number === undefined) {
        number = this.listOf.push(index) - 1;
        this.bits.push(bits);
        known.set(bits, number);
      }
      return number;
    };
  }

  /** The hit that counts of two on the same range or value: a `block`, then the one of most bits, then the earlier. */
  prefer(earlier: number, later: number): number {
    const [first, second] = [this.actionOf(earlier), this.actionOf(later)];
    if (first !== second) return first === "block" ? earlier : later;
    return this.bits[later]! > this.bits[earlier]! ? later : earlier;
  }

  pack(): PackedHits {
    return { lists: this.lists, listOf: Uint32Array.from(this.listOf), bits: Float64Array.from(this.bits) };
  }

  private actionOf(number: number): ListHit["action"] {
    return this.lists[this.listOf[number]!]!.action;
  }
}

/** Hits by number; each is made once. */
export class Hits {
  private readonly made = new Map<number, ListHit>();
  private readonly packed: PackedHits;

  constructor(packed: PackedHits) {
    this.packed = packed;
  }

  at(number: number): ListHit {
    let hit = this.made.get(number);
    if (hit === undefined) {
      const { lists, listOf, bits } = this.packed;
      const { list, action, reason } = lists[listOf[number]!]!;
      hit = { list, action, bits: bits[number]!, reason };
      this.made.set(number, hit);
    }
    return hit;
  }
}
