/** Streams of receivers, and the events that they are still to have: on disk before anybody relies on them. */

import { join } from "node:path";
import { OperatingError } from "../model/errors.ts";
import type { StreamStatus } from "./events.ts";
import { Journal } from "./journal.ts";
import { record, subjectKey, subjectsMatch } from "./subjects.ts";

/** Most subjects that a receiver may add to or remove from one stream. */
export const SUBJECTS_MAX = 10_000;

export type SentKind = "risk-level-change" | "session-revoked" | "verification";

/** What a receiver agreed with us. */
export interface Stream {
  readonly id: string;
  /** The receiver's name in the configuration. */
  readonly receiver: string;
  readonly delivery:
    | { readonly method: "push"; readonly url: string; readonly authorization: string | undefined }
    | { readonly method: "poll" };
  /** `undefined`: all that there are. */
  readonly eventsRequested: readonly string[] | undefined;
  readonly description: string | undefined;
  readonly status: StreamStatus;
  readonly reason: string | undefined;
  readonly defaultSubjects: "ALL" | "NONE";
}

/** An event that a receiver is still to have. */
export interface Undelivered {
  readonly stream: string;
  readonly jti: string;
  readonly kind: SentKind;
  readonly issuedAtMs: number;
  readonly txn: string;
  readonly subject: Readonly<Record<string, unknown>>;
  readonly type: string;
  readonly payload: Readonly<Record<string, unknown>>;
}

/** One record of the journal. */
interface Entry {
  readonly stream?: Stream;
  readonly gone?: string;
  /** A subject's canonical text, and whether it was added (or removed). */
  readonly subject?: readonly [stream: string, key: string, added: boolean];
  readonly add?: readonly Undelivered[];
  /** Events that are settled, one way or another. */
  readonly settled?: readonly (readonly [stream: string, jti: string])[];
}

interface Held {
  stream: Stream;
  readonly subjects: Map<string, boolean>;
  readonly events: Map<string, Undelivered>;
  /** Events that are on their way to disk. */
  reserved: number;
}

/** What became of an event for one stream. */
export interface Placed {
  readonly stream: Stream;
  readonly outcome: "queued" | "refused_full";
  /** What had to go for it. */
  readonly instead: readonly { readonly event: Undelivered; readonly why: "superseded" | "dropped" }[];
}

export interface OutboxOptions {
  readonly folder: string | undefined;
  readonly eventsMax: number;
  readonly onDamage: (path: string, records: number) => void;
}

export class Outbox {
  private readonly options: OutboxOptions;
  private readonly journal: Journal;
  private readonly held = new Map<string, Held>();

  constructor(options: OutboxOptions) {
    this.options = options;
    this.journal = new Journal({
      path: options.folder === undefined ? undefined : join(options.folder, "transmitter.journal"),
      replay: (value) => this.take((record(value) ?? {}) as Entry),
      snapshot: () => this.snapshot(),
      onDamage: options.onDamage,
    });
  }

  open(): Promise<void> {
    return this.journal.open();
  }

  close(): Promise<void> {
    return this.journal.close();
  }

  streams(): readonly Stream[] {
    return [...this.held.values()].map(({ stream }) => stream);
  }

  stream(id: string): Stream | undefined {
    return this.held.get(id)?.stream;
  }

  /** The events that a stream is still to have, oldest first. */
  undelivered(id: string): IterableIterator<Undelivered> {
    return (this.held.get(id)?.events ?? new Map<string, Undelivered>()).values();
  }

  count(id: string): number {
    return this.held.get(id)?.events.size ?? 0;
  }

  /** Makes or changes a stream. @throws {OperatingError} ERR_STATE_UNWRITABLE */
  put(stream: Stream): Promise<void> {
    return this.write({ stream });
  }

  remove(id: string): Promise<void> {
    return this.write({ gone: id });
  }

  /** @throws {OperatingError} ERR_API when the stream has as many subjects as it may; ERR_STATE_UNWRITABLE */
  async setSubject(id: string, subject: Readonly<Record<string, unknown>>, added: boolean): Promise<void> {
    const held = this.held.get(id);
    const key = subjectKey(subject);
    if (held === undefined || held.subjects.get(key) === added) return;
    if (!held.subjects.has(key) && held.subjects.size >= SUBJECTS_MAX) {
      throw new OperatingError("ERR_API", `stream ${id}: expected at most ${SUBJECTS_MAX} subjects`);
    }
    await this.write({ subject: [id, key, added] });
  }

  /** Whether the stream's receiver wants to hear of the subject. What was said of it last counts. */
  wants(id: string, subject: Readonly<Record<string, unknown>>): boolean {
    const held = this.held.get(id);
    if (held === undefined) return false;
    const exact = held.subjects.get(subjectKey(subject));
    if (exact !== undefined) return exact;
    if (held.stream.defaultSubjects === "ALL") return true;
    // Only a complex subject can match another one than itself.
    if (subject.format !== "complex") return false;
    return [...held.subjects].some(([key, added]) => added && subjectsMatch(JSON.parse(key), subject));
  }

  /**
   * Keeps events, all or none. Once this resolves, a restart does not lose them.
   *
   * A full stream makes room: an older event of the same kind on the same subject goes, else the oldest that is no
   * `session-revoked`. When there is none, the new event is refused for this stream.
   *
   * @throws {OperatingError} ERR_STATE_UNWRITABLE
   */
  async add(events: readonly Undelivered[]): Promise<readonly Placed[]> {
    const placed: Placed[] = [];
    const kept: Undelivered[] = [];
    const settled: (readonly [string, string])[] = [];
    for (const event of events) {
      const held = this.held.get(event.stream);
      if (held === undefined) continue;
      const room = this.makeRoom(held, event);
      placed.push({ stream: held.stream, ...room });
      settled.push(...room.instead.map(({ event: gone }) => [gone.stream, gone.jti] as const));
      if (room.outcome === "queued") kept.push(event);
    }
    if (kept.length === 0 && settled.length === 0) return placed;
    for (const { stream } of kept) this.held.get(stream)!.reserved++;
    try {
      await this.write({ add: kept, settled });
    } finally {
      for (const { stream } of kept) {
        const held = this.held.get(stream);
        if (held !== undefined) held.reserved--;
      }
    }
    return placed;
  }

  /** Events that are delivered, or given up. @throws {OperatingError} ERR_STATE_UNWRITABLE */
  async settle(id: string, jtis: readonly string[]): Promise<void> {
    const held = this.held.get(id);
    const there = jtis.filter((jti) => held?.events.has(jti) === true);
    if (there.length > 0) await this.write({ settled: there.map((jti) => [id, jti] as const) });
  }

  private makeRoom(held: Held, event: Undelivered): Pick<Placed, "outcome" | "instead"> {
    if (held.events.size + held.reserved < this.options.eventsMax) return { outcome: "queued", instead: [] };
    const key = subjectKey(event.subject);
    const all = [...held.events.values()];
    const older = all.find(({ kind, subject }) => kind === event.kind && subjectKey(subject) === key);
    if (older !== undefined) return { outcome: "queued", instead: [{ event: older, why: "superseded" }] };
    const oldest = all.find(({ kind }) => kind !== "session-revoked");
    if (oldest !== undefined) return { outcome: "queued", instead: [{ event: oldest, why: "dropped" }] };
    return { outcome: "refused_full", instead: [] };
  }

  private write(entry: Entry): Promise<void> {
    return this.journal.append(entry, () => this.take(entry));
  }

  private take(entry: Entry): void {
    if (entry.stream !== undefined) {
      const held = this.held.get(entry.stream.id);
      if (held === undefined) {
        this.held.set(entry.stream.id, { stream: entry.stream, subjects: new Map(), events: new Map(), reserved: 0 });
      } else held.stream = entry.stream;
    }
    if (entry.gone !== undefined) this.held.delete(entry.gone);
    if (entry.subject !== undefined) this.held.get(entry.subject[0])?.subjects.set(entry.subject[1], entry.subject[2]);
    for (const [stream, jti] of entry.settled ?? []) this.held.get(stream)?.events.delete(jti);
    for (const event of entry.add ?? []) this.held.get(event.stream)?.events.set(event.jti, event);
  }

  private snapshot(): readonly Entry[] {
    return [...this.held.values()].flatMap(({ stream, subjects, events }): Entry[] => [
      { stream },
      ...[...subjects].map(([key, added]): Entry => ({ subject: [stream.id, key, added] })),
      ...[...events.values()].map((event): Entry => ({ add: [event] })),
    ]);
  }
}
