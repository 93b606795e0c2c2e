/** What a transmitter has told before: so that nothing counts twice, or after what was said later. */

import { createHash } from "node:crypto";
import { join } from "node:path";
import { Journal } from "./journal.ts";
import type { Planned } from "./mapping.ts";
import type { ParsedSet } from "./set.ts";
import { record } from "./subjects.ts";

/** Most tokens remembered of one transmitter; beyond that the oldest are forgotten, and nothing as old is taken. */
const TOKENS_MAX = 100_000;
/** The share that is forgotten at once. */
const FORGOTTEN = TOKENS_MAX / 10;
/** Most matters whose order is remembered; the one longest unmentioned is forgotten. */
const MATTERS_MAX = 10_000;

/** One record of the journal. */
interface Record {
  /** Hash of the token's id, and when the token was issued. */
  readonly token?: readonly [hash: string, issuedAtMs: number];
  /** Tokens issued until then are not taken any more. */
  readonly floorMs?: number;
  /** When something was last said of a matter. */
  readonly matters?: readonly (readonly [key: string, atMs: number])[];
  /** Locks that were set, and until when. */
  readonly locks?: readonly (readonly [id: string, untilMs: number])[];
  readonly unlocked?: readonly string[];
}

export interface ReceivedOptions {
  readonly folder: string | undefined;
  readonly transmitter: string;
  /** Tokens issued longer ago are refused anyhow, and need not be remembered. */
  readonly ageMaxMs: number;
  readonly now: () => number;
  readonly onDamage: (path: string, records: number) => void;
}

export class Received {
  private readonly options: ReceivedOptions;
  private readonly journal: Journal;
  private readonly tokens = new Map<string, number>();
  private readonly matters = new Map<string, number>();
  private readonly locks = new Map<string, number>();
  private floorMs = Number.NEGATIVE_INFINITY;

  constructor(options: ReceivedOptions) {
    this.options = options;
    const { folder, transmitter } = options;
    this.journal = new Journal({
      path: folder === undefined ? undefined : join(folder, `received-${transmitter}.journal`),
      replay: (value) => this.take((record(value) ?? {}) as Record),
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

  /** Whether this token was acknowledged before. */
  has(jti: string): boolean {
    return this.tokens.has(hashOf(jti));
  }

  /** Whether a token is so old that it may have been forgotten. */
  isForgotten(issuedAtMs: number): boolean {
    return issuedAtMs <= this.floorMs;
  }

  /** Whether something later was said of the matter. */
  isOutdated({ matter }: Planned): boolean {
    return matter !== undefined && matter.atMs < (this.matters.get(matter.key) ?? Number.NEGATIVE_INFINITY);
  }

  /** How many locks of this transmitter would be in force with these. */
  locksWith(planned: readonly Planned[]): number {
    const now = this.options.now();
    for (const [id, untilMs] of this.locks) if (untilMs <= now) this.locks.delete(id);
    const more = new Set(planned.flatMap(({ action }) => (action.kind === "lock" ? [action.id] : [])));
    return this.locks.size + [...more].filter((id) => !this.locks.has(id)).length;
  }

  /**
   * Remembers a token and what was done for it. Once this resolves, a restart does not forget it.
   * @throws {OperatingError} ERR_STATE_UNWRITABLE
   */
  remember(set: ParsedSet, done: readonly Planned[]): Promise<void> {
    const entry: Record = {
      token: [hashOf(set.jti), set.issuedAtMs],
      matters: done.flatMap(({ matter }) => (matter === undefined ? [] : [[matter.key, matter.atMs] as const])),
      locks: done.flatMap(({ action }) => (action.kind === "lock" ? [[action.id, action.expiresAtMs] as const] : [])),
      unlocked: done.flatMap(({ action }) => (action.kind === "unlock" ? [action.id] : [])),
    };
    return this.journal.append(entry, () => this.take(entry));
  }

  private take(entry: Record): void {
    if (entry.floorMs !== undefined) this.floorMs = Math.max(this.floorMs, entry.floorMs);
    if (entry.token !== undefined) this.tokens.set(entry.token[0], entry.token[1]);
    for (const [key, atMs] of entry.matters ?? []) {
      this.matters.delete(key);
      this.matters.set(key, atMs);
    }
    for (const [id, untilMs] of entry.locks ?? []) this.locks.set(id, untilMs);
    for (const id of entry.unlocked ?? []) this.locks.delete(id);
    if (this.tokens.size > TOKENS_MAX) this.forget();
    while (this.matters.size > MATTERS_MAX) this.matters.delete(this.matters.keys().next().value as string);
  }

  private forget(): void {
    this.forgetAged();
    if (this.tokens.size <= TOKENS_MAX) return;
    const oldest = [...this.tokens].sort((a, b) => a[1] - b[1]).slice(0, FORGOTTEN);
    for (const [hash, issuedAtMs] of oldest) {
      this.tokens.delete(hash);
      this.floorMs = Math.max(this.floorMs, issuedAtMs);
    }
  }

  private forgetAged(): void {
    const horizon = this.options.now() - this.options.ageMaxMs;
    for (const [hash, issuedAtMs] of this.tokens) if (issuedAtMs < horizon) this.tokens.delete(hash);
  }

  private snapshot(): readonly Record[] {
    this.forgetAged();
    const rest: Record = { matters: [...this.matters], locks: [...this.locks] };
    const tokens = [...this.tokens].map((token): Record => ({ token }));
    const floor = Number.isFinite(this.floorMs) ? [{ floorMs: this.floorMs }] : [];
    return [...floor, rest, ...tokens];
  }
}

function hashOf(jti: string): string {
  return createHash("sha256").update(jti).digest("base64url").slice(0, 22);
}
