/** Locks outlive the process from the moment that they are set: a journal, one line per change, synced before it counts. */

import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { join } from "node:path";
import { OperatingError } from "../model/errors.ts";
import type { LockChange, LockTable } from "../model/line.ts";
import type { Lock } from "../model/policy.ts";
import type { EpochMs } from "../model/units.ts";

const NAME = "locks.journal";

/** A journal is rewritten with the locks in force alone once it has this many lines more than there are locks. */
const STALE_LINES_MAX = 1_000;

/** What was read: the locks, and how many lines could not be used. */
export interface ReadJournal {
  /** `undefined` where no journal was ever written. */
  readonly locks: readonly Lock[] | undefined;
  /** Lines that are no change; the last one is torn when the process died while it wrote. */
  readonly unusable: number;
}

export class LockJournal {
  private readonly path: string;
  private file: number | undefined;
  private lines = 0;

  constructor(folder: string) {
    this.path = join(folder, NAME);
  }

  /** The locks that the journal leaves in force, expired ones included. */
  read(): ReadJournal {
    if (!existsSync(this.path)) return { locks: undefined, unusable: 0 };
    const locks = new Map<string, Lock>();
    let unusable = 0;
    for (const line of readFileSync(this.path, "utf8").split("\n")) {
      if (line === "") continue;
      this.lines++;
      const change = parseChange(line);
      if (change === undefined) unusable++;
      else if (change.kind === "added") locks.set(change.lock.id, change.lock);
      else locks.delete(change.id);
    }
    return { locks: [...locks.values()], unusable };
  }

  /**
   * Writes changes down, all of them with one sync.
   * @param inForce the locks in force after it, asked for only when the journal is rewritten
   * @throws {OperatingError} ERR_STATE_UNWRITABLE; the change is then not kept over a restart
   */
  append(changes: readonly LockChange[], inForce: () => readonly Lock[]): void {
    try {
      if (this.file === undefined) this.rewrite(inForce());
      else {
        writeWhole(this.file, changes.map((change) => `${JSON.stringify(change)}\n`).join(""));
        fsyncSync(this.file);
        this.lines += changes.length;
      }
      if (this.lines > STALE_LINES_MAX && this.lines > 2 * inForce().length) this.rewrite(inForce());
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new OperatingError("ERR_STATE_UNWRITABLE", `state ${this.path}: cannot be written: ${why}`, { cause });
    }
  }

  close(): void {
    if (this.file !== undefined) closeSync(this.file);
    this.file = undefined;
  }

  /** Beside, synced, renamed: a crash leaves the old journal or the new one. */
  private rewrite(locks: readonly Lock[]): void {
    const beside = `${this.path}.new`;
    const file = openSync(beside, "w", 0o600);
    try {
      for (const lock of locks) writeWhole(file, `${JSON.stringify({ kind: "added", lock } satisfies LockChange)}\n`);
      fsyncSync(file);
      renameSync(beside, this.path);
    } catch (error) {
      closeSync(file);
      throw error;
    }
    this.close();
    this.file = file;
    this.lines = locks.length;
  }
}

function writeWhole(file: number, text: string): void {
  const bytes = Buffer.from(text);
  let written = 0;
  while (written < bytes.length) written += writeSync(file, bytes, written);
}

/** `undefined` for anything else: a torn last line, or a foreign one. */
function parseChange(line: string): LockChange | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined; // keeps what the other lines say
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { kind, lock, id } = value as { kind?: unknown; lock?: Partial<Lock>; id?: unknown };
  if (kind === "removed" && typeof id === "string") return { kind, id };
  const whole =
    kind === "added" && typeof lock?.id === "string" && typeof lock.scope === "object" && lock.scope !== null;
  return whole ? { kind, lock: { expiresAtMs: undefined, ...lock } as Lock } : undefined;
}

/**
 * Makes the table what the journal says, and keeps the journal up with it from then on.
 * @param onError told when a change could not be written: it is in force, and will not outlive the process
 */
export function keepLocks(
  table: LockTable,
  journal: LockJournal,
  now: () => EpochMs,
  onError: (error: OperatingError) => void,
): LockKeeping {
  const { locks, unusable } = journal.read();
  if (unusable > 0) {
    onError(
      new OperatingError("ERR_STATE_INVALID", `locks.journal: ${unusable} lines are no changes; the others count`),
    );
  }
  if (locks !== undefined) {
    const known = new Set(locks.map(({ id }) => id));
    for (const { id } of table.list(now())) if (!known.has(id)) table.remove(id);
    for (const lock of locks) if (lock.expiresAtMs === undefined || now() < lock.expiresAtMs) table.add(lock);
  }
  let waiting: LockChange[] = [];
  let together = false;
  const flush = (): void => {
    const changes = waiting;
    waiting = [];
    if (changes.length === 0) return;
    try {
      journal.append(changes, () => table.list(now()));
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error;
      onError(error); // the locks are in force all the same
    }
  };
  return {
    keep: (change) => {
      waiting.push(change);
      const isAutomatic = change.kind === "added" && change.lock.setBy === "auto";
      if (!isAutomatic && !together) flush();
      // A storm of terminations must not wait for the disk once for each.
      else if (waiting.length === 1 && !together) setImmediate(flush);
    },
    together: (job) => {
      together = true;
      try {
        job();
      } finally {
        together = false;
        flush();
      }
    },
    flush,
  };
}

/** Keeps a journal up with a table. */
export interface LockKeeping {
  /** Takes every change of the table: on disk when this returns, automatic locks a moment later. */
  readonly keep: (change: LockChange) => void;
  /** Changes that the job makes are written with one sync, at its end. */
  readonly together: (job: () => void) => void;
  /** Writes what waits. */
  readonly flush: () => void;
}
