/** Locks in force: who and what is refused whatever the score, with a bounded table and quick matching. */

import { OperatingError } from "../model/errors.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { Identity } from "../model/identity.ts";
import type { LockTable } from "../model/line.ts";
import type { Lock, LockScope } from "../model/policy.ts";
import type { EpochMs } from "../model/units.ts";
import { type AddressRange, parseRange, rangeContains } from "./range.ts";

/** Parts of a scope, and how a request is asked for each. Exact parts first: the table is indexed by the first one set. */
const EXACT = ["credential", "certificate", "principal", "fingerprint", "destination"] as const;

interface Entry {
  readonly lock: Lock;
  readonly range: AddressRange | undefined;
}

export class Locks implements LockTable {
  private readonly byId = new Map<string, Entry>();
  private readonly index = new Map<string, Set<Entry>>();
  private readonly locksMax: number;

  constructor(locksMax: number) {
    this.locksMax = locksMax;
  }

  get size(): number {
    return this.byId.size;
  }

  list(now: EpochMs): readonly Lock[] {
    return [...this.byId.values()].map((entry) => entry.lock).filter((lock) => isInForce(lock, now));
  }

  add(lock: Lock): void {
    const entry: Entry = { lock, range: checkScope(lock.scope) };
    if (!this.byId.has(lock.id) && this.byId.size >= this.locksMax) {
      this.removeExpired(lock.setAtMs);
      if (this.byId.size >= this.locksMax) {
        throw new OperatingError("ERR_LOCK_INVALID", `locks: expected at most ${this.locksMax}, the table is full`);
      }
    }
    this.remove(lock.id);
    this.byId.set(lock.id, entry);
    const key = keyOf(lock.scope);
    const bucket = this.index.get(key);
    if (bucket === undefined) this.index.set(key, new Set([entry]));
    else bucket.add(entry);
  }

  remove(id: string): boolean {
    const entry = this.byId.get(id);
    if (entry === undefined) return false;
    this.byId.delete(id);
    const key = keyOf(entry.lock.scope);
    const bucket = this.index.get(key);
    bucket?.delete(entry);
    if (bucket?.size === 0) this.index.delete(key);
    return true;
  }

  /** The lock in force that matches the request, if any. */
  match(facts: RequestFacts, identity: Identity, now: EpochMs): Lock | undefined {
    if (this.byId.size === 0) return undefined;
    for (const part of EXACT) {
      for (const value of valuesOf(part, facts, identity)) {
        const found = this.matchIn(this.index.get(`${part}=${value}`), facts, identity, now);
        if (found !== undefined) return found;
      }
    }
    return this.matchIn(this.index.get("address"), facts, identity, now);
  }

  private matchIn(
    bucket: Set<Entry> | undefined,
    facts: RequestFacts,
    identity: Identity,
    now: EpochMs,
  ): Lock | undefined {
    if (bucket === undefined) return undefined;
    for (const entry of bucket) {
      if (isInForce(entry.lock, now) && matches(entry, facts, identity)) return entry.lock;
    }
    return undefined;
  }

  private removeExpired(now: number): void {
    for (const { lock } of [...this.byId.values()]) if (!isInForce(lock, now)) this.remove(lock.id);
  }
}

/** Tables of policies' own locks, made once for each policy. */
const tables = new WeakMap<readonly Lock[], Locks>();

/** Locks that are put into a table in one step. */
const STEP_LOCKS = 16;

/**
 * Makes the table of a policy's own locks before it is asked for, in small steps. A policy of 10,000 locks would
 * otherwise keep its first request waiting.
 */
export function* indexPolicyLocks(locks: readonly Lock[]): Generator<void, void> {
  if (locks.length === 0 || tables.has(locks)) return;
  const table = new Locks(locks.length);
  for (const [index, lock] of locks.entries()) {
    table.add(lock);
    if (index % STEP_LOCKS === STEP_LOCKS - 1) yield;
  }
  tables.set(locks, table);
}

/** The lock in force among the policy's own that matches the request, if any. */
export function matchPolicyLocks(
  locks: readonly Lock[],
  facts: RequestFacts,
  identity: Identity,
  now: EpochMs,
): Lock | undefined {
  if (locks.length === 0) return undefined;
  if (!tables.has(locks)) for (const _ of indexPolicyLocks(locks));
  return tables.get(locks)?.match(facts, identity, now);
}

function isInForce(lock: Lock, now: number): boolean {
  return lock.expiresAtMs === undefined || now < lock.expiresAtMs;
}

function matches({ lock, range }: Entry, facts: RequestFacts, identity: Identity): boolean {
  for (const part of EXACT) {
    const wanted = lock.scope[part];
    if (wanted !== undefined && !valuesOf(part, facts, identity).includes(wanted)) return false;
  }
  if (range === undefined) return true;
  return facts.sourceAddress !== undefined && rangeContains(range, facts.sourceAddress);
}

function valuesOf(part: (typeof EXACT)[number], facts: RequestFacts, identity: Identity): readonly string[] {
  switch (part) {
    case "principal":
      return identity.second === undefined
        ? [identity.principal.name]
        : [identity.principal.name, identity.second.name];
    case "credential":
      return [identity.credential];
    case "certificate": {
      const { certificate } = facts.presented;
      if (certificate === undefined) return [];
      return certificate.serial === undefined ? [certificate.sha256] : [certificate.sha256, certificate.serial];
    }
    case "fingerprint":
      return [facts.tls.ja4, facts.tls.ja3].filter((value) => value !== undefined);
    case "destination":
      return [facts.destination];
  }
}

function keyOf(scope: LockScope): string {
  for (const part of EXACT) if (scope[part] !== undefined) return `${part}=${scope[part]}`;
  return "address";
}

function checkScope(scope: LockScope): AddressRange | undefined {
  const named = EXACT.some((part) => scope[part] !== undefined) || scope.address !== undefined;
  if (!named) throw new OperatingError("ERR_LOCK_INVALID", "lock scope: expected at least one part, got none");
  if (scope.address === undefined) return undefined;
  const range = parseRange(scope.address);
  if (range === undefined) {
    throw new OperatingError(
      "ERR_LOCK_INVALID",
      `lock scope address: expected an address or CIDR range, got ${JSON.stringify(scope.address.slice(0, 60))}`,
    );
  }
  return range;
}
