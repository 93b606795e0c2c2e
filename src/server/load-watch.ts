/** Tells how late this process runs, and who asks for more than its share: what overload is answered by. */

import { SECOND_MS } from "../model/units.ts";

/** `pressed`: callers beyond their fair share are answered cheaply; `overloaded`: everyone is. */
export type LoadLevel = "calm" | "pressed" | "overloaded";

/** How often the watch looks; what is read after a look waited no longer than the look was late. */
const LOOK_MS = 10;
/** Without any check for so long it stops looking: an idle sidecar wakes for nothing. */
const IDLE_MS = SECOND_MS;

/**
 * Watches the delay of the event loop. A timer that is due and does not run is held up by the same work (or the same
 * want of processor time) as the calls that lie unread at the socket, and runs before them: timers come before sockets in
 * each turn of the loop.
 */
export class LoadWatch {
  private readonly pressedMs: number;
  private readonly now: () => number;
  private readonly onBusy: (() => void) | undefined;
  private timer: NodeJS.Timeout | undefined;
  private dueMs = 0;
  private latestMs = 0;
  private seenMs = 0;

  /**
   * @param pressedMs delay from which the process counts as pressed; from twice that on, as overloaded
   * @param now monotonic milliseconds
   * @param onBusy told with every look, as long as checks come
   */
  constructor(pressedMs: number, now: () => number, onBusy?: () => void) {
    this.pressedMs = pressedMs;
    this.now = now;
    this.onBusy = onBusy;
  }

  /** Tells that a check is being answered. */
  seen(nowMs: number): void {
    this.seenMs = nowMs;
    if (this.timer !== undefined) return;
    this.dueMs = nowMs + LOOK_MS;
    this.timer = setInterval(() => this.look(), LOOK_MS);
    this.timer.unref();
  }

  /** How long, in milliseconds, a call that is read now may have waited to be read. */
  delayMs(nowMs: number): number {
    return this.timer === undefined ? 0 : Math.max(this.latestMs, nowMs - this.dueMs);
  }

  level(nowMs: number): LoadLevel {
    const delayMs = this.delayMs(nowMs);
    if (delayMs < this.pressedMs) return "calm";
    return delayMs < 2 * this.pressedMs ? "pressed" : "overloaded";
  }

  close(): void {
    clearInterval(this.timer);
    this.timer = undefined;
    this.latestMs = 0;
  }

  private look(): void {
    const nowMs = this.now();
    this.latestMs = Math.max(0, nowMs - this.dueMs);
    this.dueMs = nowMs + LOOK_MS;
    if (nowMs - this.seenMs > IDLE_MS) this.close();
    else this.onBusy?.();
  }
}

/** Length of the window in which callers are counted. */
const WINDOW_MS = SECOND_MS;
/** Callers counted in a window; further ones have asked for little and are not told apart. */
const CALLERS_MAX = 4_096;
/** Times its fair share that a caller may ask for before it is answered cheaply. */
const TIMES_FAIR = 2;

/** Who asked for how much lately. A caller's fair share is what each would have if all had asked for as much. */
export class FairShares {
  private current = new Map<string, number>();
  private before = new Map<string, number>();
  private currentTotal = 0;
  private beforeTotal = 0;
  private windowEndMs = 0;

  /** Counts one check. */
  note(principal: string, nowMs: number): void {
    if (nowMs >= this.windowEndMs) this.turn(nowMs);
    this.currentTotal++;
    const count = this.current.get(principal);
    if (count !== undefined) this.current.set(principal, count + 1);
    else if (this.current.size < CALLERS_MAX) this.current.set(principal, 1);
  }

  /** Whether a caller asked for more than twice its fair share in the last two windows. */
  isHeavy(principal: string): boolean {
    const callers = Math.max(this.current.size, this.before.size);
    const own = (this.current.get(principal) ?? 0) + (this.before.get(principal) ?? 0);
    return own * callers > TIMES_FAIR * (this.currentTotal + this.beforeTotal);
  }

  private turn(nowMs: number): void {
    const follows = nowMs < this.windowEndMs + WINDOW_MS;
    this.before = follows ? this.current : new Map();
    this.beforeTotal = follows ? this.currentTotal : 0;
    this.current = new Map();
    this.currentTotal = 0;
    this.windowEndMs = nowMs + WINDOW_MS;
  }
}
