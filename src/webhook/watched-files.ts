/** Files that are mounted from Secrets and ConfigMaps: read together, again when they change, the last good ones kept. */

import { open } from "node:fs/promises";
import { OperatingError } from "../model/errors.ts";

/** How often the files are looked at. Kubelets bring changes within a minute or so: this adds little. */
const LOOK_MS = 2_000;

export interface WatchedOptions<Value> {
  /** In the order in which `read` gets them. */
  readonly files: readonly string[];
  /** Of each file. Secrets and ConfigMaps hold 1 MiB at most. */
  readonly bytesMax: number;
  /** Makes the value; must not reveal contents in its errors. @throws {OperatingError} for what cannot be used */
  readonly read: (contents: readonly Buffer[]) => Value;
  /** Told once per change that is in force. */
  readonly onRead: (value: Value) => void;
  /** Told once per change that cannot be used; the last good value stays in force. */
  readonly onRefused: (error: OperatingError) => void;
  /** Default 2,000. */
  readonly lookMs?: number;
}

/**
 * A value made of files.
 *
 * Contents are compared, not times: a mounted Secret is a folder of links, exchanged as a whole by renaming `..data`, and
 * a look may fall into that moment and read one file of before and one of after. Such a pair is refused by `read`
 * where its parts do not fit, and the next look finds the new one.
 */
export class WatchedFiles<Value> {
  private readonly options: WatchedOptions<Value>;
  private current: Value;
  /** Contents that were looked at last, good or not. */
  private seen: readonly Buffer[];
  /** What was wrong with the last look, so that it is told once. */
  private wrong = "";
  private looking: NodeJS.Timeout;
  private closed = false;

  private constructor(options: WatchedOptions<Value>, current: Value, seen: readonly Buffer[]) {
    this.options = options;
    this.current = current;
    this.seen = seen;
    this.looking = this.nextLook();
  }

  /**
   * Reads the files for the first time.
   * @throws {OperatingError} ERR_CONFIG_INVALID when they cannot be read, or what `read` throws
   */
  static async open<Value>(options: WatchedOptions<Value>): Promise<WatchedFiles<Value>> {
    const contents = await readAll(options);
    return new WatchedFiles(options, options.read(contents), contents);
  }

  /** The value in force. */
  get value(): Value {
    return this.current;
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.looking);
  }

  private nextLook(): NodeJS.Timeout {
    return setTimeout(() => {
      void this.look().finally(() => {
        if (!this.closed) this.looking = this.nextLook();
      });
    }, this.options.lookMs ?? LOOK_MS).unref();
  }

  private async look(): Promise<void> {
    const { read, onRead, onRefused } = this.options;
    try {
      const contents = await readAll(this.options);
      if (this.closed || same(contents, this.seen)) return;
      this.seen = contents;
      this.wrong = "";
      this.current = read(contents);
    } catch (cause) {
      // Keeps the last good value: a mount that is half exchanged is followed by a whole one.
      const error =
        cause instanceof OperatingError
          ? cause
          : new OperatingError("ERR_CONFIG_INVALID", `${this.options.files.join(", ")}: cannot be used`, { cause });
      if (this.closed || error.message === this.wrong) return;
      this.wrong = error.message;
      onRefused(error);
      return;
    }
    onRead(this.current);
  }
}

function same(one: readonly Buffer[], other: readonly Buffer[]): boolean {
  return one.every((content, index) => content.equals(other[index]!));
}

async function readAll<Value>({ files, bytesMax }: WatchedOptions<Value>): Promise<readonly Buffer[]> {
  return Promise.all(files.map((file) => readBounded(file, bytesMax)));
}

/** @throws {OperatingError} ERR_CONFIG_INVALID */
async function readBounded(path: string, bytesMax: number): Promise<Buffer> {
  const bytes = Buffer.alloc(bytesMax + 1);
  let length = 0;
  try {
    const file = await open(path);
    try {
      for (let read = -1; read !== 0 && length < bytes.length; length += read) {
        ({ bytesRead: read } = await file.read(bytes, length, bytes.length - length, length));
      }
    } finally {
      await file.close();
    }
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? "an error";
    throw new OperatingError("ERR_CONFIG_INVALID", `${path}: expected a file that can be read, got ${why}`, { cause });
  }
  if (length > bytesMax) {
    throw new OperatingError("ERR_CONFIG_INVALID", `${path}: expected at most ${bytesMax} bytes, got more`);
  }
  return bytes.subarray(0, length);
}
