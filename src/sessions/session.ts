/** The memory of one credential at work from one origin: accumulated evidence, and what it has done there. */

import type { Aged } from "../baseline/age-list.ts";
import type { ChallengeKind, ChallengePolicy } from "../model/policy.ts";
import type { EpochMs } from "../model/units.ts";
import { MINUTE_MS } from "../model/units.ts";

/** Evidence of one signal, gathered over a session, at three paces: a thief may make every request of it, or few. */
export interface Gathered {
  /** Bits under the assumption that nearly every request is a thief's. */
  all: number;
  /** Bits under the assumption that half of the requests are a thief's. */
  fast: number;
  /** Bits under the assumption that one in thirty-two is. */
  slow: number;
  atMs: number;
  seen: string;
  expected: string;
}

export interface OpenChallenge {
  readonly issuedAtMs: number;
  /** The credential that was challenged. */
  readonly credential: string;
  /** Score of the request that was challenged. */
  readonly score: number;
  /** A credential issued at or after this answers; whole seconds, as tokens tell time. */
  readonly issuedAfterMs: number;
  readonly expiresAtMs: number;
  readonly kind: ChallengeKind;
  /** What it asks for and what an answer is worth, as it was when the challenge was put. */
  readonly policy: ChallengePolicy;
}

/** Where one credential has been used lately. */
export interface CredentialUse extends Aged<CredentialUse> {
  readonly id: string;
  /** Whether the store still holds it. */
  kept: boolean;
  /** When its place in the order of use was last brought up to date. */
  keptMs: number;
  requests: number;
  /** Most recent origins, newest last; a handful. */
  readonly origins: { address: string; lastSeenMs: number }[];
  /** Most recent principals that presented it, newest last; a handful. */
  readonly principals: { name: string; lastSeenMs: number }[];
  /** `x-request-id` of the latest use: Envoy may ask twice about one request. */
  requestId: string | undefined;
}

/** A route that is new to a principal: nobody here ever used it, or only others did. */
export type RouteNovelty = "unknown" | "foreign";

/** Length of the window in which a session's requests and routes are counted. */
export const RATE_WINDOW_MS = MINUTE_MS;

/** Routes counted in one window; further ones count as seen. */
const ROUTES_MAX = 64;

/** New routes remembered of one session: their repetition says nothing for either side while they are recent. */
const NEW_ROUTES_MAX = 16;

/**
 * How a principal stands at one origin: its challenge and what became of earlier ones. Shared by its sessions there,
 * since the answer to a challenge is another credential.
 */
export interface Standing extends Aged<Standing> {
  readonly key: string;
  /** Whether the store holds it. */
  kept: boolean;
  readonly principal: string;
  lastSeenMs: number;
  challenge: OpenChallenge | undefined;
  /** Challenges put and not answered. */
  tries: number;
  /** Requests denied by their score since the last answer. */
  denials: number;
  /** Score at which the latest answered challenge was put; the next one needs clearly more. */
  answeredScore: number;
  /** Authentication context of the latest answer. */
  answeredAcr: string | undefined;
  /** Evidence of origin is discharged until then by an answered challenge. */
  dischargedUntilMs: number;
}

export function newStanding(key: string, principal: string, now: EpochMs): Standing {
  return {
    key,
    kept: false,
    older: undefined,
    newer: undefined,
    principal,
    lastSeenMs: now,
    challenge: undefined,
    tries: 0,
    denials: 0,
    answeredScore: 0,
    answeredAcr: undefined,
    dischargedUntilMs: 0,
  };
}

/** The routes of one window, at most {@link ROUTES_MAX}. Most windows have one, which needs no set. */
export class RouteSet {
  private first: string | undefined = undefined;
  private others: Set<string> | undefined = undefined;

  get size(): number {
    return (this.first === undefined ? 0 : 1) + (this.others?.size ?? 0);
  }

  has(route: string): boolean {
    return this.first === route || this.others?.has(route) === true;
  }

  /** Adds a route as long as there is room. */
  add(route: string): void {
    if (this.first === undefined) this.first = route;
    else if (this.first !== route && this.size < ROUTES_MAX) {
      this.others ??= new Set();
      this.others.add(route);
    }
  }

  clear(): void {
    this.first = undefined;
    this.others = undefined;
  }

  copy(): RouteSet {
    const copy = new RouteSet();
    copy.first = this.first;
    copy.others = this.others === undefined ? undefined : new Set(this.others);
    return copy;
  }
}

/** Names a place where sessions are: one object for one place, as long as it is remembered. */
export interface Place {
  readonly key: string;
}

export interface Session extends Aged<Session> {
  readonly key: string;
  /** Whether the store holds it. */
  kept: boolean;
  /** Where it was last found. */
  place: Place;
  /** The use of its credential, once looked up. */
  use: CredentialUse | undefined;
  readonly principal: string;
  readonly credential: string;
  readonly standing: Standing;
  readonly firstSeenMs: number;
  lastSeenMs: number;
  /** When a request of it was last judged in full. */
  judgedMs: number;
  /** When its place in the order of use was last brought up to date. */
  keptMs: number;
  requests: number;
  /** By signal; none while nothing was gathered, as in most sessions. */
  gathered: Map<string, Gathered> | undefined;
  windowStartMs: number;
  windowRequests: number;
  readonly windowRoutes: RouteSet;
  /** Routes that were new to the principal when this session first used them; the latest few. */
  newRoutes: readonly string[];
  /** How the latest route was new to the principal, if it was. */
  lastRoute: RouteNovelty | undefined;
  /** How many requests in a row were new in that way, and how many answers in a row were errors. */
  routeRun: number;
  errorRun: number;
  /** Follow-ups of a large answer: only a session's first ones teach all principals. */
  sizeLumps: number;
  lastLargeMs: number;
  /** The origin last learned, when all of it was settled, and the hour in which it was. */
  settledOrigin: object | undefined;
  settledWindow: number;
  /** The hour, since the epoch, in which it last taught by whose address it comes. */
  arrivalHour: number;
  /** User agent and fingerprint of the latest request: a change within the session is news, a repetition is not. */
  agent: string | undefined;
  fingerprint: string | undefined;
  /** Evidence already credited to the current window, so that one burst counts once. */
  windowRateBits: number;
  windowSpreadBits: number;
}

const NO_ROUTES: readonly string[] = [];

export function newSession(place: Place, credential: string, standing: Standing, now: EpochMs): Session {
  return {
    key: sessionKey(standing.key, credential),
    kept: false,
    older: undefined,
    newer: undefined,
    place,
    use: undefined,
    principal: standing.principal,
    credential,
    standing,
    firstSeenMs: now,
    lastSeenMs: now,
    judgedMs: Number.NEGATIVE_INFINITY,
    keptMs: Number.NEGATIVE_INFINITY,
    requests: 0,
    gathered: undefined,
    windowStartMs: now,
    windowRequests: 0,
    windowRoutes: new RouteSet(),
    newRoutes: NO_ROUTES,
    lastRoute: undefined,
    routeRun: 0,
    errorRun: 0,
    sizeLumps: 0,
    lastLargeMs: Number.NEGATIVE_INFINITY,
    settledOrigin: undefined,
    settledWindow: 0,
    arrivalHour: 0,
    agent: undefined,
    fingerprint: undefined,
    windowRateBits: 0,
    windowSpreadBits: 0,
  };
}

/** @param standing key of the standing at the session's place */
export function sessionKey(standing: string, credential: string): string {
  return `${standing}|${credential}`;
}

/** A copy that shares nothing with the session, for judging what would be. */
export function copyOf(session: Session): Session {
  let gathered: Map<string, Gathered> | undefined;
  if (session.gathered !== undefined) {
    gathered = new Map();
    for (const [signal, held] of session.gathered) gathered.set(signal, { ...held });
  }
  return {
    ...session,
    standing: { ...session.standing },
    gathered,
    windowRoutes: session.windowRoutes.copy(),
  };
}

/** Notes that a session used a route, and whether that was new to the principal; bounded. */
export function noteRoute(session: Session, route: string, isNew: boolean): void {
  session.windowRoutes.add(route);
  if (!isNew || session.newRoutes.includes(route)) return;
  session.newRoutes = [...session.newRoutes.slice(1 - NEW_ROUTES_MAX), route];
}
