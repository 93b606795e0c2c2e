/** Takes one transmitter's tokens, however they come: verified, done once, remembered, then acknowledged. */

import type { SourceConfig } from "./config.ts";
import type { EventKind, StreamStatus } from "./events.ts";
import { mapSet, type Planned, type SharedSignalAction } from "./mapping.ts";
import { Received } from "./received.ts";
import type { ParsedSet, SetFault } from "./set.ts";
import type { SourceKeys } from "./source-keys.ts";
import { type Surroundings, tellError } from "./surroundings.ts";
import { verifySet } from "./verify.ts";

/** Does what the events of one token ask for. The token is acknowledged once this has resolved. */
export type Apply = (actions: readonly SharedSignalAction[]) => Promise<void>;

export type Taken =
  | { readonly kind: "acknowledged"; readonly jti: string }
  | { readonly kind: "refused"; readonly fault: SetFault }
  /** Neither: the transmitter is to send it again. */
  | { readonly kind: "not_now"; readonly why: string };

/** Most tokens of one transmitter under way at once. */
const UNDERWAY_MAX = 256;
/** How long `apply` may take. */
const APPLY_MS = 10_000;

export interface IntakeOptions {
  readonly source: SourceConfig;
  readonly surroundings: Surroundings;
  readonly keys: SourceKeys;
  readonly credentialKey: Uint8Array | undefined;
  /** Members of a complex subject that the transmitter calls critical. */
  readonly criticalMembers: () => readonly string[];
  readonly apply: Apply;
}

export class Intake {
  /** The stream's id, once it is known. */
  streamId: string | undefined;
  /** What the transmitter last said of the stream. */
  streamStatus: StreamStatus | undefined;
  lastTakenAtMs: number | undefined;
  lastVerifiedAtMs: number | undefined;
  private readonly options: IntakeOptions;
  private readonly received: Received;
  private readonly underway = new Map<string, Promise<Taken>>();
  private readonly states = new Set<string>();
  private count = 0;
  /** One token at a time: what was said later must not be done first. */
  private turn: Promise<unknown> = Promise.resolve();

  constructor(options: IntakeOptions) {
    this.options = options;
    const { source, surroundings } = options;
    this.received = new Received({
      folder: surroundings.folder,
      transmitter: source.name,
      ageMaxMs: source.maxAgeMs + 2 * source.clockToleranceMs,
      now: surroundings.now,
      onDamage: (path, records) =>
        surroundings.telling.log(
          "error",
          "shared_signals.state_damaged",
          { transmitter: source.name, path, records },
          "some of what was received is not remembered: it may count again",
        ),
    });
  }

  /** @throws {OperatingError} ERR_STATE_UNWRITABLE */
  open(): Promise<void> {
    return this.received.open();
  }

  async close(): Promise<void> {
    await this.turn.catch(() => {}); // whoever waited for it was told
    await this.received.close();
  }

  /** A verification event with this state was asked for. */
  expectState(state: string): void {
    this.states.add(state);
    while (this.states.size > STATES_MAX) this.states.delete(this.states.values().next().value as string);
  }

  /** Takes one token. Never rejects. */
  async take(token: string): Promise<Taken> {
    const { telling } = this.options.surroundings;
    const { name } = this.options.source;
    if (this.count >= UNDERWAY_MAX) return { kind: "not_now", why: "too many tokens at once" };
    this.count++;
    try {
      const taken = await this.takeOne(token);
      if (taken.kind === "refused") {
        const { err, description } = taken.fault;
        telling.count("received", { transmitter: name, outcome: "refused", err });
        telling.log("warn", "shared_signals.refused", { transmitter: name, err }, description);
      } else if (taken.kind === "not_now") {
        telling.count("received", { transmitter: name, outcome: "not_now" });
        telling.log("warn", "shared_signals.not_now", { transmitter: name }, taken.why);
      }
      return taken;
    } catch (error) {
      // Fails to a retry: nothing is acknowledged that was not done and remembered.
      telling.count("received", { transmitter: name, outcome: "not_now" });
      tellError(telling, "shared_signals.not_applied", error, { transmitter: name });
      return { kind: "not_now", why: "it could not be carried out" };
    } finally {
      this.count--;
    }
  }

  private async takeOne(token: string): Promise<Taken> {
    const { source, surroundings, keys } = this.options;
    const verified = await verifySet(token, keys, {
      issuer: source.issuer,
      audiences: source.audiences,
      algorithms: source.algorithms,
      nowMs: surroundings.now(),
      clockToleranceMs: source.clockToleranceMs,
      maxAgeMs: source.maxAgeMs,
    });
    if (verified.kind !== "good") return verified;
    const { set } = verified;
    // The same token twice at the same time: both hear what became of the first.
    const running = this.underway.get(set.jti);
    if (running !== undefined) return running;
    const next = this.turn.then(
      () => this.carryOut(set),
      () => this.carryOut(set),
    );
    this.turn = next.catch(() => {}); // told to whoever sent it; the next token has its own fate
    this.underway.set(set.jti, next);
    try {
      return await next;
    } finally {
      this.underway.delete(set.jti);
    }
  }

  private async carryOut(set: ParsedSet): Promise<Taken> {
    const { source, surroundings } = this.options;
    const { telling, now } = surroundings;
    const acknowledged: Taken = { kind: "acknowledged", jti: set.jti };
    if (this.received.has(set.jti)) {
      telling.count("received", { transmitter: source.name, outcome: "duplicate" });
      return acknowledged;
    }
    if (this.received.isForgotten(set.issuedAtMs)) {
      return {
        kind: "refused",
        fault: { err: "invalid_request", description: "iat is longer ago than is remembered" },
      };
    }
    const fault = this.checkStream(set);
    if (fault !== undefined) return { kind: "refused", fault };
    const { planned, ignored } = mapSet(set, {
      transmitter: source.name,
      scope: {
        ...source.scope,
        criticalMembers: new Set([...source.scope.criticalMembers, ...this.options.criticalMembers()]),
      },
      mapping: source.mapping,
      credentialKey: this.options.credentialKey,
      nowMs: now(),
    });
    for (const why of ignored) telling.count("ignored", { transmitter: source.name, why });
    const current = planned.filter((one) => !this.received.isOutdated(one));
    for (let i = current.length; i < planned.length; i++) {
      telling.count("ignored", { transmitter: source.name, why: "out_of_order" });
    }
    if (current.some(({ action }) => action.kind === "lock")) {
      const locks = this.received.locksWith(current);
      if (locks > source.locksMax) {
        return { kind: "not_now", why: `its locks would be ${locks}, at most ${source.locksMax} are allowed at once` };
      }
    }
    if (current.length > 0) await within(this.options.apply(current.map(({ action }) => action)), APPLY_MS);
    await this.received.remember(set, current);
    this.noteStream(set);
    this.lastTakenAtMs = now();
    telling.count("received", {
      transmitter: source.name,
      outcome: current.length > 0 ? "applied" : "nothing_to_do",
    });
    for (const one of current) this.audit(one);
    return acknowledged;
  }

  /** SSF 1.0, sections 8.1.4.1 and 8.1.5: the subject is the stream itself, the state is what we asked with. */
  private checkStream(set: ParsedSet): SetFault | undefined {
    for (const { event, subject } of set.events) {
      if (event.kind !== "verification" && event.kind !== "stream-updated") continue;
      if (subject.kind !== "opaque" || (this.streamId !== undefined && subject.id !== this.streamId)) {
        return {
          err: "invalid_request",
          description: `expected ${event.kind} with the id of the stream as its subject`,
        };
      }
      if (event.kind === "verification" && event.state !== undefined && !this.states.has(event.state)) {
        return { err: "invalid_state", description: "nobody asked for a verification with this state" };
      }
    }
    return undefined;
  }

  private noteStream(set: ParsedSet): void {
    const { source, surroundings } = this.options;
    for (const { event } of set.events) {
      if (event.kind === "verification") {
        if (event.state !== undefined) this.states.delete(event.state);
        this.lastVerifiedAtMs = surroundings.now();
      } else if (event.kind === "stream-updated") {
        this.streamStatus = event.status;
        surroundings.telling.log(
          event.status === "enabled" ? "info" : "warn",
          "shared_signals.stream_updated",
          { transmitter: source.name, status: event.status, reason: event.reason ?? "" },
          "the transmitter changed the state of its stream",
        );
      }
    }
  }

  private audit({ action }: Planned): void {
    const { source, surroundings } = this.options;
    const kind: EventKind = action.cause.event;
    surroundings.telling.log(
      "info",
      `shared_signals.${action.kind}`,
      {
        transmitter: source.name,
        event: kind,
        jti: action.cause.jti,
        ...(action.kind === "posture" ? { subject: action.subject } : { lock: action.id }),
        ...(action.kind === "lock" ? { ...action.scope, expires_at_ms: action.expiresAtMs } : {}),
      },
      "done, because a transmitter said so",
    );
  }
}

const STATES_MAX = 16;

/** Fails when the work has not ended in time; it may still end later, which is why actions are idempotent. */
async function within(work: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done within ${ms} ms`)), ms);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
