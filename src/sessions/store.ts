/** All sessions and credentials in use: bounded, expiring when idle. */

import { type EpochMs, HOUR_MS, MINUTE_MS } from "../model/units.ts";
import { type CredentialUse, newSession, newStanding, type Session, type Standing } from "./session.ts";

/** A session unused for this long is over. */
export const SESSION_IDLE_MS = HOUR_MS;

/** How stale an entry's place in the order of use may be. */
const KEPT_MS = MINUTE_MS;

const RECENT_USES_MAX = 6;

/** How many of the oldest are looked at for a calm one when room is needed. */
const LOOKED_MAX = 16;

/** At most `sessionsMax` sessions and as many credentials; the least recently used is forgotten, calm ones first. */
export class SessionStore {
  evicted = 0;
  private readonly sessions = new Map<string, Session>();
  private readonly standings = new Map<string, Standing>();
  private readonly credentials = new Map<string, CredentialUse>();
  private readonly sessionsMax: number;

  constructor(sessionsMax: number) {
    this.sessionsMax = sessionsMax;
  }

  get size(): number {
    return this.sessions.size;
  }

  /**
   * The session in use, or a new one that is not kept until {@link keep}.
   * @param origin stands for the principal at its origin
   */
  open(origin: string, principal: string, credential: string, now: EpochMs): Session {
    const key = `${origin}|${credential}`;
    const found = this.sessions.get(key);
    if (found !== undefined && now - found.lastSeenMs < SESSION_IDLE_MS) return found;
    const known = this.standings.get(origin);
    const isFresh = known !== undefined && (now - known.lastSeenMs < SESSION_IDLE_MS || now < known.dischargedUntilMs);
    return newSession(key, credential, isFresh ? known : newStanding(origin, principal, now), now);
  }

  keep(session: Session): void {
    const { standing } = session;
    standing.lastSeenMs = Math.max(standing.lastSeenMs, session.lastSeenMs);
    // Moving entries costs more than all else here: within a minute their place in the order is good enough.
    if (session.lastSeenMs - session.keptMs < KEPT_MS && this.standings.get(standing.key) === standing) return;
    session.keptMs = session.lastSeenMs;
    this.sessions.delete(session.key);
    this.sessions.set(session.key, session);
    if (this.sessions.size > this.sessionsMax) this.evictOne();
    this.standings.delete(standing.key);
    this.standings.set(standing.key, standing);
    if (this.standings.size > this.sessionsMax) this.evictStanding();
  }

  get(key: string): Session | undefined {
    return this.sessions.get(key);
  }

  credential(id: string): CredentialUse | undefined {
    return this.credentials.get(id);
  }

  /** Notes one admitted use of a credential. */
  touchCredential(
    id: string,
    by: { readonly address: string | undefined; readonly principal: string; readonly requestId: string | undefined },
    now: EpochMs,
  ): void {
    const use = this.credentials.get(id) ?? {
      requests: 0,
      origins: [],
      principals: [],
      requestId: undefined,
      keptMs: Number.NEGATIVE_INFINITY,
    };
    if (now - use.keptMs >= KEPT_MS) {
      use.keptMs = now;
      this.credentials.delete(id);
      this.credentials.set(id, use);
    }
    use.requests++;
    use.requestId = by.requestId;
    if (by.address !== undefined) {
      const { address } = by;
      moveToEnd(use.origins, (origin) => origin.address === address, { address, lastSeenMs: now }, now);
    }
    const name = by.principal;
    moveToEnd(use.principals, (principal) => principal.name === name, { name, lastSeenMs: now }, now);
    if (this.credentials.size > this.sessionsMax) {
      const oldest = this.credentials.keys().next().value;
      if (oldest !== undefined) this.credentials.delete(oldest);
    }
  }

  /** Ends every session of a principal. */
  forget(principal: string): void {
    for (const [key, session] of this.sessions) if (session.principal === principal) this.sessions.delete(key);
    for (const [key, standing] of this.standings) if (standing.principal === principal) this.standings.delete(key);
  }

  clear(): void {
    this.sessions.clear();
    this.standings.clear();
    this.credentials.clear();
  }

  /** Among the oldest few, the one without evidence goes first: a flood must not wash away a suspect. */
  private evictOne(): void {
    let victim: string | undefined;
    let looked = 0;
    for (const [key, session] of this.sessions) {
      victim ??= key;
      if (session.gathered.size === 0 && session.standing.challenge === undefined) {
        victim = key;
        break;
      }
      if (++looked >= LOOKED_MAX) break;
    }
    if (victim !== undefined) this.sessions.delete(victim);
    this.evicted++;
  }

  private evictStanding(): void {
    let victim: string | undefined;
    let looked = 0;
    for (const [key, standing] of this.standings) {
      victim ??= key;
      if (standing.challenge === undefined && standing.tries === 0) {
        victim = key;
        break;
      }
      if (++looked >= LOOKED_MAX) break;
    }
    if (victim !== undefined) this.standings.delete(victim);
  }
}

/** Puts the entry that fits, or a new one, at the young end; the oldest beyond a handful is forgotten. */
function moveToEnd<Entry extends { lastSeenMs: number }>(
  entries: Entry[],
  fits: (entry: Entry) => boolean,
  fresh: Entry,
  now: EpochMs,
): void {
  const at = entries.findIndex(fits);
  const [found] = at < 0 ? [] : entries.splice(at, 1);
  const entry = found ?? fresh;
  entry.lastSeenMs = Math.max(entry.lastSeenMs, now);
  entries.push(entry);
  if (entries.length > RECENT_USES_MAX) entries.shift();
}
