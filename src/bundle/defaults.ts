/** What counts where a policy says nothing. */

import type { ChallengePolicy, ResponsePolicy, Thresholds } from "../model/policy.ts";
import { DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS } from "../model/units.ts";

export const THRESHOLDS: Thresholds = { challenge: 26, deny: 36, terminate: 70 };

export const CHALLENGE_TRIES_MAX = 3;
export const CHALLENGE_TTL_MS = 5 * MINUTE_MS;
export const CHALLENGE_DISCHARGE_MS = 12 * HOUR_MS;

export const CHALLENGE: ChallengePolicy = {
  kinds: ["dpop", "step_up"],
  publicOrigins: [],
  triesMax: CHALLENGE_TRIES_MAX,
  ttlMs: CHALLENGE_TTL_MS,
  dischargeMs: CHALLENGE_DISCHARGE_MS,
  acrValues: [],
  maxAgeSeconds: undefined,
};

export const RESPONSE: ResponsePolicy = { revealReasons: false, upstreamHeaders: true };

export const AUTO_LOCK_MS = HOUR_MS;

export const POSTURE_MAX_AGE_MS = HOUR_MS;
export const POSTURE_MISSING_BITS = 10;
export const POSTURE_STALE_BITS = 6;

export const LIST_BITS = 5;

export const API_KEY_HEADER = "x-api-key";

/** Asymmetric algorithms in common use; the keys of the issuer narrow them further. */
export const ALGORITHMS: readonly string[] = ["RS256", "PS256", "ES256", "ES384", "EdDSA"];
export const CLOCK_TOLERANCE_MS = 30 * SECOND_MS;

/** Facts without a time hold as long as the policy does: the last moment that a date can hold. */
export const ALWAYS_FRESH_MS = 100_000_000 * DAY_MS;
