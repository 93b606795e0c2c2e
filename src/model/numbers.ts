/** Arrays of numbers, of which every principal has some. */

/**
 * Numbers of one principal, doubles in one piece. As fields of objects V8 would box each of them: an object to allocate, to
 * collect and to fetch into the cache.
 */
export type Figures = number[];

/**
 * Zeros in an array that V8 keeps as plain doubles in one piece. Beside a typed array it saves what that needs over its
 * numbers, some two hundred bytes, and the collector a buffer to keep track of (measured by `test/bench/line.ts`).
 */
export function zeros(length: number): number[] {
  let template = templates[length];
  if (template === undefined) {
    // An array that once held a fraction stays an array of doubles, and so do its copies.
    template = Array.from({ length }, () => 0.5).fill(0);
    templates[length] = template;
  }
  return template.slice();
}

const templates: number[][] = [];
