/** The decision log: one JSON line per decision, in the shape of OPA's decision logs. */

import { createWriteStream, type WriteStream } from "node:fs";
import { OperatingError } from "../model/errors.ts";
import type { TextWriter } from "./text-writer.ts";

/** Lines held while the disk is slow; further ones are dropped and counted. */
const BUFFERED_BYTES_MAX = 16 * 1024 * 1024;

/** Lines are gathered until they are this long together … */
const GATHERED_BYTES = 256 * 1024;
/** … or the first of them is this old: what a crash can cost. */
const GATHERED_MS_MAX = 100;
const NEW_LINE = 0x0a;

/** Reads a line back, for `explain` and for tests. */
export function parseDecisionLine(line: string): { readonly decision_id: string } & Record<string, unknown> {
  const value = JSON.parse(line) as { decision_id?: unknown };
  if (typeof value.decision_id !== "string") {
    throw new OperatingError("ERR_DATA_INVALID", "decision log: expected a line with decision_id");
  }
  return value as { readonly decision_id: string } & Record<string, unknown>;
}

export class DecisionLog {
  private readonly stream: NodeJS.WritableStream & { readonly writableLength?: number };
  private readonly owned: WriteStream | undefined;
  private broken = false;
  /** Lines not yet handed on, as bytes, and how many bytes they are. */
  private gathered: Buffer = Buffer.allocUnsafeSlow(GATHERED_BYTES);
  private gatheredBytes = 0;
  /** One that was written, to gather in next: a new one each time would be megabytes of garbage a second. */
  private spare: Buffer | undefined;
  private timer: NodeJS.Timeout | undefined;

  /**
   * @param target `stdout` or a file path, appended to
   * @param onError told once, when lines can no longer be written; decisions go on without them
   */
  constructor(target: string, onError: (error: OperatingError) => void) {
    this.owned = target === "stdout" ? undefined : createWriteStream(target, { flags: "a", mode: 0o640 });
    this.stream = this.owned ?? process.stdout;
    this.stream.on("error", (cause: Error) => {
      if (this.broken) return;
      this.broken = true;
      onError(new OperatingError("ERR_STATE_UNWRITABLE", `decision log ${target}: ${cause.message}`, { cause }));
    });
  }

  /** @returns whether the line will be written; otherwise it is dropped */
  write(line: TextWriter): boolean {
    if (this.broken || (this.stream.writableLength ?? 0) > BUFFERED_BYTES_MAX) return false;
    const bytes = line.size + 1;
    if (this.gatheredBytes + bytes > GATHERED_BYTES) this.flush();
    if (bytes > GATHERED_BYTES) {
      this.stream.write(`${line.written.toString("utf8")}\n`);
      return true;
    }
    line.copyTo(this.gathered, this.gatheredBytes);
    this.gatheredBytes += bytes;
    this.gathered[this.gatheredBytes - 1] = NEW_LINE;
    this.timer ??= setTimeout(() => this.flush(), GATHERED_MS_MAX).unref();
    return true;
  }

  /** Hands on what was gathered, in one write. */
  private flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.gatheredBytes > 0 && !this.broken) {
      const full = this.gathered;
      this.gathered = this.spare ?? Buffer.allocUnsafeSlow(GATHERED_BYTES);
      this.spare = undefined;
      this.stream.write(full.subarray(0, this.gatheredBytes), () => {
        this.spare = full;
      });
    }
    this.gatheredBytes = 0;
  }

  /** Lines gathered are written before it settles. */
  async close(): Promise<void> {
    this.flush();
    const { owned } = this;
    if (owned === undefined || owned.destroyed) return;
    await new Promise<void>((resolve) => owned.end(resolve));
  }
}
