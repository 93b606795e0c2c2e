/** Finds which of many globs match a text without trying them all. */

import type { Glob } from "../model/policy.ts";

/**
 * Globs without wildcards are looked up; the others are tried only where the text begins as they do. The cost of a
 * look-up is that of the globs that begin like the text, and of the different lengths of such beginnings.
 */
export class GlobIndex {
  private readonly exact = new Map<string, number[]>();
  private readonly prefixes = new Map<string, { readonly glob: Glob; readonly owner: number }[]>();
  private readonly lengths = new Set<number>();

  add(glob: Glob, owner: number): void {
    const wildcard = glob.text.indexOf("*");
    if (wildcard === -1) {
      push(this.exact, glob.text, owner);
      return;
    }
    const prefix = glob.text.slice(0, wildcard);
    push(this.prefixes, prefix, { glob, owner });
    this.lengths.add(prefix.length);
  }

  /** Adds the owners of all globs that match; an owner may come more than once. */
  collect(text: string, owners: Set<number>): void {
    for (const owner of this.exact.get(text) ?? []) owners.add(owner);
    for (const length of this.lengths) {
      if (length > text.length) continue;
      for (const { glob, owner } of this.prefixes.get(text.slice(0, length)) ?? []) {
        if (!owners.has(owner) && glob.test(text)) owners.add(owner);
      }
    }
  }
}

function push<Value>(map: Map<string, Value[]>, key: string, value: Value): void {
  const values = map.get(key);
  if (values === undefined) map.set(key, [value]);
  else values.push(value);
}
