/** Finds what is kept of a principal at a place, under a text that nearly always tells it alone. */

import { keyOf, type Place, samePlace } from "./session.ts";

/** What an entry says of itself; it never changes. */
interface Placed {
  readonly principal: string;
  readonly place: Place;
}

/**
 * Entries by a text, a principal and a place. Of most texts there is one entry only: it is found by that text and compared
 * part by part. A key of all parts is put together only where a text has several entries, so that ten thousand principals
 * need no keys of their own, and a credential that is used from a thousand places still costs one look-up.
 */
export class PlacedTable<Entry extends Placed> {
  size = 0;
  private readonly byText = new Map<string, Entry | Map<string, Entry>>();

  get(text: string, principal: string, place: Place): Entry | undefined {
    const found = this.byText.get(text);
    if (found === undefined) return undefined;
    if (found instanceof Map) return found.get(textOf(principal, place));
    return isOf(found, principal, place) ? found : undefined;
  }

  /** Adds an entry, or puts it in the place of the one that says the same of itself. */
  set(text: string, entry: Entry): void {
    const found = this.byText.get(text);
    if (found === undefined || (!(found instanceof Map) && isOf(found, entry.principal, entry.place))) {
      if (found === undefined) this.size++;
      this.byText.set(text, entry);
      return;
    }
    const several = found instanceof Map ? found : new Map([[textOf(found.principal, found.place), found]]);
    if (several !== found) this.byText.set(text, several);
    const before = several.size;
    several.set(textOf(entry.principal, entry.place), entry);
    this.size += several.size - before;
  }

  /** Removes the entry that says the same of itself, if there is one. */
  delete(text: string, { principal, place }: Placed): void {
    const found = this.byText.get(text);
    if (found === undefined) return;
    if (!(found instanceof Map)) {
      if (!isOf(found, principal, place)) return;
      this.byText.delete(text);
      this.size--;
      return;
    }
    if (!found.delete(textOf(principal, place))) return;
    this.size--;
    if (found.size === 0) this.byText.delete(text);
  }
}

function isOf(entry: Placed, principal: string, place: Place): boolean {
  return entry.principal === principal && samePlace(entry.place, place);
}

function textOf(principal: string, place: Place): string {
  return `${principal}|${keyOf(place)}`;
}
