/** What a verdict still waits for: to be learned from, and for the outcome that the access log brings later. */

import { type Aged, AgeList } from "../baseline/age-list.ts";
import type { Baseline } from "../baseline/baseline.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { Policy } from "../model/policy.ts";
import type { PeerPod } from "../model/workloads.ts";
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
  /** Whose address it came by, where that is certain; `undefined` as well when the session taught it within the hour. */
  readonly arrival: PeerPod["kind"] | undefined;
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

/**
 * Verdicts by their decision id. Every request comes in and goes out again, with an id nobody has seen before: a `Map` hashes
 * each anew and rebuilds itself all the while. Ids are ours and end in random digits, which need no hashing
 * (`npm run bench -- --only stages`). Open addressing, linear probing, and no gaps: what follows a removed one moves up.
 */
class DecisionIndex {
  private readonly slots: (Pending | undefined)[];
  private readonly mask: number;

  /** @param entriesMax at most half of the slots are ever in use */
  constructor(entriesMax: number) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(8, 2 * entriesMax + 2)));
    this.slots = new Array<Pending | undefined>(size).fill(undefined);
    this.mask = size - 1;
  }

  get(id: string): Pending | undefined {
    return this.slots[this.placeOf(id)];
  }

  set(pending: Pending): void {
    this.slots[this.placeOf(pending.decisionId)] = pending;
  }

  delete(id: string): void {
    const { slots, mask } = this;
    let gap = this.placeOf(id);
    if (slots[gap] === undefined) return;
    let at = gap;
    for (;;) {
      slots[gap] = undefined;
      let next: Pending | undefined;
      do {
        at = (at + 1) & mask;
        next = slots[at];
        if (next === undefined) return;
        // Whoever would be looked for between the gap and here stays where it is.
      } while (((at - homeOf(next.decisionId, mask)) & mask) < ((at - gap) & mask));
      slots[gap] = next;
      gap = at;
    }
  }

  /** Where an id is, or would be put. */
  private placeOf(id: string): number {
    const { slots, mask } = this;
    let at = homeOf(id, mask);
    for (let found = slots[at]; found !== undefined && found.decisionId !== id; found = slots[at]) at = (at + 1) & mask;
    return at;
  }
}

/** Random digits at the end of our ids. */
const RANDOM_CHARS = 8;

function homeOf(id: string, mask: number): number {
  let hash = 0;
  for (let i = Math.max(0, id.length - RANDOM_CHARS); i < id.length; i++) hash = Math.imul(hash, 31) + id.charCodeAt(i);
  return (hash ^ (hash >>> 15)) & mask;
}

/** With so many verdicts behind it and no outcome, a table takes it that nobody reports any. */
const UNREPORTED_MAX = 16_384;
/** How many verdicts then wait beside those that are still to be learned from. */
const UNREPORTED_WAITING = 32;

/**
 * Verdicts that still await their outcome, by decision id and by request id; bounded, the oldest goes first. Where no outcome
 * is ever reported, few are kept: thousands that wait in vain would each outlive the young generation, and that is what
 * collecting garbage costs by. The first outcome that is asked about has as many kept as ever again.
 */
export class PendingTable {
  private readonly byId: DecisionIndex;
  private readonly byRequest = new Map<string, Pending>();
  private readonly byAge = new AgeList<Pending>();
  private readonly requestsMax: number;
  /** Verdicts added since the last outcome was asked about. */
  private unreported = 0;

  constructor(requestsMax: number) {
    this.requestsMax = requestsMax;
    this.byId = new DecisionIndex(requestsMax + 1);
  }

  add(pending: Pending): void {
    const known = this.byId.get(pending.decisionId);
    if (known !== undefined) this.drop(known);
    this.byId.set(pending);
    if (pending.requestId !== undefined) this.byRequest.set(pending.requestId, pending);
    this.byAge.add(pending);
    if (this.byAge.size > this.requestsMax) this.drop(this.byAge.oldest as Pending);
    if (++this.unreported > UNREPORTED_MAX) this.dropUnreported();
  }

  /** As {@link find}, for an outcome that was reported. */
  reported(decisionId: string | undefined, requestId: string | undefined): Pending | undefined {
    this.unreported = 0;
    return this.find(decisionId, requestId);
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

  private dropUnreported(): void {
    while (this.byAge.size > UNREPORTED_WAITING) {
      const oldest = this.byAge.oldest as Pending;
      if (oldest.lesson !== undefined) return;
      this.drop(oldest);
    }
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
