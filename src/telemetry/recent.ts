/** The latest decisions, for `explain`, `tap` and the live page; bounded. */

import type { DecisionRecord } from "./decision-record.ts";

export type Listener = (record: DecisionRecord) => void;

export class RecentDecisions {
  private readonly byId = new Map<string, DecisionRecord>();
  private readonly listeners = new Set<Listener>();
  private readonly decisionsMax: number;

  constructor(decisionsMax: number) {
    this.decisionsMax = decisionsMax;
  }

  add(record: DecisionRecord): void {
    this.byId.set(record.decisionId, record);
    if (this.byId.size > this.decisionsMax) {
      const oldest = this.byId.keys().next().value;
      if (oldest !== undefined) this.byId.delete(oldest);
    }
    for (const listener of this.listeners) listener(record);
  }

  get(decisionId: string): DecisionRecord | undefined {
    return this.byId.get(decisionId);
  }

  /** The latest `count`, oldest first. */
  latest(count: number): readonly DecisionRecord[] {
    return count <= 0 ? [] : [...this.byId.values()].slice(-count);
  }

  /** @returns a function that ends the subscription */
  subscribe(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}
