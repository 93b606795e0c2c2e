/** What has been learned of one principal's ordinary behaviour, and of all principals of this sidecar together. */

import { type Figures, zeros } from "../model/numbers.ts";
import type { EpochMs } from "../model/units.ts";
import { newOwnTotals, type OwnTotals } from "../score/calibration.ts";
import type { Aged } from "./age-list.ts";
import { HabitLimits, Habits, KnownValues } from "./habit.ts";
import { NOVELTY_FIGURES, NoveltyCurve, Runs, Share } from "./novelty.ts";
import { RouteTemplates } from "./route.ts";
import { CENTRE_FIGURES, Tail } from "./tail.ts";

/** Habits kept of each principal, with the most values each may hold. Together they bound its memory. */
export const HABIT_SIZES = {
  address: 24,
  network: 12,
  block: 8,
  country: 6,
  fingerprint: 8,
  cipher: 6,
  agent: 10,
  product: 6,
  route: 48,
  destination: 12,
} as const;

export type HabitName = keyof typeof HABIT_SIZES;

export const HABIT_NAMES = Object.keys(HABIT_SIZES) as readonly HabitName[];

/** The number of each habit. */
export const HABIT = Object.fromEntries(HABIT_NAMES.map((name, i) => [name, i])) as {
  readonly [name in HabitName]: number;
};

/** New routes remembered of a principal's day: deploys bring a few, a thief who drifts slowly would bring many. */
const NEW_ROUTES_PER_DAY = 8;

export const HABIT_LIMITS = new HabitLimits(
  HABIT_NAMES.map((name) => HABIT_SIZES[name]),
  { habit: HABIT.route, newMax: NEW_ROUTES_PER_DAY },
);

/**
 * Features whose rate of novelty is learned. Routes new to a principal are `unknown` when nobody here ever used them,
 * and `foreign` when others did; `move` is a credential at another address; `error` an answer such as probing collects.
 */
export const NOVELTY_NAMES = [
  "address",
  "fingerprint",
  "agent",
  "unknown",
  "foreign",
  "destination",
  "move",
  "error",
] as const;

export type NoveltyName = (typeof NOVELTY_NAMES)[number];

export const CENTRE_NAMES = ["rate", "bytes", "spread"] as const;

export type CentreName = (typeof CENTRE_NAMES)[number];

/** Where a principal's experience with each feature begins among its figures (`novelty.ts`). */
export const NOVELTY_AT = Object.fromEntries(NOVELTY_NAMES.map((name, i) => [name, i * NOVELTY_FIGURES])) as {
  readonly [name in NoveltyName]: number;
};
const NOVELTY_END = NOVELTY_NAMES.length * NOVELTY_FIGURES;

/**
 * Where each of its centres begins (`tail.ts`), all in log2: requests per rate window of one session, response bytes, and
 * distinct routes per rate window.
 */
export const CENTRE_AT = Object.fromEntries(
  CENTRE_NAMES.map((name, i) => [name, NOVELTY_END + i * CENTRE_FIGURES]),
) as { readonly [name in CentreName]: number };

/** Novelty and centres, in the order of their names, are its first figures. */
export const LEARNED_FIGURES = NOVELTY_END + CENTRE_NAMES.length * CENTRE_FIGURES;
const FIRST_SEEN_AT = LEARNED_FIGURES;
const LAST_SEEN_AT = FIRST_SEEN_AT + 1;

/** Where it is told how many days it was active in each hour of the day, UTC; fading, in single precision. */
export const HOURS_AT = LAST_SEEN_AT + 1;
export const HOURS = 24;

const FIGURES = HOURS_AT + HOURS;

/** What is known of one principal. There are ten thousand of them: numbers lie in one row, values in another. */
export class Baseline implements Aged<Baseline> {
  readonly principal: string;
  older: Baseline | undefined = undefined;
  newer: Baseline | undefined = undefined;
  /** Whether a store holds it: what was forgotten is not taught any more. */
  kept = false;
  requests = 0;
  /** The latest hour counted, in hours since the epoch. */
  lastHour = 0;
  readonly habits = new Habits(HABIT_LIMITS);
  readonly figures: Figures = zeros(FIGURES);
  /** Totals of evidence that its ordinary requests reached. */
  totals: OwnTotals = newOwnTotals();

  constructor(principal: string, now: EpochMs) {
    this.principal = principal;
    this.firstSeenMs = now;
    this.lastSeenMs = now;
  }

  get firstSeenMs(): number {
    return this.figures[FIRST_SEEN_AT] as number;
  }

  set firstSeenMs(ms: number) {
    this.figures[FIRST_SEEN_AT] = ms;
  }

  get lastSeenMs(): number {
    return this.figures[LAST_SEEN_AT] as number;
  }

  set lastSeenMs(ms: number) {
    this.figures[LAST_SEEN_AT] = ms;
  }
}

export function newBaseline(principal: string, now: EpochMs): Baseline {
  return new Baseline(principal, now);
}

/** What all principals teach together: the priors that stand in where one principal's own history is thin. */
export class Population {
  readonly curves: { readonly [name in NoveltyName]: NoveltyCurve } = Object.fromEntries(
    NOVELTY_NAMES.map((name) => [name, new NoveltyCurve()]),
  ) as never;

  // Conditional steps. Priors: strengths are small, so that a few dozen events of real traffic decide.
  /** A new address is also a new /24 (/48). */
  readonly networkGivenAddress = new Share(0.5, 4);
  /** A new /24 is also a new block (ASN, or /16 where no ASN is known). */
  readonly blockGivenNetwork = new Share(0.1, 4);
  readonly countryGivenBlock = new Share(0.2, 4);
  readonly cipherGivenFingerprint = new Share(0.2, 4);
  readonly productGivenAgent = new Share(0.2, 4);
  /** At a new address (deploys bring both): a new fingerprint, a new agent, a new route, an old credential. */
  readonly fingerprintAtNewAddress = new Share(0.05, 10);
  readonly agentAtNewAddress = new Share(0.1, 10);
  readonly routeAtNewAddress = new Share(0.05, 10);
  readonly oldCredentialAtNewAddress = new Share(0.3, 10);
  /** How long new routes of one kind, and errors, go on: novelty comes in lumps. */
  readonly unknownRuns = new Runs();
  readonly foreignRuns = new Runs();
  readonly errorRuns = new Runs();
  /** A session's credential was used by another principal within the hour: forwarded tokens, shared keys. */
  readonly sharedCredential = new Share(0.02, 20);
  /** A large response when the session had one within the hour. */
  readonly largeAfterLarge = new Share(0.2, 10);
  /** A request by a principal never seen before, by how many requests this sidecar has seen. */
  readonly newCaller = new NoveltyCurve();

  readonly rate = new Tail();
  readonly bytes = new Tail();
  readonly spread = new Tail();
  readonly templates = new RouteTemplates(32, 4096);
  /** Routes of this destination that anybody used. */
  readonly routes = new KnownValues(2048);
  requests = 0;
  /** Time of the first request ever learned here; far in the future before. */
  firstMs = Number.MAX_VALUE;
}
