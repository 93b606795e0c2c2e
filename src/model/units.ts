/** Numbers whose unit matters: brands keep milliseconds, bits and points from being swapped by accident. */

declare const unit: unique symbol;
type Branded<Unit extends string> = number & { readonly [unit]: Unit };

/** Milliseconds since the Unix epoch. */
export type EpochMs = Branded<"EpochMs">;

/** Evidence: log2 of a likelihood ratio, thief against principal. Positive accuses, negative reassures. */
export type Bits = Branded<"Bits">;

/** Risk, 0 to 100: ten points for every factor of ten in rarity among legitimate requests; 100 leaves no doubt. */
export type Score = Branded<"Score">;

/**
 * Narrows a number to an {@link EpochMs}.
 * @throws {RangeError} when `value` is not a finite number: a bug in the caller.
 */
export function toEpochMs(value: number): EpochMs {
  if (!Number.isFinite(value)) throw new RangeError(`epoch milliseconds must be finite, got ${value}`);
  return value as EpochMs;
}

/**
 * Narrows a number to {@link Bits}.
 * @throws {RangeError} when `value` is NaN.
 */
export function toBits(value: number): Bits {
  if (Number.isNaN(value)) throw new RangeError("bits must be a number, got NaN");
  return value as Bits;
}

/**
 * Narrows a number to a {@link Score}.
 * @throws {RangeError} when `value` is NaN or outside 0..100: a bug in the caller, never bad input.
 */
export function toScore(value: number): Score {
  if (!(value >= 0 && value <= 100)) throw new RangeError(`score must be 0..100, got ${value}`);
  return value as Score;
}

/** Points per bit: a score gains ten points for every factor of ten, and one bit is a factor of two. */
export const POINTS_PER_BIT = 10 * Math.log10(2);

export const SECOND_MS = 1_000;
export const MINUTE_MS = 60 * SECOND_MS;
export const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;
