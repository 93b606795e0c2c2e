/** What a verdict still waits for: to be learned from, and for the outcome that the access log brings later. */

import { type Aged, AgeList } from "../baseline/age-list.ts";
import type { Baseline } from "../baseline/baseline.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { Policy } from "../model/policy.ts";
import type { Session } from "../sessions/session.ts";
import type { Origin } from "../signals/origin.ts";

/** What learning needs of a request. */
export interface Lesson {
  readonly facts: RequestFacts;
  readonly origin: Origin;
  /** Total evidence, for calibration. */
  readonly bits: number;
  /** Whether the request makes its values ordinary at once. */
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
}

export interface Pending extends Aged<Pending> {
  readonly decisionId: string;
  readonly requestId: string | undefined;
  readonly destination: string;
  readonly route: string;
  readonly policy: Policy;
  readonly session: Session;
  /** The principal's baseline as it was found last; it may have been forgotten since. */
  baseline: Baseline | undefined;
  /** Whether the request may teach. */
  teaches: boolean;
  /** Gone once learned: an outcome needs none of it, and thousands wait for theirs. */
  lesson: Lesson | undefined;
  /** Bits already credited for the bytes of a stream that is still open. */
  bytesBits: number;
}

/** Verdicts that still await their outcome, by decision id and by request id; bounded, the oldest goes first. */
export class PendingTable {
  private readonly byId = new Map<string, Pending>();
  private readonly byRequest = new Map<string, Pending>();
  private readonly byAge = new AgeList<Pending>();
  private readonly requestsMax: number;

  constructor(requestsMax: number) {
    this.requestsMax = requestsMax;
  }

  add(pending: Pending): void {
    const known = this.byId.get(pending.decisionId);
    if (known !== undefined) this.drop(known);
    this.byId.set(pending.decisionId, pending);
    if (pending.requestId !== undefined) this.byRequest.set(pending.requestId, pending);
    this.byAge.add(pending);
    if (this.byAge.size > this.requestsMax) this.drop(this.byAge.oldest as Pending);
  }

  find(decisionId: string | undefined, requestId: string | undefined): Pending | undefined {
    return (
      (decisionId === undefined ? undefined : this.byId.get(decisionId)) ??
      (requestId === undefined ? undefined : this.byRequest.get(requestId))
    );
  }

  /** Moves an open stream to the young end, so that the flow of short requests does not push it out. */
  keep(pending: Pending): void {
    if (this.byId.get(pending.decisionId) === pending) this.byAge.renew(pending);
  }

  /** Forgets one that {@link find} found: altogether, or its request id alone where it was found by that. */
  delete(decisionId: string | undefined, pending: Pending): void {
    if (decisionId === undefined) this.dropRequest(pending);
    else if (this.byId.get(pending.decisionId) === pending) this.drop(pending);
  }

  private drop(pending: Pending): void {
    this.byId.delete(pending.decisionId);
    this.dropRequest(pending);
    this.byAge.remove(pending);
  }

  private dropRequest(pending: Pending): void {
    const { requestId } = pending;
    if (requestId !== undefined && this.byRequest.get(requestId) === pending) this.byRequest.delete(requestId);
  }
}
