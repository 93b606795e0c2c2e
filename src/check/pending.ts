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

/** What {@link PendingTable.add} takes down of a verdict. */
export interface Awaiting {
  readonly destination: string;
  readonly route: string;
  readonly policy: Policy;
  readonly session: Session;
  /** The principal's baseline as it was found last; it may have been forgotten since. */
  readonly baseline: Baseline | undefined;
  /** Whether the request may teach. */
  readonly teaches: boolean;
  /** Gone once learned: an outcome needs none of it, and thousands wait for theirs. */
  readonly lesson: Lesson | undefined;
}

type Writable<Value> = { -readonly [Key in keyof Value]: Value[Key] };

/** A verdict that waits. It belongs to the table, which uses it for another one as soon as it is forgotten. */
export interface Pending extends Writable<Awaiting>, Aged<Pending> {
  /** Its place in the table. */
  readonly slot: number;
  waits: boolean;
  /** Bits already credited for the bytes of a stream that is still open. */
  bytesBits: number;
}

/** Longer ids are not looked up: ours have 36 characters, and so have Envoy's request ids. */
const ID_CHARS_MAX = 64;
/** An id and its length. */
const ID_BYTES = ID_CHARS_MAX + 1;
const SLOTS_MIN = 64;
const NOTHING = undefined as never;
const EMPTY = -1;

/** Ids of one kind by slot, as bytes: as texts they would outlive the young generation, one for every request. */
class Ids {
  private bytes = Buffer.alloc(SLOTS_MIN * ID_BYTES);
  private hashes = new Int32Array(SLOTS_MIN);

  /** @returns whether it was taken down; otherwise the slot has none */
  put(slot: number, id: string | undefined): boolean {
    while (slot >= this.hashes.length) this.grow();
    const at = slot * ID_BYTES;
    this.bytes[at] = 0;
    if (id === undefined || id.length === 0 || id.length > ID_CHARS_MAX) return false;
    let hash = 0;
    for (let i = 0; i < id.length; i++) {
      const code = id.charCodeAt(i);
      if (code > 0xff) return false;
      this.bytes[at + 1 + i] = code;
      hash = Math.imul(hash ^ code, MULTIPLIER);
    }
    this.bytes[at] = id.length;
    this.hashes[slot] = mixed(hash);
    return true;
  }

  has(slot: number): boolean {
    return this.bytes[slot * ID_BYTES] !== 0;
  }

  hashOf(slot: number): number {
    return this.hashes[slot] as number;
  }

  is(slot: number, id: string, hash: number): boolean {
    if (this.hashes[slot] !== hash) return false;
    const at = slot * ID_BYTES;
    if (this.bytes[at] !== id.length) return false;
    for (let i = 0; i < id.length; i++) if (this.bytes[at + 1 + i] !== id.charCodeAt(i)) return false;
    return true;
  }

  private grow(): void {
    const bytes = Buffer.alloc(this.bytes.length * 2);
    this.bytes.copy(bytes);
    this.bytes = bytes;
    const hashes = new Int32Array(this.hashes.length * 2);
    hashes.set(this.hashes);
    this.hashes = hashes;
  }
}

/** Odd, and its bits are without pattern: 2^32 divided by the golden ratio. */
const MULTIPLIER = 0x9e3779b1;

function mixed(hash: number): number {
  return hash ^ (hash >>> 15);
}

function hashOf(id: string): number {
  let hash = 0;
  for (let i = 0; i < id.length; i++) hash = Math.imul(hash ^ id.charCodeAt(i), MULTIPLIER);
  return mixed(hash);
}

/**
 * Slots by their decision id. Every request comes in and goes out again, with an id nobody has seen before: a `Map` hashes
 * each anew and rebuilds itself all the while (`npm run bench -- --only stages`). Open addressing, linear probing, and no
 * gaps: what follows a removed one moves up. Decision ids are ours and end in random digits.
 */
class DecisionIndex {
  private readonly places: Int32Array;
  private readonly mask: number;
  private readonly ids: Ids;

  /** @param entriesMax at most half of the places are ever in use */
  constructor(entriesMax: number, ids: Ids) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(8, 2 * entriesMax + 2)));
    this.places = new Int32Array(size).fill(EMPTY);
    this.mask = size - 1;
    this.ids = ids;
  }

  get(id: string): number {
    const hash = hashOf(id);
    const { places, mask, ids } = this;
    let at = hash & mask;
    for (let slot = places[at] as number; slot !== EMPTY; slot = places[at] as number) {
      if (ids.is(slot, id, hash)) return slot;
      at = (at + 1) & mask;
    }
    return EMPTY;
  }

  /** Adds a slot, whose id is no other's. */
  add(slot: number): void {
    const { places, mask } = this;
    let at = this.ids.hashOf(slot) & mask;
    while (places[at] !== EMPTY) at = (at + 1) & mask;
    places[at] = slot;
  }

  delete(slot: number): void {
    const { places, mask, ids } = this;
    let gap = ids.hashOf(slot) & mask;
    while (places[gap] !== slot) {
      if (places[gap] === EMPTY) return;
      gap = (gap + 1) & mask;
    }
    let at = gap;
    for (;;) {
      places[gap] = EMPTY;
      let next: number;
      do {
        at = (at + 1) & mask;
        next = places[at] as number;
        if (next === EMPTY) return;
        // Whoever would be looked for between the gap and here stays where it is.
      } while (((at - (ids.hashOf(next) & mask)) & mask) < ((at - gap) & mask));
      places[gap] = next;
      gap = at;
    }
  }
}

const BUCKET_PLACES = 4;

/**
 * Slots by the id of their request, which may be the caller's choice: ids that were chosen so that they collide push one
 * another out of their few places, and cost no more than others. The newest of a bucket stands first.
 */
class RequestIndex {
  private readonly places: Int32Array;
  private readonly mask: number;
  private readonly ids: Ids;

  constructor(entriesMax: number, ids: Ids) {
    const buckets = 2 ** Math.ceil(Math.log2(Math.max(2, entriesMax / 2)));
    this.places = new Int32Array(buckets * BUCKET_PLACES).fill(EMPTY);
    this.mask = buckets - 1;
    this.ids = ids;
  }

  get(id: string): number {
    const hash = hashOf(id);
    const first = (hash & this.mask) * BUCKET_PLACES;
    for (let at = first; at < first + BUCKET_PLACES; at++) {
      const slot = this.places[at] as number;
      if (slot !== EMPTY && this.ids.is(slot, id, hash)) return slot;
    }
    return EMPTY;
  }

  add(slot: number): void {
    const first = this.bucketOf(slot);
    this.places.copyWithin(first + 1, first, first + BUCKET_PLACES - 1);
    this.places[first] = slot;
  }

  delete(slot: number): void {
    const first = this.bucketOf(slot);
    for (let at = first; at < first + BUCKET_PLACES; at++) if (this.places[at] === slot) this.places[at] = EMPTY;
  }

  private bucketOf(slot: number): number {
    return (this.ids.hashOf(slot) & this.mask) * BUCKET_PLACES;
  }
}

/**
 * Verdicts that still await their outcome, by decision id and by request id; bounded, the oldest goes first. Thousands wait
 * at any time, and each for longer than the young generation lives: what one leaves behind serves the next.
 */
export class PendingTable {
  private readonly slots: Pending[] = [];
  private readonly free: Pending[] = [];
  private readonly decisionIds = new Ids();
  private readonly requestIds = new Ids();
  private readonly byDecision: DecisionIndex;
  private readonly byRequest: RequestIndex;
  private readonly byAge = new AgeList<Pending>();
  private readonly requestsMax: number;

  constructor(requestsMax: number) {
    this.requestsMax = requestsMax;
    this.byDecision = new DecisionIndex(requestsMax + 1, this.decisionIds);
    this.byRequest = new RequestIndex(requestsMax, this.requestIds);
  }

  /** @param decisionId at most 64 characters of Latin-1; longer request ids are not looked up */
  add(decisionId: string, requestId: string | undefined, awaiting: Awaiting): Pending {
    const known = this.byDecision.get(decisionId);
    if (known !== EMPTY) this.drop(this.slots[known] as Pending);
    if (this.byAge.size >= this.requestsMax) this.drop(this.byAge.oldest as Pending);
    const pending = this.vacant(awaiting);
    const { slot } = pending;
    if (!this.decisionIds.put(slot, decisionId)) throw new RangeError(`no decision id: ${decisionId}`);
    this.byDecision.add(slot);
    if (this.requestIds.put(slot, requestId)) this.byRequest.add(slot);
    this.byAge.add(pending);
    return pending;
  }

  /** What was found may be held on to until the next one is added. */
  find(decisionId: string | undefined, requestId: string | undefined): Pending | undefined {
    let slot = decisionId === undefined ? EMPTY : this.byDecision.get(decisionId);
    if (slot === EMPTY && requestId !== undefined) slot = this.byRequest.get(requestId);
    return slot === EMPTY ? undefined : this.slots[slot];
  }

  /** Moves an open stream to the young end, so that the flow of short requests does not push it out. */
  keep(pending: Pending): void {
    if (pending.waits) this.byAge.renew(pending);
  }

  /** Forgets one that {@link find} found: altogether, or its request id alone where it was found by that. */
  delete(decisionId: string | undefined, pending: Pending): void {
    if (!pending.waits) return;
    if (decisionId === undefined) this.dropRequest(pending);
    else this.drop(pending);
  }

  private vacant(awaiting: Awaiting): Pending {
    const pending = this.free.pop();
    if (pending === undefined) {
      const slot = this.slots.length;
      const fresh = { ...awaiting, slot, waits: true, bytesBits: 0, older: undefined, newer: undefined };
      this.slots.push(fresh);
      return fresh;
    }
    pending.waits = true;
    pending.bytesBits = 0;
    pending.destination = awaiting.destination;
    pending.route = awaiting.route;
    pending.policy = awaiting.policy;
    pending.session = awaiting.session;
    pending.baseline = awaiting.baseline;
    pending.teaches = awaiting.teaches;
    pending.lesson = awaiting.lesson;
    return pending;
  }

  private drop(pending: Pending): void {
    this.byDecision.delete(pending.slot);
    this.dropRequest(pending);
    this.byAge.remove(pending);
    pending.waits = false;
    // It keeps no policy and no session in memory; nobody looks at it before it is given others.
    pending.policy = NOTHING;
    pending.session = NOTHING;
    pending.baseline = undefined;
    pending.lesson = undefined;
    this.free.push(pending);
  }

  private dropRequest({ slot }: Pending): void {
    if (!this.requestIds.has(slot)) return;
    this.byRequest.delete(slot);
    this.requestIds.put(slot, undefined);
  }
}
