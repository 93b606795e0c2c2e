/** Arrays of numbers, of which every principal has some. */

/**
 * Zeros in an array that V8 keeps as plain doubles in one piece. Beside a typed array it saves what that needs over its
 * numbers, some two hundred bytes, and the collector a buffer to keep track of (measured by `test/bench/line.ts`).
 */
export function zeros(length: number): number[] {
  // An array that once held a fraction stays an array of doubles.
  const numbers = Array.from({ length }, () => 0.5);
  return numbers.fill(0);
}
