/** All sessions and credentials in use: bounded, expiring when idle. */

import { type Aged, AgeList } from "../baseline/age-list.ts";
import { type EpochMs, HOUR_MS, MINUTE_MS } from "../model/units.ts";
import {
  type CredentialUse,
  newSession,
  newStanding,
  type Place,
  type Session,
  type Standing,
  sessionKey,
} from "./session.ts";

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
  private readonly sessionsByAge = new AgeList<Session>();
  private readonly standingsByAge = new AgeList<Standing>();
  private readonly credentialsByAge = new AgeList<CredentialUse>();
  /** The session found last at each place: nearly always the one that is asked for next, found without making its key. */
  private readonly latest = new Map<Place, Session>();
  private readonly sessionsMax: number;

  constructor(sessionsMax: number) {
    this.sessionsMax = sessionsMax;
  }

  get size(): number {
    return this.sessions.size;
  }

  /** The session in use, or a new one that is not kept until {@link keep}. */
  open(place: Place, principal: string, credential: string, now: EpochMs): Session {
    const latest = this.latest.get(place);
    if (latest !== undefined && latest.credential === credential && latest.principal === principal) {
      if (now - latest.lastSeenMs < SESSION_IDLE_MS) return latest;
    }
    const origin = `${principal}|${place.key}`;
    const found = this.sessions.get(sessionKey(origin, credential));
    if (found !== undefined && now - found.lastSeenMs < SESSION_IDLE_MS) {
      this.noteLatest(found, place);
      return found;
    }
    const known = this.standings.get(origin);
    const isFresh = known !== undefined && (now - known.lastSeenMs < SESSION_IDLE_MS || now < known.dischargedUntilMs);
    return newSession(place, credential, isFresh ? known : newStanding(origin, principal, now), now);
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
    const use = this.useOf(session) ?? this.addCredential(session, address, now);
    if (now - use.keptMs >= KEPT_MS) {
      use.keptMs = now;
      this.credentialsByAge.renew(use);
    }
    use.requests++;
    use.requestId = requestId;
    if (address !== undefined) noteAddress(use.origins, address, now);
    noteName(use.principals, session.principal, now);
  }

  /** Ends every session of a principal. */
  forget(principal: string): void {
    for (const session of this.sessionsByAge) if (session.principal === principal) this.dropSession(session);
    for (const standing of this.standingsByAge) if (standing.principal === principal) this.dropStanding(standing);
  }

  private noteLatest(session: Session, place: Place): void {
    if (session.place !== place && this.latest.get(session.place) === session) this.latest.delete(session.place);
    session.place = place;
    this.latest.set(place, session);
  }

  private addSession(session: Session): void {
    const replaced = this.sessions.get(session.key);
    if (replaced !== undefined) this.dropSession(replaced);
    session.kept = true;
    this.sessions.set(session.key, session);
    this.sessionsByAge.add(session);
    this.noteLatest(session, session.place);
  }

  private dropSession(session: Session): void {
    session.kept = false;
    this.sessions.delete(session.key);
    this.sessionsByAge.remove(session);
    if (this.latest.get(session.place) === session) this.latest.delete(session.place);
  }

  private addStanding(standing: Standing): void {
    const replaced = this.standings.get(standing.key);
    if (replaced !== undefined) this.dropStanding(replaced);
    standing.kept = true;
    this.standings.set(standing.key, standing);
    this.standingsByAge.add(standing);
  }

  private dropStanding(standing: Standing): void {
    standing.kept = false;
    this.standings.delete(standing.key);
    this.standingsByAge.remove(standing);
  }

  private addCredential(session: Session, address: string | undefined, now: EpochMs): CredentialUse {
    const use: CredentialUse = {
      id: session.credential,
      kept: true,
      older: undefined,
      newer: undefined,
      requests: 0,
      // Arrays of just this length: pushing would make room for many more, of which most credentials have no use.
      origins: address === undefined ? [] : [{ address, lastSeenMs: now }],
      principals: [{ name: session.principal, lastSeenMs: now }],
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

/** Puts the address at the young end; the oldest beyond a handful is forgotten. */
function noteAddress(uses: CredentialUse["origins"], address: string, now: EpochMs): void {
  const last = uses[uses.length - 1];
  if (last?.address === address) last.lastSeenMs = Math.max(last.lastSeenMs, now);
  else {
    const at = uses.findIndex((use) => use.address === address);
    renew(uses, at, { address, lastSeenMs: now }, now);
  }
}

/** The same for the name of a principal. */
function noteName(uses: CredentialUse["principals"], name: string, now: EpochMs): void {
  const last = uses[uses.length - 1];
  if (last?.name === name) last.lastSeenMs = Math.max(last.lastSeenMs, now);
  else {
    const at = uses.findIndex((use) => use.name === name);
    renew(uses, at, { name, lastSeenMs: now }, now);
  }
}

/** Moves the entry at `at`, or a new one where that is none, to the young end. */
function renew<Use extends { lastSeenMs: number }>(uses: Use[], at: number, fresh: Use, now: EpochMs): void {
  const [found] = at < 0 ? [] : uses.splice(at, 1);
  const use = found ?? fresh;
  use.lastSeenMs = Math.max(use.lastSeenMs, now);
  uses.push(use);
  if (uses.length > RECENT_USES_MAX) uses.shift();
}
