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

const RECENT_USES_MAX = 6;

/** The most recent few values that something was used with. Of most there is one, which needs no list. */
export class RecentUses {
  latest: string | undefined = undefined;
  latestMs = Number.NEGATIVE_INFINITY;
  /** Those before, newest last. */
  private earlier: { readonly value: string; readonly lastSeenMs: number }[] | undefined = undefined;

  /** All of them, newest last: a copy. */
  values(): readonly string[] {
    const { latest, earlier } = this;
    return [...(earlier ?? []).map(({ value }) => value), ...(latest === undefined ? [] : [latest])];
  }

  has(value: string): boolean {
    return this.latest === value || (this.earlier?.some((use) => use.value === value) ?? false);
  }

  /** Whether there is any but `value`. */
  hasOther(value: string | undefined): boolean {
    return this.latest !== undefined && (this.latest !== value || this.earlier !== undefined);
  }

  /** One that is not `value` and was used less than `withinMs` ago, if there is any: the oldest such. */
  otherWithin(value: string, now: number, withinMs: number): string | undefined {
    const other = this.earlier?.find((use) => use.value !== value && now - use.lastSeenMs < withinMs);
    if (other !== undefined) return other.value;
    return this.latest !== value && now - this.latestMs < withinMs ? this.latest : undefined;
  }

  /** Notes one use; the oldest value beyond a handful is forgotten. */
  note(value: string, now: EpochMs): void {
    if (this.latest === value) {
      this.latestMs = Math.max(this.latestMs, now);
      return;
    }
    const { latest, latestMs } = this;
    const before = this.take(value);
    if (latest !== undefined) {
      this.earlier ??= [];
      this.earlier.push({ value: latest, lastSeenMs: latestMs });
      if (this.earlier.length >= RECENT_USES_MAX) this.earlier.shift();
    }
    this.latest = value;
    this.latestMs = Math.max(before, now);
  }

  /** Takes a value out of the earlier ones; when it was used last, or long ago. */
  private take(value: string): number {
    const at = this.earlier?.findIndex((use) => use.value === value) ?? -1;
    return (at < 0 ? undefined : this.earlier?.splice(at, 1)[0]?.lastSeenMs) ?? Number.NEGATIVE_INFINITY;
  }
}

/** Where one credential has been used lately. */
export interface CredentialUse extends Aged<CredentialUse> {
  readonly id: string;
  /** Whether the store still holds it. */
  kept: boolean;
  /** When its place in the order of use was last brought up to date. */
  keptMs: number;
  requests: number;
  /** Addresses that it was used from. */
  readonly origins: RecentUses;
  /** Principals that presented it. */
  readonly principals: RecentUses;
  /** `x-request-id` of the latest use: Envoy may ask twice about one request. */
  requestId: string | undefined;
}

/** A route that is new to a principal: nobody here ever used it, or only others did. */
export type RouteNovelty = "unknown" | "foreign";

/** Length of the window in which a session's requests and routes are counted. */
export const RATE_WINDOW_MS = MINUTE_MS;

const NO_ROUTES: readonly string[] = [];

/** Routes counted in one window; further ones count as seen. */
const ROUTES_MAX = 64;

/** New routes remembered of one session: their repetition says nothing for either side while they are recent. */
const NEW_ROUTES_MAX = 16;

/**
 * How a principal stands at one origin: its challenge and what became of earlier ones. Shared by its sessions there,
 * since the answer to a challenge is another credential.
 */
export interface Standing extends Aged<Standing> {
  readonly place: Place;
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

export function newStanding(place: Place, principal: string, now: EpochMs): Standing {
  return {
    place,
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

/** The routes of one window, at most {@link ROUTES_MAX}. Most windows have one or a few, which need no set. */
export class RouteSet {
  private first: string | undefined = undefined;
  /** Replaced, never written to. */
  private others = NO_ROUTES;

  get size(): number {
    return (this.first === undefined ? 0 : 1) + this.others.length;
  }

  has(route: string): boolean {
    return this.first === route || this.others.includes(route);
  }

  /** Adds a route as long as there is room. */
  add(route: string): void {
    if (this.first === undefined) this.first = route;
    // An array of just the length needed: pushing would make room for many more.
    else if (this.size < ROUTES_MAX && !this.has(route)) this.others = this.others.concat(route);
  }

  clear(): void {
    this.first = undefined;
    this.others = NO_ROUTES;
  }

  copy(): RouteSet {
    const copy = new RouteSet();
    copy.first = this.first;
    copy.others = this.others;
    return copy;
  }
}

/** Where sessions are: an address, and a kind of client there. Told anew, it is the same place. */
export interface Place {
  readonly address: string | undefined;
  /** The cipher part of the TLS fingerprint. */
  readonly cipher: string | undefined;
  /** Product names of the user agent. */
  readonly product: string | undefined;
}

export function samePlace(a: Place, b: Place): boolean {
  return a === b || (a.address === b.address && a.cipher === b.cipher && a.product === b.product);
}

/** The same text for the same place. */
export function keyOf({ address, cipher, product }: Place): string {
  return `${address ?? "-"}|${cipher ?? "-"}|${product ?? "-"}`;
}

export interface Session extends Aged<Session> {
  /** Whether the store holds it. */
  kept: boolean;
  readonly place: Place;
  /** The use of its credential, once looked up. */
  use: CredentialUse | undefined;
  readonly principal: string;
  readonly credential: string;
  readonly standing: Standing;
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
  /** The half minute, since the epoch, in which it was last noted that its principal is at work. */
  activeSlot: number;
  /** User agent and fingerprint of the latest request: a change within the session is news, a repetition is not. */
  agent: string | undefined;
  fingerprint: string | undefined;
  /** Evidence already credited to the current window, so that one burst counts once. */
  windowRateBits: number;
  windowSpreadBits: number;
}

/** The memory of a credential where the principal stands as told. */
export function newSession(credential: string, standing: Standing, now: EpochMs): Session {
  return {
    kept: false,
    older: undefined,
    newer: undefined,
    place: standing.place,
    use: undefined,
    principal: standing.principal,
    credential,
    standing,
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
    activeSlot: 0,
    agent: undefined,
    fingerprint: undefined,
    windowRateBits: 0,
    windowSpreadBits: 0,
  };
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
  session.newRoutes = session.newRoutes.slice(1 - NEW_ROUTES_MAX).concat(route);
}
