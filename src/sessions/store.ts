/** All sessions and credentials in use: bounded, expiring when idle. */

import { type Aged, AgeList } from "../baseline/age-list.ts";
import { type EpochMs, HOUR_MS, MINUTE_MS } from "../model/units.ts";
import { PlacedTable } from "./placed-table.ts";
import {
  type CredentialUse,
  newSession,
  newStanding,
  type Place,
  RecentUses,
  type Session,
  type Standing,
} from "./session.ts";

/** A session unused for this long is over. */
export const SESSION_IDLE_MS = HOUR_MS;

/** How stale an entry's place in the order of use may be. */
const KEPT_MS = MINUTE_MS;

/** How many of the oldest are looked at for a calm one when room is needed. */
const LOOKED_MAX = 16;

/** At most `sessionsMax` sessions and as many credentials; the least recently used is forgotten, calm ones first. */
export class SessionStore {
  evicted = 0;
  /** By credential. */
  private readonly sessions = new PlacedTable<Session>();
  /** By principal. */
  private readonly standings = new PlacedTable<Standing>();
  private readonly credentials = new Map<string, CredentialUse>();
  private readonly sessionsByAge = new AgeList<Session>();
  private readonly standingsByAge = new AgeList<Standing>();
  private readonly credentialsByAge = new AgeList<CredentialUse>();
  private readonly sessionsMax: number;

  constructor(sessionsMax: number) {
    this.sessionsMax = sessionsMax;
  }

  get size(): number {
    return this.sessions.size;
  }

  /** The session in use, or a new one that is not kept until {@link keep}. */
  open(place: Place, principal: string, credential: string, now: EpochMs): Session {
    const found = this.sessions.get(credential, principal, place);
    if (found !== undefined && now - found.lastSeenMs < SESSION_IDLE_MS) return found;
    const known = this.standings.get(principal, principal, place);
    const isFresh = known !== undefined && (now - known.lastSeenMs < SESSION_IDLE_MS || now < known.dischargedUntilMs);
    return newSession(credential, isFresh ? known : newStanding(place, principal, now), now);
  }

  keep(session: Session): void {
    const { standing } = session;
    standing.lastSeenMs = Math.max(standing.lastSeenMs, session.lastSeenMs);
    // Within a minute their place in the order is good enough.
    if (session.lastSeenMs - session.keptMs < KEPT_MS && standing.kept) return;
    session.keptMs = session.lastSeenMs;
    if (session.kept) this.sessionsByAge.renew(session);
    else this.addSession(session);
    if (this.sessions.size > this.sessionsMax) this.evictOne();
    if (standing.kept) this.standingsByAge.renew(standing);
    else this.addStanding(standing);
    if (this.standings.size > this.sessionsMax) this.evictStanding();
  }

  credential(id: string): CredentialUse | undefined {
    return this.credentials.get(id);
  }

  /** The use of a session's credential; `undefined` before the first admitted one. */
  useOf(session: Session): CredentialUse | undefined {
    if (session.use?.kept !== true) session.use = this.credentials.get(session.credential);
    return session.use;
  }

  /** Notes one admitted use of a session's credential. */
  touchCredential(session: Session, address: string | undefined, requestId: string | undefined, now: EpochMs): void {
    const use = this.useOf(session) ?? this.addCredential(session, now);
    if (now - use.keptMs >= KEPT_MS) {
      use.keptMs = now;
      this.credentialsByAge.renew(use);
    }
    use.requests++;
    use.requestId = requestId;
    if (address !== undefined) use.origins.note(address, now);
    use.principals.note(session.principal, now);
  }

  /** Ends every session of a principal. */
  forget(principal: string): void {
    for (const session of this.sessionsByAge) if (session.principal === principal) this.dropSession(session);
    for (const standing of this.standingsByAge) if (standing.principal === principal) this.dropStanding(standing);
  }

  private addSession(session: Session): void {
    const { credential, principal, place } = session;
    const replaced = this.sessions.get(credential, principal, place);
    if (replaced !== undefined) this.dropSession(replaced);
    session.kept = true;
    this.sessions.set(credential, session);
    this.sessionsByAge.add(session);
  }

  private dropSession(session: Session): void {
    session.kept = false;
    this.sessions.delete(session.credential, session);
    this.sessionsByAge.remove(session);
  }

  private addStanding(standing: Standing): void {
    const { principal, place } = standing;
    const replaced = this.standings.get(principal, principal, place);
    if (replaced !== undefined) this.dropStanding(replaced);
    standing.kept = true;
    this.standings.set(principal, standing);
    this.standingsByAge.add(standing);
  }

  private dropStanding(standing: Standing): void {
    standing.kept = false;
    this.standings.delete(standing.principal, standing);
    this.standingsByAge.remove(standing);
  }

  private addCredential(session: Session, now: EpochMs): CredentialUse {
    const use: CredentialUse = {
      id: session.credential,
      kept: true,
      older: undefined,
      newer: undefined,
      requests: 0,
      origins: new RecentUses(),
      principals: new RecentUses(),
      requestId: undefined,
      keptMs: now,
    };
    this.credentials.set(use.id, use);
    this.credentialsByAge.add(use);
    session.use = use;
    const { oldest } = this.credentialsByAge;
    if (this.credentials.size > this.sessionsMax && oldest !== undefined) {
      oldest.kept = false;
      this.credentials.delete(oldest.id);
      this.credentialsByAge.remove(oldest);
    }
    return use;
  }

  /** Among the oldest few, the one without evidence goes first: a flood must not wash away a suspect. */
  private evictOne(): void {
    const isCalm = ({ gathered, standing }: Session) => gathered === undefined && standing.challenge === undefined;
    const victim = calmOf(this.sessionsByAge, isCalm);
    if (victim !== undefined) this.dropSession(victim);
    this.evicted++;
  }

  private evictStanding(): void {
    const victim = calmOf(this.standingsByAge, ({ challenge, tries }) => challenge === undefined && tries === 0);
    if (victim !== undefined) this.dropStanding(victim);
  }
}

/** The first calm entry among the oldest few, else the oldest. */
function calmOf<Entry extends Aged<Entry>>(list: AgeList<Entry>, isCalm: (entry: Entry) => boolean): Entry | undefined {
  let entry = list.oldest;
  for (let looked = 0; entry !== undefined && looked < LOOKED_MAX; looked++, entry = entry.newer) {
    if (isCalm(entry)) return entry;
  }
  return list.oldest;
}
