/** All sessions and credentials in use: bounded, expiring when idle. */

import { type EpochMs, HOUR_MS } from "../model/units.ts";
import { type CredentialUse, newSession, type Session } from "./session.ts";

/** A session unused for this long is over. */
export const SESSION_IDLE_MS = HOUR_MS;

const ORIGINS_MAX = 6;

/** At most `sessionsMax` sessions and as many credentials; the least recently used is forgotten, calm ones first. */
export class SessionStore {
  evicted = 0;
  private readonly sessions = new Map<string, Session>();
  private readonly credentials = new Map<string, CredentialUse>();
  private readonly sessionsMax: number;

  constructor(sessionsMax: number) {
    this.sessionsMax = sessionsMax;
  }

  get size(): number {
    return this.sessions.size;
  }

  /** The session in use, or a new one that is not kept until {@link keep}. */
  open(key: string, principal: string, credential: string, now: EpochMs): Session {
    const found = this.sessions.get(key);
    if (found !== undefined && now - found.lastSeenMs < SESSION_IDLE_MS) return found;
    return newSession(key, principal, credential, now);
  }

  keep(session: Session): void {
    this.sessions.delete(session.key);
    this.sessions.set(session.key, session);
    if (this.sessions.size > this.sessionsMax) this.evictOne();
  }

  get(key: string): Session | undefined {
    return this.sessions.get(key);
  }

  credential(id: string): CredentialUse | undefined {
    return this.credentials.get(id);
  }

  touchCredential(id: string, address: string, now: EpochMs): void {
    let use = this.credentials.get(id);
    if (use === undefined) use = { requests: 0, origins: [] };
    else this.credentials.delete(id);
    this.credentials.set(id, use);
    use.requests++;
    const at = use.origins.findIndex((origin) => origin.address === address);
    if (at >= 0) {
      const [origin] = use.origins.splice(at, 1);
      if (origin !== undefined) {
        origin.lastSeenMs = Math.max(origin.lastSeenMs, now);
        use.origins.push(origin);
      }
    } else {
      use.origins.push({ address, lastSeenMs: now });
      if (use.origins.length > ORIGINS_MAX) use.origins.shift();
    }
    if (this.credentials.size > this.sessionsMax) {
      const oldest = this.credentials.keys().next().value;
      if (oldest !== undefined) this.credentials.delete(oldest);
    }
  }

  /** Ends every session of a principal. */
  forget(principal: string): void {
    for (const [key, session] of this.sessions) if (session.principal === principal) this.sessions.delete(key);
  }

  clear(): void {
    this.sessions.clear();
    this.credentials.clear();
  }

  /** Among the oldest few, the one without evidence goes first: a flood must not wash away a suspect. */
  private evictOne(): void {
    let victim: string | undefined;
    let looked = 0;
    for (const [key, session] of this.sessions) {
      victim ??= key;
      if (session.gathered.size === 0 && session.challenge === undefined) {
        victim = key;
        break;
      }
      if (++looked >= 16) break;
    }
    if (victim !== undefined) this.sessions.delete(victim);
    this.evicted++;
  }
}
