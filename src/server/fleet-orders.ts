/** What the control plane orders, carried out here: its locks and posture facts; and what it is told of risk in return. */

import type { OrderChange, OrderListener, RiskTold } from "../bundle/sync/source.ts";
import { OperatingError } from "../model/errors.ts";
import type { Line } from "../model/line.ts";
import type { Lock } from "../model/policy.ts";
import { MINUTE_MS, toEpochMs } from "../model/units.ts";
import type { Verdict } from "../model/verdict.ts";

/** Ids of locks that the control plane set begin so; no others of the table do. */
const PREFIX = "fleet-";
/** Events waiting to be told; further ones are left out, and counted. */
const WAITING_MAX = 500;
/** The same of the same principal is told again only after this. */
const AGAIN_MS = 5 * MINUTE_MS;
const RECENT_MAX = 2_000;

export interface FleetOrdersOptions {
  readonly line: Pick<Line, "locks" | "posture">;
  /** Whether there is a control plane at all. */
  readonly followed: boolean;
  readonly strict: boolean;
  readonly staleAfterMs: number;
  readonly now: () => number;
  readonly monotonicMs: () => number;
  /** Changes that the job makes to locks are written with one sync. */
  readonly together: (job: () => void) => void;
  readonly onStated: (subject: string) => void;
  readonly onChange: (change: { readonly locked: number; readonly unlocked: number; readonly stated: number }) => void;
  /** A lock could not be put in force: it is not. */
  readonly onError: (lock: string, error: OperatingError) => void;
}

/** How the locks that are known here stand to those of the fleet. */
export type LockView = "none" | "fresh" | "stale";

export class FleetOrders implements OrderListener {
  private readonly options: FleetOrdersOptions;
  private heardAtMs: number | undefined;
  private readonly startedAtMs: number;
  private waiting: RiskTold[] = [];
  private readonly recent = new Map<string, number>();

  constructor(options: FleetOrdersOptions) {
    this.options = options;
    this.startedAtMs = options.monotonicMs();
  }

  /** `none`: there is no control plane. Locks of which nothing was heard since the start may be old: strict counts that. */
  view(): LockView {
    const { followed, strict, staleAfterMs, monotonicMs } = this.options;
    if (!followed) return "none";
    if (this.heardAtMs === undefined && strict) return "stale";
    return monotonicMs() - (this.heardAtMs ?? this.startedAtMs) > staleAfterMs ? "stale" : "fresh";
  }

  /** Seconds since the control plane was last heard; `undefined`: not since the start. */
  silentSeconds(): number | undefined {
    return this.heardAtMs === undefined ? undefined : (this.options.monotonicMs() - this.heardAtMs) / 1_000;
  }

  /** Whether every request is to be denied, because a lock may be missing. */
  refuses(): boolean {
    return this.options.strict && this.view() === "stale";
  }

  heard(): void {
    this.heardAtMs = this.options.monotonicMs();
  }

  orders({ whole, locks, posture, removed }: OrderChange): void {
    const { line, now, together, onChange } = this.options;
    const before = new Map(
      line.locks
        .list(toEpochMs(now()))
        .filter(({ id }) => id.startsWith(PREFIX))
        .map((lock) => [lock.id, lock] as const),
    );
    let locked = 0;
    let unlocked = 0;
    together(() => {
      // What goes makes room for what comes.
      const wanted = new Set(locks.map(({ id }) => id));
      const gone = whole ? [...before.keys()].filter((id) => !wanted.has(id)) : removed;
      for (const id of gone) if (id.startsWith(PREFIX) && line.locks.remove(id)) unlocked++;
      for (const lock of locks) if (!isSame(before.get(lock.id), lock) && this.add(lock)) locked++;
    });
    for (const { subject, facts } of posture) this.state(subject, facts, whole);
    if (locked > 0 || unlocked > 0 || posture.length > 0) onChange({ locked, unlocked, stated: posture.length });
  }

  /** Facts of other names stay. Of a whole that comes again, what was stated here later counts. */
  private state(subject: string, facts: Parameters<Line["posture"]["put"]>[1], whole: boolean): void {
    const { line, onStated } = this.options;
    const known = line.posture.get(subject);
    const isLater = whole && known !== undefined && known.reportedAtMs > facts.reportedAtMs;
    line.posture.put(subject, {
      facts: isLater ? { ...facts.facts, ...known.facts } : { ...known?.facts, ...facts.facts },
      source: isLater ? known.source : facts.source,
      reportedAtMs: Math.max(known?.reportedAtMs ?? 0, facts.reportedAtMs),
    });
    onStated(subject);
  }

  private add(lock: Lock): boolean {
    if (!lock.id.startsWith(PREFIX)) return false;
    try {
      this.options.line.locks.add(lock);
      return true;
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error;
      this.options.onError(lock.id, error); // the others are put in force all the same
      return false;
    }
  }

  /** A verdict was given: what refuses a proven caller for its risk is told. Nobody else could be blamed by a forgery. */
  judged({ decision, enforced, identity, decisionId, score, time }: Verdict): void {
    const { kind, name } = identity.principal;
    if (!this.options.followed || !identity.proven || (kind !== "spiffe" && kind !== "jwt")) return;
    const what = enforced === "terminate" ? "terminated" : enforced === "deny" ? "denied" : undefined;
    // Locks and lists were somebody's decision already; a rule is not a risk.
    const isRisk = (decision.kind === "terminate" || decision.kind === "deny") && RISKS.has(decision.because);
    if (what === undefined || !isRisk || this.waiting.length >= WAITING_MAX) return;
    const key = `${what} ${name}`;
    const last = this.recent.get(key);
    if (last !== undefined && time - last < AGAIN_MS) return;
    this.recent.delete(key);
    this.recent.set(key, time);
    if (this.recent.size > RECENT_MAX) this.recent.delete(this.recent.keys().next().value as string);
    this.waiting.push({ id: decisionId, kind: what, principal: name, principalKind: kind, score, atMs: time });
  }

  /** What waits to be told, oldest first. */
  risks(): readonly RiskTold[] {
    return this.waiting;
  }

  told(events: readonly RiskTold[]): void {
    if (events.length === 0) return;
    const ids = new Set(events.map(({ id }) => id));
    this.waiting = this.waiting.filter(({ id }) => !ids.has(id));
  }
}

const RISKS: ReadonlySet<string> = new Set(["score", "challenges unanswered"]);

function isSame(known: Lock | undefined, lock: Lock): boolean {
  return known !== undefined && JSON.stringify(bare(known)) === JSON.stringify(bare(lock));
}

/** Without parts that are not set, and in one order. */
function bare({ scope, reason, setBy, setAtMs, expiresAtMs }: Lock): unknown {
  const parts = Object.entries(scope).filter(([, value]) => value !== undefined);
  return [parts.sort(([a], [b]) => (a < b ? -1 : 1)), reason, setBy, setAtMs, expiresAtMs];
}
