/** The latest decisions, for `explain`, `tap` and the live page; bounded. */

import type { DecisionRecord } from "./decision-record.ts";

export type Listener = (record: DecisionRecord) => void;

/** A ring: every decision comes in, and few are ever asked for. */
export class RecentDecisions {
  private readonly ring: DecisionRecord[] = [];
  private oldest = 0;
  private readonly listeners = new Set<Listener>();
  private readonly decisionsMax: number;

  constructor(decisionsMax: number) {
    this.decisionsMax = decisionsMax;
  }

  add(record: DecisionRecord): void {
    if (this.ring.length < this.decisionsMax) this.ring.push(record);
    else {
      this.ring[this.oldest] = record;
      this.oldest = (this.oldest + 1) % this.decisionsMax;
    }
    for (const listener of this.listeners) listener(record);
  }

  get(decisionId: string): DecisionRecord | undefined {
    return this.ring.find((record) => record.decisionId === decisionId);
  }

  /** The latest `count`, oldest first. */
  latest(count: number): readonly DecisionRecord[] {
    if (count <= 0) return [];
    return [...this.ring.slice(this.oldest), ...this.ring.slice(0, this.oldest)].slice(-count);
  }

  /** @returns a function that ends the subscription */
  subscribe(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}
