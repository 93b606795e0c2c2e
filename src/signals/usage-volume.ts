/** Reads how much a caller asks for and gets: requests and distinct routes per minute, errors, response bytes, hour. */

import { CENTRE_AT, HOURS, HOURS_AT, NOVELTY_AT } from "../baseline/baseline.ts";
import { centreCount, centreMean, tailBits } from "../baseline/tail.ts";
import { DAY_MS, HOUR_MS } from "../model/units.ts";
import { absent, bitsOf, NOTHING, present, type Signal } from "./signal.ts";

/** Windows or values needed before a principal's own scale means anything. */
const SCALE_MIN = 5;

/** Doublings over the usual size at which a response is called large. */
export const LARGE_DOUBLINGS = 4;

/** How often a thief's answer is large within the hour after another large one. */
const THIEF_LARGE_AGAIN = 0.6;

export const usageRate: Signal = {
  name: "usage.rate",
  summary: "Requests per minute of this session against the principal's own scale; how bursty callers are, is learned.",
  gathering: "sum",
  halfLifeMs: HOUR_MS / 4,
  // Alone no ground for a challenge: retry storms and batches are the same caller in a hurry.
  capBits: 8,
  discharged: false,
  cause: () => "",
  read: ({ baseline, population, session, commonCause }) => {
    if (baseline === undefined || centreCount(baseline.figures, CENTRE_AT.rate) < SCALE_MIN)
      return absent("rate still being learned");
    const count = session.windowRequests + 1;
    const p = Math.max(
      population.rate.atLeast(Math.log2(count) - centreMean(baseline.figures, CENTRE_AT.rate)),
      commonCause("usage.rate", ""),
    );
    const bits = tailBits(p) - session.windowRateBits;
    if (bits <= 0) return NOTHING;
    return present(
      bits,
      `${count} requests in the minute`,
      `about ${Math.round(2 ** centreMean(baseline.figures, CENTRE_AT.rate))}`,
    );
  },
};

export const usageSpread: Signal = {
  name: "usage.spread",
  summary: "Distinct routes per minute of this session against the principal's own scale: scans touch many.",
  gathering: "sum",
  halfLifeMs: HOUR_MS / 4,
  capBits: 10,
  discharged: false,
  cause: () => "",
  read: ({ baseline, population, session, route, commonCause }) => {
    if (baseline === undefined || centreCount(baseline.figures, CENTRE_AT.spread) < SCALE_MIN)
      return absent("spread still being learned");
    const count = session.windowRoutes.size + (session.windowRoutes.has(route) ? 0 : 1);
    const p = Math.max(
      population.spread.atLeast(Math.log2(count) - centreMean(baseline.figures, CENTRE_AT.spread)),
      commonCause("usage.spread", ""),
    );
    // More requests touch more routes: only what the rate has not said already.
    const bits = tailBits(p) - session.windowSpreadBits - session.windowRateBits;
    if (bits <= 0) return NOTHING;
    return present(
      bits,
      `${count} routes in the minute`,
      `about ${Math.round(2 ** centreMean(baseline.figures, CENTRE_AT.spread))}`,
    );
  },
};

export const usageErrors: Signal = {
  name: "usage.errors",
  summary:
    "Refused and missing answers (401, 403, 404, 405, and gRPC's equivalents) beyond the principal's own share: probing.",
  gathering: "sum",
  halfLifeMs: HOUR_MS / 4,
  // Alone no ground for a challenge: deleted objects and eager health checks miss too.
  capBits: 8,
  discharged: false,
  readOutcome: (outcome, { baseline, population, session }) => {
    const error = isProbing(outcome.status, outcome.grpcStatus);
    if (error === undefined) return absent("no status");
    const chance = population.curves.error.chance(baseline.figures, NOVELTY_AT.error);
    const ordinary = Math.min(
      0.95,
      session.errorRun > 0 ? Math.max(chance, population.errorRuns.again(session.errorRun)) : chance,
    );
    const thief = 0.5;
    if (!error) return present(bitsOf(1 - thief, 1 - ordinary), "", "");
    return present(bitsOf(thief, ordinary), `status ${outcome.status ?? outcome.grpcStatus}`, "answers without error");
  },
};

export const usageBytes: Signal = {
  name: "usage.bytes",
  summary:
    "Response bytes against the principal's own scale; how far sizes range is learned, and large answers that follow large ones weigh less.",
  gathering: "sum",
  halfLifeMs: HOUR_MS,
  capBits: 16,
  discharged: false,
  readOutcome: (outcome, { baseline, population, session }) => {
    if (outcome.responseBytes === undefined) return absent("no size");
    if (centreCount(baseline.figures, CENTRE_AT.bytes) < SCALE_MIN) return absent("size still being learned");
    const doublings = Math.log2(outcome.responseBytes + 64) - centreMean(baseline.figures, CENTRE_AT.bytes);
    const large = doublings >= LARGE_DOUBLINGS;
    const lumped = outcome.time - session.lastLargeMs < HOUR_MS;
    const again = population.largeAfterLarge.value();
    const bits = !lumped
      ? tailBits(population.bytes.atLeast(doublings))
      : large
        ? bitsOf(THIEF_LARGE_AGAIN, again)
        : bitsOf(1 - THIEF_LARGE_AGAIN, 1 - again);
    if (bits <= 0) return present(bits, "", "");
    return present(
      bits,
      `${outcome.responseBytes} bytes`,
      `about ${Math.round(Math.max(0, 2 ** centreMean(baseline.figures, CENTRE_AT.bytes) - 64))}`,
    );
  },
};

export const usageHour: Signal = {
  name: "usage.hour",
  summary: "An hour of the day (UTC) at which the principal is not active, after a week of history.",
  gathering: "hold",
  halfLifeMs: HOUR_MS,
  capBits: 3,
  discharged: false,
  read: ({ baseline, facts, session }) => {
    if (baseline === undefined || facts.time - baseline.firstSeenMs < 7 * DAY_MS)
      return absent("less than a week seen");
    if (session.requests > 0) return NOTHING;
    const hour = Math.floor(facts.time / HOUR_MS) % 24;
    let total = 0;
    for (let i = 0; i < HOURS; i++) total += baseline.figures[HOURS_AT + i] as number;
    const bits = bitsOf(1 / 24, ((baseline.figures[HOURS_AT + hour] as number) + 1) / (total + 24));
    return bits <= 0 ? NOTHING : present(bits, `active at ${hour}:00 UTC`, "its usual hours");
  },
};

/** Whether an answer is of the kind that probing collects; undefined without a status. Server errors are not. */
export function isProbing(status: number | undefined, grpcStatus: number | undefined): boolean | undefined {
  if (grpcStatus !== undefined && grpcStatus !== 0) {
    // NOT_FOUND, PERMISSION_DENIED, UNIMPLEMENTED, UNAUTHENTICATED, INVALID_ARGUMENT
    return grpcStatus === 5 || grpcStatus === 7 || grpcStatus === 12 || grpcStatus === 16 || grpcStatus === 3;
  }
  if (status === undefined || status === 0) return undefined;
  return status === 401 || status === 403 || status === 404 || status === 405;
}
