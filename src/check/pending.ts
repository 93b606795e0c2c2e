/** What a verdict still waits for: to be learned from, and for the outcome that the access log brings later. */

import type { RequestFacts } from "../model/facts.ts";
import type { Policy } from "../model/policy.ts";
import type { Session } from "../sessions/session.ts";
import type { Origin } from "../signals/origin.ts";

export interface Pending {
  readonly facts: RequestFacts;
  readonly policy: Policy;
  readonly session: Session;
  readonly origin: Origin;
  readonly route: string;
  /** Total evidence, for calibration. */
  readonly bits: number;
  /** Whether the request may teach, and whether it makes its values ordinary at once. */
  readonly teaches: boolean;
  readonly settles: boolean;
  /** Whether it goes on being strange after its challenge was answered. */
  readonly suspect: boolean;
  /** Whether the credential had been used from another address, judged before this use was counted. */
  readonly moved: boolean;
  /** Whether another principal had used it within the hour; `undefined` after a session's first request. */
  readonly shared: boolean | undefined;
  readonly newSignals: readonly string[];
  /** Counts of the rate window that this request closed, if it closed one. */
  readonly closedWindow: { readonly requests: number; readonly routes: number } | undefined;
  learned: boolean;
  /** Bits already credited for the bytes of a stream that is still open. */
  bytesBits: number;
}

/** Verdicts that still await their outcome, by decision id and by request id; bounded, the oldest goes first. */
export class PendingTable {
  private readonly byId = new Map<string, Pending>();
  private readonly requestsMax: number;

  constructor(requestsMax: number) {
    this.requestsMax = requestsMax;
  }

  add(decisionId: string, pending: Pending): void {
    this.byId.set(decisionId, pending);
    if (pending.facts.requestId !== undefined) this.byId.set(`request:${pending.facts.requestId}`, pending);
    while (this.byId.size > this.requestsMax * 2) {
      const oldest = this.byId.keys().next().value;
      if (oldest === undefined) break;
      this.byId.delete(oldest);
    }
  }

  find(decisionId: string | undefined, requestId: string | undefined): Pending | undefined {
    return (
      (decisionId === undefined ? undefined : this.byId.get(decisionId)) ??
      (requestId === undefined ? undefined : this.byId.get(`request:${requestId}`))
    );
  }

  /** Moves an open stream to the young end, so that the flow of short requests does not push it out. */
  keep(decisionId: string, pending: Pending): void {
    this.delete(decisionId, pending);
    this.add(decisionId, pending);
  }

  delete(decisionId: string | undefined, pending: Pending): void {
    if (decisionId !== undefined) this.byId.delete(decisionId);
    if (pending.facts.requestId !== undefined) this.byId.delete(`request:${pending.facts.requestId}`);
  }
}
