/** What a client may make one connection do for nothing: three budgets, which calls that were answered refill. */

import { Budget } from "./budget.ts";
import type { EventClock } from "./clock.ts";
import { ConnectionError, ErrorCode } from "./frames.ts";
import type { TransportLimits } from "./limits.ts";

/** Every `spend…` throws a ConnectionError (ENHANCE_YOUR_CALM) when nothing is left; see `limits.ts` for what costs what. */
export class AbuseBudgets {
  private readonly clientResets: Budget;
  private readonly provokedResets: Budget;
  private readonly controlFrames: Budget;
  private readonly controlFramesPerCall: number;
  private readonly clock: EventClock;

  constructor(limits: TransportLimits, clock: EventClock) {
    const { nowMs } = clock;
    this.clock = clock;
    this.clientResets = new Budget(limits.clientResetsBurst, limits.clientResetsPerSecond, nowMs);
    this.provokedResets = new Budget(limits.provokedResetsBurst, limits.provokedResetsPerSecond, nowMs);
    this.controlFrames = new Budget(limits.controlFramesBurst, limits.controlFramesPerSecond, nowMs);
    this.controlFramesPerCall = limits.controlFramesPerCall;
  }

  /** For a call that the client gave up, or may not open. */
  spendClientReset(): void {
    if (this.clientResets.spend(this.clock.nowMs)) return;
    throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many resets", "client-resets");
  }

  /** For a stream that we reset because the client broke a rule. */
  spendProvokedReset(): void {
    if (this.provokedResets.spend(this.clock.nowMs)) return;
    throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many stream errors", "provoked-resets");
  }

  /** For a frame that brings no request further. */
  spendControlFrame(): void {
    if (this.controlFrames.spend(this.clock.nowMs)) return;
    throw new ConnectionError(ErrorCode.enhanceYourCalm, "too many frames without calls", "control-frames");
  }

  /** By a call that was answered. */
  earn(): void {
    this.controlFrames.earn(this.controlFramesPerCall);
    this.clientResets.earn(1);
  }
}
