/** Adds a reading to what a session has gathered of one signal, with fading, and tells what that now amounts to. */

import type { Gathered, Session } from "../sessions/session.ts";
import type { Gathering } from "../signals/signal.ts";

/**
 * A thief may make all of a session's requests, or work beside the real workload and make only some. Three running sums
 * cover that. Each is a cumulative sum (Page, Biometrika 1954) that starts anew at zero; using the best of the three
 * costs log2(3) bits.
 */
const SHARES = { all: 15 / 16, fast: 1 / 2, slow: 1 / 32 };
const CHOICE_BITS = Math.log2(3);

/** The fast sums are about the last few dozen requests: evidence loses half in this many, however little time they take. */
const PER_REQUEST = 2 ** (-1 / 64);

/** Evidence below this is forgotten. */
const BITS_MIN = 0.05;

/**
 * @param bits this request's reading; `undefined` when there was none
 * @param requests 1 when a request is read, 0 when its outcome is
 * @returns bits gathered so far, including this reading; never negative
 */
export function gather(
  session: Session,
  signal: {
    readonly name: string;
    readonly gathering: Gathering;
    readonly halfLifeMs: number;
    readonly capBits: number;
  },
  reading: { readonly bits: number; readonly seen: string; readonly expected: string } | undefined,
  now: number,
  requests: 0 | 1,
): number {
  if (reading === undefined && session.gathered === undefined) return 0;
  const held = session.gathered?.get(signal.name);
  if (held === undefined) {
    if (reading === undefined || reading.bits <= 0) return 0;
  } else {
    const fade = 2 ** (-Math.max(0, now - held.atMs) / signal.halfLifeMs);
    const fadeFast = requests === 1 && signal.gathering === "sum" ? fade * PER_REQUEST : fade;
    held.all *= fadeFast;
    held.fast *= fadeFast;
    held.slow *= fade;
    held.atMs = Math.max(held.atMs, now);
  }
  const entry = held ?? { all: 0, fast: 0, slow: 0, atMs: now, seen: "", expected: "" };
  if (reading !== undefined) {
    if (signal.gathering === "hold") {
      entry.fast = Math.max(entry.fast, reading.bits);
    } else {
      // No higher than counts: what is over must be able to fade, and calm to make up for it.
      const most = signal.capBits + CHOICE_BITS;
      entry.all = clamp(entry.all + diluted(reading.bits, SHARES.all), most);
      entry.fast = clamp(entry.fast + diluted(reading.bits, SHARES.fast), most);
      entry.slow = clamp(entry.slow + diluted(reading.bits, SHARES.slow), most);
    }
    if (reading.bits > 0) {
      entry.seen = reading.seen;
      entry.expected = reading.expected;
    }
  }
  if (Math.max(entry.all, entry.fast, entry.slow) < BITS_MIN) {
    forget(session, signal.name);
    return 0;
  }
  if (held === undefined) {
    session.gathered ??= new Map();
    session.gathered.set(signal.name, entry);
  }
  return amount(entry, signal.gathering);
}

/** Forgets what a session has gathered of a signal. */
export function forget(session: Session, signal: string): void {
  session.gathered?.delete(signal);
  if (session.gathered?.size === 0) session.gathered = undefined;
}

function amount(entry: Pick<Gathered, "all" | "fast" | "slow">, gathering: Gathering): number {
  return gathering === "hold" ? entry.fast : Math.max(0, Math.max(entry.all, entry.fast, entry.slow) - CHOICE_BITS);
}

function clamp(bits: number, most: number): number {
  return Math.max(0, Math.min(most, bits));
}

/** log2 of the likelihood ratio when only `share` of the requests are the thief's. */
function diluted(bits: number, share: number): number {
  return Math.log2(1 - share + share * 2 ** bits);
}
