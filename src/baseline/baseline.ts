/** What has been learned of one principal's ordinary behaviour, and of all principals of this sidecar together. */

import { zeros } from "../model/numbers.ts";
import type { EpochMs } from "../model/units.ts";
import { newOwnTotals, type OwnTotals } from "../score/calibration.ts";
import type { Aged } from "./age-list.ts";
import { Habit, KnownValues } from "./habit.ts";
import { NoveltyCurve, type NoveltyOwn, newNoveltyOwn, Runs, Share } from "./novelty.ts";
import { RouteTemplates } from "./route.ts";
import { type Centre, newCentre, Tail } from "./tail.ts";

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

/** New routes remembered of a principal's day: deploys bring a few, a thief who drifts slowly would bring many. */
const NEW_ROUTES_PER_DAY = 8;

export type HabitName = keyof typeof HABIT_SIZES;

export const HABIT_NAMES = Object.keys(HABIT_SIZES) as readonly HabitName[];

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

export interface Baseline extends Aged<Baseline> {
  readonly principal: string;
  /** Whether a store holds it: what was forgotten is not taught any more. */
  kept: boolean;
  firstSeenMs: number;
  lastSeenMs: number;
  requests: number;
  readonly habits: { readonly [name in HabitName]: Habit };
  readonly novelty: { readonly [name in NoveltyName]: NoveltyOwn };
  /** log2 of requests per rate window of one session. */
  readonly rate: Centre;
  /** log2 of response bytes. */
  readonly bytes: Centre;
  /** log2 of distinct routes per rate window. */
  readonly spread: Centre;
  /** Totals of evidence that its ordinary requests reached. */
  readonly totals: OwnTotals;
  /** How many days the principal was active in each hour of the day, UTC; fading. */
  readonly hours: number[];
  /** The latest hour counted, in hours since the epoch. */
  lastHour: number;
}

export function newBaseline(principal: string, now: EpochMs): Baseline {
  return {
    principal,
    kept: false,
    older: undefined,
    newer: undefined,
    firstSeenMs: now,
    lastSeenMs: now,
    requests: 0,
    // Written out: objects of one known shape are small and quick to make, and newcomers may be many.
    habits: {
      address: new Habit(HABIT_SIZES.address),
      network: new Habit(HABIT_SIZES.network),
      block: new Habit(HABIT_SIZES.block),
      country: new Habit(HABIT_SIZES.country),
      fingerprint: new Habit(HABIT_SIZES.fingerprint),
      cipher: new Habit(HABIT_SIZES.cipher),
      agent: new Habit(HABIT_SIZES.agent),
      product: new Habit(HABIT_SIZES.product),
      route: new Habit(HABIT_SIZES.route, NEW_ROUTES_PER_DAY),
      destination: new Habit(HABIT_SIZES.destination),
    },
    novelty: {
      address: newNoveltyOwn(),
      fingerprint: newNoveltyOwn(),
      agent: newNoveltyOwn(),
      unknown: newNoveltyOwn(),
      foreign: newNoveltyOwn(),
      destination: newNoveltyOwn(),
      move: newNoveltyOwn(),
      error: newNoveltyOwn(),
    },
    rate: newCentre(),
    bytes: newCentre(),
    spread: newCentre(),
    totals: newOwnTotals(),
    hours: zeros(24),
    lastHour: 0,
  };
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
