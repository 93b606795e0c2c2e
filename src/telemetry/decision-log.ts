/** The decision log: one JSON line per decision, in the shape of OPA's decision logs. */

import { createWriteStream, type WriteStream } from "node:fs";
import { OperatingError } from "../model/errors.ts";
import { type DecisionLogLabels, decisionLine } from "./decision-line.ts";
import type { DecisionRecord } from "./decision-record.ts";

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
  private readonly labels: DecisionLogLabels;
  private readonly owned: WriteStream | undefined;
  private broken = false;
  /** Lines not yet handed on, as bytes, and how many bytes they are. */
  private gathered = Buffer.allocUnsafe(GATHERED_BYTES);
  private gatheredBytes = 0;
  private timer: NodeJS.Timeout | undefined;

  /**
   * @param target `stdout` or a file path, appended to
   * @param onError told once, when lines can no longer be written; decisions go on without them
   */
  constructor(target: string, labels: DecisionLogLabels, onError: (error: OperatingError) => void) {
    this.labels = labels;
    this.owned = target === "stdout" ? undefined : createWriteStream(target, { flags: "a", mode: 0o640 });
    this.stream = this.owned ?? process.stdout;
    this.stream.on("error", (cause: Error) => {
      if (this.broken) return;
      this.broken = true;
      onError(new OperatingError("ERR_STATE_UNWRITABLE", `decision log ${target}: ${cause.message}`, { cause }));
    });
  }

  /** @returns whether the line will be written; otherwise it is dropped */
  write(record: DecisionRecord): boolean {
    if (this.broken || (this.stream.writableLength ?? 0) > BUFFERED_BYTES_MAX) return false;
    const line = decisionLine(record, this.labels);
    // No character takes more than three bytes of UTF-8 for each of its UTF-16 units.
    const bytesMax = line.length * 3 + 1;
    if (this.gatheredBytes + bytesMax > GATHERED_BYTES) this.flush();
    if (bytesMax > GATHERED_BYTES) {
      this.stream.write(`${line}\n`);
      return true;
    }
    this.gatheredBytes += this.gathered.write(line, this.gatheredBytes);
    this.gathered[this.gatheredBytes++] = NEW_LINE;
    this.timer ??= setTimeout(() => this.flush(), GATHERED_MS_MAX).unref();
    return true;
  }

  /** Hands on what was gathered, in one write. */
  private flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.gatheredBytes > 0 && !this.broken) {
      this.stream.write(this.gathered.subarray(0, this.gatheredBytes));
      this.gathered = Buffer.allocUnsafe(GATHERED_BYTES);
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
