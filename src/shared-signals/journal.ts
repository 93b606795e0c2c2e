/** A file of records that are on disk before anybody relies on them, and that is written anew when it has grown. */

import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { OperatingError } from "../model/errors.ts";

/** The first line of a journal: format and version. */
const HEADER = "sallyport-journal 1";
/** A journal is written anew once it has this many times the records that still count, and at least so many more. */
const GROWTH = 2;
const GROWTH_MIN = 1_000;

export interface JournalOptions {
  /** `undefined`: nothing is kept. */
  readonly path: string | undefined;
  /** Takes back one record that was kept; told in the order of writing, before anything is appended. */
  readonly replay: (record: unknown) => void;
  /** All records that count now: what the journal is written anew from. */
  readonly snapshot: () => readonly unknown[];
  /** Told of records that could not be read; the others count. */
  readonly onDamage: (path: string, records: number) => void;
}

interface Waiting {
  readonly line: string;
  readonly commit: () => void;
  readonly resolve: () => void;
  readonly reject: (error: OperatingError) => void;
}

export class Journal {
  private readonly options: JournalOptions;
  private waiting: Waiting[] = [];
  private turn: Promise<void> = Promise.resolve();
  private file: FileHandle | undefined;
  private lines = 0;
  private linesMax = Number.POSITIVE_INFINITY;
  private torn = false;
  private state: "new" | "open" | "closed" = "new";

  constructor(options: JournalOptions) {
    this.options = options;
  }

  /**
   * Takes back what was kept.
   * @throws {OperatingError} ERR_STATE_INVALID when the file is of another kind, ERR_STATE_UNWRITABLE
   */
  async open(): Promise<void> {
    const { path } = this.options;
    this.state = "open";
    if (path === undefined) return;
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
      // Left by a process that died while writing.
      for (const name of readdirSync(dirname(path))) {
        if (name.startsWith(`${basename(path)}.`) && name.endsWith(".new")) rmSync(join(dirname(path), name));
      }
    } catch (cause) {
      throw unwritable(path, cause);
    }
    this.takeBack(path);
    await this.rewrite();
  }

  /**
   * Keeps a record.
   * @param commit called once the record is on disk, before the next one is written: the moment to change memory
   * @throws {OperatingError} ERR_STATE_UNWRITABLE; `commit` was not called then
   */
  append(record: unknown, commit: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ line: lineOf(record), commit, resolve, reject });
      // Whatever waits when its turn comes goes to disk at once.
      if (this.waiting.length === 1) this.turn = this.turn.then(() => this.flush());
    });
  }

  /** Waits for what is being written. */
  async close(): Promise<void> {
    this.state = "closed";
    await this.turn;
    await this.file?.close();
    this.file = undefined;
  }

  private takeBack(path: string): void {
    if (statSync(path, { throwIfNoEntry: false }) === undefined) return;
    const lines = readFileSync(path, "utf8").split("\n");
    if (lines[0] !== HEADER) {
      // Fails to a fresh start, loudly: a file of another kind is not believed in part, and not overwritten.
      renameSync(path, `${path}.unusable`);
      this.options.onDamage(`${path}.unusable`, lines.length);
      return;
    }
    let damaged = 0;
    for (const line of lines.slice(1)) {
      if (line === "") continue;
      const record = recordOf(line);
      if (record === undefined) damaged++;
      else this.options.replay(record.value);
    }
    if (damaged > 0) this.options.onDamage(path, damaged);
  }

  private async flush(): Promise<void> {
    const batch = this.waiting.splice(0);
    const { path } = this.options;
    try {
      // What was kept before must have been taken back: writing anew would lose it.
      if (this.state !== "open") throw new Error(this.state === "new" ? "it is not open yet" : "it is closed");
      if (path !== undefined) {
        if (this.torn || this.file === undefined) await this.rewrite();
        this.torn = true;
        await this.file!.appendFile(batch.map(({ line }) => line).join(""));
        await this.file!.datasync();
        this.torn = false;
        this.lines += batch.length;
      }
    } catch (cause) {
      // Fails closed: nobody may rely on these; what may be half-written is written anew before the next record.
      for (const { reject } of batch) reject(unwritable(path ?? "", cause));
      return;
    }
    for (const { commit, resolve } of batch) {
      commit();
      resolve();
    }
    if (this.lines > this.linesMax) await this.rewrite().catch(() => {}); // the old file is whole and goes on growing
  }

  private async rewrite(): Promise<void> {
    const path = this.options.path!;
    const records = this.options.snapshot();
    const beside = `${path}.${randomBytes(6).toString("hex")}.new`;
    try {
      const file = await open(beside, "wx", 0o600);
      try {
        await file.writeFile(`${HEADER}\n${records.map(lineOf).join("")}`);
        await file.datasync();
      } finally {
        await file.close();
      }
      await rename(beside, path);
      await syncFolder(dirname(path));
      await this.file?.close();
      this.file = await open(path, "a", 0o600);
    } catch (cause) {
      await rm(beside, { force: true }).catch(() => {}); // the write's own error is the one to tell
      throw unwritable(path, cause);
    }
    this.torn = false;
    this.lines = records.length;
    this.linesMax = Math.max(records.length * GROWTH, records.length + GROWTH_MIN);
  }
}

/** A rename outlives a power cut only once its folder is on disk. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function lineOf(record: unknown): string {
  const body = JSON.stringify(record);
  return `${sumOf(body)} ${body}\n`;
}

function recordOf(line: string): { readonly value: unknown } | undefined {
  const body = line.slice(17);
  if (line.slice(0, 16) !== sumOf(body)) return undefined;
  return { value: JSON.parse(body) };
}

function sumOf(body: string): string {
  return createHash("sha256").update(body).digest("hex").slice(0, 16);
}

function unwritable(path: string, cause: unknown): OperatingError {
  if (cause instanceof OperatingError) return cause;
  const why = cause instanceof Error ? cause.message : String(cause);
  return new OperatingError("ERR_STATE_UNWRITABLE", `state ${path}: cannot be written: ${why}`, { cause });
}
