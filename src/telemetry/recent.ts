/** The latest decisions, for `explain`, `tap` and the live page; bounded. */

import { type DecisionLogLabels, type LeftOut, recordOfLine, writeDecisionLine } from "./decision-line.ts";
import type { DecisionRecord } from "./decision-record.ts";
import { TextWriter } from "./text-writer.ts";

export type Listener = (record: DecisionRecord) => void;

const STORE_BYTES_MIN = 64 * 1024;
/** However long the lines are: beyond it there are fewer of them. */
const STORE_BYTES_MAX = 16 * 1024 * 1024;

/**
 * A ring of lines. Every decision comes in, and few are ever asked for: as objects they would outlive one collection of
 * garbage each, which costs more than writing them down as bytes and reading one back when somebody asks.
 */
export class RecentDecisions {
  private readonly line = new TextWriter();
  private store = Buffer.allocUnsafeSlow(STORE_BYTES_MIN);
  private head = 0;
  /** Of all decisions since the start, the first that is still there, and the next to come. */
  private first = 0;
  private next = 0;
  private readonly starts: Float64Array;
  private readonly lengths: Float64Array;
  private readonly leftOut: (LeftOut | undefined)[];
  private readonly listeners = new Set<Listener>();
  private readonly decisionsMax: number;
  private readonly labels: DecisionLogLabels;

  constructor(decisionsMax: number, labels: DecisionLogLabels) {
    this.decisionsMax = decisionsMax;
    this.labels = labels;
    this.starts = new Float64Array(decisionsMax);
    this.lengths = new Float64Array(decisionsMax);
    this.leftOut = new Array<LeftOut | undefined>(decisionsMax).fill(undefined);
  }

  /** @returns its line, as the decision log has it: good until the next one is added */
  add(record: DecisionRecord): TextWriter {
    const { line, decisionsMax } = this;
    line.begin();
    writeDecisionLine(line, record, this.labels);
    if (line.size <= STORE_BYTES_MAX / 2) {
      if (this.next - this.first === decisionsMax) this.first++;
      const at = this.placeFor(line.size);
      const slot = this.next % decisionsMax;
      line.copyTo(this.store, at);
      this.head = at + line.size;
      this.starts[slot] = at;
      this.lengths[slot] = line.size;
      this.leftOut[slot] = leftOutOf(record, this.leftOut[(this.next + decisionsMax - 1) % decisionsMax]);
      this.next++;
    }
    for (const listener of this.listeners) listener(record);
    return line;
  }

  get(decisionId: string): DecisionRecord | undefined {
    const id = `{"decision_id":${JSON.stringify(decisionId)},`;
    for (let number = this.next - 1; number >= this.first; number--) {
      const start = this.startOf(number);
      if (this.store.toString("utf8", start, start + Buffer.byteLength(id)) === id) return this.read(number);
    }
    return undefined;
  }

  /** The latest `count`, oldest first. */
  latest(count: number): readonly DecisionRecord[] {
    const records: DecisionRecord[] = [];
    for (let number = Math.max(this.first, this.next - count); number < this.next; number++) {
      records.push(this.read(number));
    }
    return records;
  }

  /** @returns a function that ends the subscription */
  subscribe(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private read(number: number): DecisionRecord {
    const start = this.startOf(number);
    const text = this.store.toString("utf8", start, start + this.lengthOf(number));
    return recordOfLine(text, this.leftOut[number % this.decisionsMax] as LeftOut);
  }

  /** Where a line of so many bytes may lie: what lay there is forgotten, or has moved to a larger store. */
  private placeFor(bytes: number): number {
    for (;;) {
      const at = this.head + bytes <= this.store.length ? this.head : 0;
      if (at + bytes <= this.store.length && !this.liesWithin(at, at + bytes)) return at;
      if (this.store.length < STORE_BYTES_MAX) this.grow(bytes);
      else this.first++;
    }
  }

  /** Whether the oldest line lies there, at least in part; lines follow each other around the store. */
  private liesWithin(start: number, end: number): boolean {
    if (this.first === this.next) return false;
    const oldest = this.startOf(this.first);
    if (oldest < end && oldest + this.lengthOf(this.first) > start) return true;
    // Going around: what lies between the head and the end of the store is older than what lies at its beginning.
    return start === 0 && this.head > 0 && oldest >= this.head;
  }

  private grow(bytes: number): void {
    const grown = Buffer.allocUnsafeSlow(Math.min(STORE_BYTES_MAX, Math.max(this.store.length * 2, bytes * 2)));
    let at = 0;
    for (let number = this.first; number < this.next; number++) {
      const start = this.startOf(number);
      const length = this.lengthOf(number);
      this.store.copy(grown, at, start, start + length);
      this.starts[number % this.decisionsMax] = at;
      at += length;
    }
    this.store = grown;
    this.head = at;
  }

  private startOf(number: number): number {
    return this.starts[number % this.decisionsMax] as number;
  }

  private lengthOf(number: number): number {
    return this.lengths[number % this.decisionsMax] as number;
  }
}

/** Policies are few: decisions of the same one share what their lines leave out. */
function leftOutOf({ shadow, policyRevision, bundle }: DecisionRecord, before: LeftOut | undefined): LeftOut {
  const same = before !== undefined && before.shadow === shadow && before.bundle === bundle;
  return same && before.policyRevision === policyRevision ? before : { shadow, policyRevision, bundle };
}
