/** Chance with a seed: the same seed gives the same world. */

export interface Chance {
  /** In [0, 1). */
  next(): number;
  /** Whole number from `least` to `most`, both included. */
  between(least: number, most: number): number;
  pick<Item>(items: readonly Item[]): Item;
  /** Waiting time until the next of events that come `perSecond` on average, seconds. */
  wait(perSecond: number): number;
  /** Heavy-tailed size around `median`; `spread` is the standard deviation of its logarithm. */
  size(median: number, spread: number): number;
  /** Hex digits. */
  hex(digits: number): string;
}

/** xorshift128 (Marsaglia, Journal of Statistical Software 2003), seeded by splitmix32. */
export function chance(seed: number): Chance {
  let mix = seed >>> 0;
  const seeded = (): number => {
    mix = (mix + 0x9e3779b9) >>> 0;
    let value = mix;
    value = Math.imul(value ^ (value >>> 16), 0x21f0aaad);
    value = Math.imul(value ^ (value >>> 15), 0x735a2d97);
    return (value ^ (value >>> 15)) >>> 0;
  };
  let [x, y, z, w] = [seeded(), seeded(), seeded(), seeded() | 1];
  const next = (): number => {
    const shifted = x ^ (x << 11);
    [x, y, z] = [y, z, w];
    w = (w ^ (w >>> 19) ^ (shifted ^ (shifted >>> 8))) >>> 0;
    return w / 2 ** 32;
  };
  const between = (least: number, most: number): number => least + Math.floor(next() * (most - least + 1));
  return {
    next,
    between,
    pick: (items) => items[Math.floor(next() * items.length)] as (typeof items)[number],
    wait: (perSecond) => -Math.log(1 - next()) / perSecond,
    size: (median, spread) => {
      // Box and Muller's transform of two uniform values.
      const normal = Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
      return Math.max(0, Math.round(median * Math.exp(spread * normal)));
    },
    hex: (digits) => Array.from({ length: digits }, () => between(0, 15).toString(16)).join(""),
  };
}
