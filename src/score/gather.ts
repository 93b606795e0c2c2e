/** Adds a reading to what a session has gathered of one signal, with fading, and tells what that now amounts to. */

import type { Session } from "../sessions/session.ts";
import type { Gathering } from "../signals/signal.ts";

/**
 * A thief who works beside the real workload makes only some of a session's requests. Two running sums cover that: in
 * one half of the requests are the thief's, in the other one in thirty-two. Each is a cumulative sum (Page, Biometrika
 * 1954) that starts anew at zero; using the better of the two costs one bit.
 */
const FAST_SHARE = 1 / 2;
const SLOW_SHARE = 1 / 32;
const CHOICE_BITS = 1;

/** Evidence below this is forgotten. */
const BITS_MIN = 0.05;

/**
 * @param bits this request's reading; `undefined` when there was none
 * @returns bits gathered so far, including this reading; never negative
 */
export function gather(
  session: Session,
  signal: { readonly name: string; readonly gathering: Gathering; readonly halfLifeMs: number },
  reading: { readonly bits: number; readonly seen: string; readonly expected: string } | undefined,
  now: number,
): number {
  const held = session.gathered.get(signal.name);
  if (held === undefined) {
    if (reading === undefined || reading.bits <= 0) return 0;
  } else {
    const fade = 2 ** (-Math.max(0, now - held.atMs) / signal.halfLifeMs);
    held.fast *= fade;
    held.slow *= fade;
    held.atMs = Math.max(held.atMs, now);
  }
  const entry = held ?? { fast: 0, slow: 0, atMs: now, seen: "", expected: "" };
  if (reading !== undefined) {
    if (signal.gathering === "hold") {
      entry.fast = Math.max(entry.fast, reading.bits);
    } else {
      entry.fast = Math.max(0, entry.fast + diluted(reading.bits, FAST_SHARE));
      entry.slow = Math.max(0, entry.slow + diluted(reading.bits, SLOW_SHARE));
    }
    if (reading.bits > 0) {
      entry.seen = reading.seen;
      entry.expected = reading.expected;
    }
  }
  if (Math.max(entry.fast, entry.slow) < BITS_MIN) {
    session.gathered.delete(signal.name);
    return 0;
  }
  if (held === undefined) session.gathered.set(signal.name, entry);
  return amount(entry, signal.gathering);
}

function amount(entry: { fast: number; slow: number }, gathering: Gathering): number {
  return gathering === "hold" ? entry.fast : Math.max(0, Math.max(entry.fast, entry.slow) - CHOICE_BITS);
}

/** log2 of the likelihood ratio when only `share` of the requests are the thief's. */
function diluted(bits: number, share: number): number {
  return Math.log2(1 - share + share * 2 ** bits);
}
