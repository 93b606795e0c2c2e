/** What an admitted request teaches: the principal's habits, the curves of all principals, and the calibration. */

import {
  type Baseline,
  CENTRE_AT,
  HABIT,
  HOURS,
  HOURS_AT,
  NOVELTY_AT,
  type NoveltyName,
  type Population,
} from "../baseline/baseline.ts";
import { HABIT_HALF_LIFE_MS, SETTLE_WINDOW_MS } from "../baseline/habit.ts";
import { centreCount, centreMean, learnCentre } from "../baseline/tail.ts";
import type { Outcome } from "../model/facts.ts";
import { HOUR_MS, toEpochMs } from "../model/units.ts";
import type { RouteNovelty, Session } from "../sessions/session.ts";
import { isProbing, LARGE_DOUBLINGS } from "../signals/usage-volume.ts";
import type { Lesson, Pending } from "./pending.ts";

/** A principal's first hour makes everything it does ordinary at once: there is nothing yet to compare with. */
const FIRST_MS = HOUR_MS;

/** Everything a newcomer does is new: with fewer requests behind it there are no runs to speak of. */
const RUN_REQUESTS_MIN = 32;

/** Follow-ups of one session that may teach all principals how novelty comes in lumps: no single run sets the rule. */
const LUMPS_MAX = 3;

function maySpeak(lumpsBefore: number): boolean {
  return lumpsBefore < LUMPS_MAX;
}

/** Teaches one admitted request to the principal's baseline and to the population. */
export function teach(
  baseline: Baseline,
  population: Population,
  { route, session }: Pending,
  lesson: Lesson,
  novelCaller: boolean,
): void {
  const { facts, closedWindow } = lesson;
  const now = facts.time;
  const settle = lesson.settles || now - baseline.firstSeenMs < FIRST_MS;
  const { habits, figures } = baseline;
  const learnNovelty = (name: NoveltyName, novel: boolean) =>
    population.curves[name].learn(figures, NOVELTY_AT[name], novel);

  population.newCaller.count(population.requests, novelCaller);
  population.requests++;
  population.firstMs = Math.min(population.firstMs, now);
  // The very first request has nothing that it could differ from.
  const first = baseline.requests <= 1;
  const newAddress = learnOrigin(baseline, population, session, lesson, settle, first);
  if (lesson.shared !== undefined) population.sharedCredential.learn(lesson.shared);
  if (facts.protocol !== "tcp") {
    population.templates.learn(facts.path);
    // An answer vouches for where a caller is, never for what it does.
    const familiarity = habits.learn(HABIT.route, route, now, now - baseline.firstSeenMs < FIRST_MS);
    const isUnknown = population.routes.learn(route);
    const novelty = familiarity !== "new" || first ? undefined : isUnknown ? "unknown" : "foreign";
    if (!first) {
      // A run of new routes is one event, however long: only what begins one counts against the rate.
      learnNovelty("unknown", novelty === "unknown" && session.lastRoute !== "unknown");
      learnNovelty("foreign", novelty === "foreign" && session.lastRoute !== "foreign");
      if (newAddress) population.routeAtNewAddress.learn(novelty !== undefined);
      const repeats = novelty === undefined && session.newRoutes.includes(route);
      if (baseline.requests >= RUN_REQUESTS_MIN && !repeats) learnRun(session, population, novelty);
    }
  }
  const newDestination = habits.learn(HABIT.destination, facts.destination, now, true) === "new" && !first;
  if (!first) learnNovelty("destination", newDestination);

  learnHour(baseline, now);

  if (closedWindow !== undefined) {
    const rate = Math.log2(Math.max(1, closedWindow.requests));
    if (centreCount(figures, CENTRE_AT.rate) > 0) population.rate.learn(rate - centreMean(figures, CENTRE_AT.rate));
    learnCentre(figures, CENTRE_AT.rate, rate, now);
    const spread = Math.log2(Math.max(1, closedWindow.routes));
    if (centreCount(figures, CENTRE_AT.spread) > 0)
      population.spread.learn(spread - centreMean(figures, CENTRE_AT.spread));
    learnCentre(figures, CENTRE_AT.spread, spread, now);
  }
}

/**
 * Teaches where a request came from and with what client.
 * @returns whether the address was new to the principal
 */
function learnOrigin(
  baseline: Baseline,
  population: Population,
  session: Session,
  lesson: Lesson,
  settle: boolean,
  first: boolean,
): boolean {
  const { facts, origin, moved } = lesson;
  const now = facts.time;
  const { habits, figures } = baseline;
  const { curves } = population;
  const speaks = facts.protocol !== "tcp";
  const window = Math.floor(now / SETTLE_WINDOW_MS);
  if (session.settledOrigin === origin && session.settledWindow === window) {
    // The same settled origin in the same hour: nothing to remember, only that nothing was new.
    if (origin.address !== undefined) {
      curves.address.learn(figures, NOVELTY_AT.address, false);
      curves.move.learn(figures, NOVELTY_AT.move, moved);
    }
    if (origin.fingerprint !== undefined) curves.fingerprint.learn(figures, NOVELTY_AT.fingerprint, false);
    if (speaks) curves.agent.learn(figures, NOVELTY_AT.agent, false);
    return false;
  }
  let settled = true;
  let newAddress = false;
  if (origin.address !== undefined) {
    const familiarity = habits.learn(HABIT.address, origin.address, now, settle);
    settled &&= familiarity === "settled";
    newAddress = familiarity === "new" && !first;
    if (!first) curves.address.learn(figures, NOVELTY_AT.address, newAddress);
    const newNetwork = origin.network !== undefined && habits.learn(HABIT.network, origin.network, now, true) === "new";
    const newBlock = origin.block !== undefined && habits.learn(HABIT.block, origin.block, now, true) === "new";
    const newCountry = origin.country !== undefined && habits.learn(HABIT.country, origin.country, now, true) === "new";
    if (newAddress) {
      population.networkGivenAddress.learn(newNetwork);
      if (newNetwork && origin.block !== undefined) population.blockGivenNetwork.learn(newBlock);
      if (newBlock && origin.country !== undefined) population.countryGivenBlock.learn(newCountry);
      population.oldCredentialAtNewAddress.learn(moved);
    }
    if (!first) curves.move.learn(figures, NOVELTY_AT.move, moved);
  }
  if (origin.fingerprint !== undefined) {
    const habitual = habits.size(HABIT.fingerprint) > 0;
    const familiarity = habits.learn(HABIT.fingerprint, origin.fingerprint, now, settle);
    settled &&= familiarity === "settled";
    const novel = familiarity === "new" && habitual;
    const newCipher = origin.cipher !== undefined && habits.learn(HABIT.cipher, origin.cipher, now, true) === "new";
    if (habitual) curves.fingerprint.learn(figures, NOVELTY_AT.fingerprint, novel);
    if (novel) population.cipherGivenFingerprint.learn(newCipher);
    if (newAddress) population.fingerprintAtNewAddress.learn(novel);
  }
  if (speaks) {
    const habitual = habits.size(HABIT.agent) > 0;
    const familiarity = habits.learn(HABIT.agent, origin.agent ?? "none", now, settle);
    settled &&= familiarity === "settled";
    const novel = familiarity === "new" && habitual;
    const newProduct = habits.learn(HABIT.product, origin.product ?? "none", now, true) === "new";
    if (habitual) curves.agent.learn(figures, NOVELTY_AT.agent, novel);
    if (novel) population.productGivenAgent.learn(newProduct);
    if (newAddress) population.agentAtNewAddress.learn(novel);
  }
  session.settledOrigin = settled ? origin : undefined;
  session.settledWindow = window;
  return newAddress;
}

/** Counts an active hour once, whatever the number of requests in it. */
function learnHour(baseline: Baseline, now: number): void {
  const { figures } = baseline;
  const hours = Math.floor(now / HOUR_MS);
  if (hours <= baseline.lastHour) return;
  const fade = 2 ** ((-(hours - Math.max(0, baseline.lastHour)) * HOUR_MS) / HABIT_HALF_LIFE_MS);
  for (let at = HOURS_AT; at < HOURS_AT + HOURS; at++) figures[at] = Math.fround((figures[at] as number) * fade);
  const at = HOURS_AT + (hours % HOURS);
  figures[at] = Math.fround((figures[at] as number) + 1);
  baseline.lastHour = hours;
}

function learnRun(session: Session, population: Population, novelty: RouteNovelty | undefined): void {
  const { lastRoute } = session;
  if (lastRoute !== undefined && novelty !== lastRoute) {
    (lastRoute === "unknown" ? population.unknownRuns : population.foreignRuns).learnEnded(session.routeRun);
  }
  session.routeRun = novelty === undefined ? 0 : novelty === lastRoute ? session.routeRun + 1 : 1;
  session.lastRoute = novelty;
  if (novelty !== undefined) {
    (novelty === "unknown" ? population.unknownRuns : population.foreignRuns).learnGrown(session.routeRun);
  }
}

/** Teaches what became of an admitted request. */
export function teachOutcome(baseline: Baseline, population: Population, pending: Pending, outcome: Outcome): void {
  const { session } = pending;
  const { figures } = baseline;
  const error = isProbing(outcome.status, outcome.grpcStatus);
  if (error !== undefined) {
    if (session.errorRun === 0) population.curves.error.learn(figures, NOVELTY_AT.error, error);
    if (error) population.errorRuns.learnGrown(++session.errorRun);
    else if (session.errorRun > 0) {
      population.errorRuns.learnEnded(session.errorRun);
      session.errorRun = 0;
    }
  }
  if (outcome.responseBytes !== undefined && outcome.stage === "end") {
    const size = Math.log2(outcome.responseBytes + 64);
    if (centreCount(figures, CENTRE_AT.bytes) > 0) {
      const doublings = size - centreMean(figures, CENTRE_AT.bytes);
      const now = toEpochMs(outcome.time);
      const large = doublings >= LARGE_DOUBLINGS;
      const lumped = now - session.lastLargeMs < HOUR_MS;
      // One run of large answers is one event, however long.
      if (!lumped || !large) population.bytes.learn(doublings);
      if (lumped && maySpeak(session.sizeLumps++)) population.largeAfterLarge.learn(large);
      if (large) session.lastLargeMs = now;
    }
    learnCentre(figures, CENTRE_AT.bytes, size, toEpochMs(outcome.time));
  }
}
