/** Locks in force: who and what is refused whatever the score, with a bounded table and quick matching. */

import { type AddressRange, readAddress, readRange } from "../bundle/address.ts";
import { OperatingError } from "../model/errors.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { Identity } from "../model/identity.ts";
import type { LockChange, LockTable } from "../model/line.ts";
import type { Lock, LockScope } from "../model/policy.ts";
import type { EpochMs } from "../model/units.ts";

/** Parts of a scope that match by equality. */
const EXACT = [
  "credential",
  "certificate",
  "key",
  "principal",
  "fingerprint",
  "destination",
  "peerGroup",
] as const satisfies readonly (keyof LockScope)[];

/** Locks that have expired are taken away once in so many additions. */
const ADDITIONS_BETWEEN_SWEEPS = 256;

/**
 * Locks whose scopes have the same parts, by the values of these: a request is looked up, not compared with each lock.
 * A table has a few shapes however many locks it has; ranges of each length are a shape of their own.
 */
interface Shape {
  readonly parts: readonly (typeof EXACT)[number][];
  readonly range: Pick<AddressRange, "family" | "prefix"> | undefined;
  readonly locks: Map<string, Set<Lock>>;
  /** Values of the first part, by how many locks name them. */
  readonly firsts: Map<string, number>;
}

export class Locks implements LockTable {
  private readonly byId = new Map<string, Lock>();
  private readonly shapes = new Map<string, Shape>();
  private readonly locksMax: number;
  private readonly onChange: ((change: LockChange) => void) | undefined;
  private additions = 0;

  /** @param onChange told of every lock that is added or taken away, by whomever, once it has happened */
  constructor(locksMax: number, onChange?: (change: LockChange) => void) {
    this.locksMax = locksMax;
    this.onChange = onChange;
  }

  get size(): number {
    return this.byId.size;
  }

  list(now: EpochMs): readonly Lock[] {
    return [...this.inForce(now)];
  }

  /** The same one by one; others may be added and removed meanwhile. */
  *inForce(now: EpochMs): Generator<Lock, void> {
    for (const lock of this.byId.values()) if (isInForce(lock, now)) yield lock;
  }

  add(lock: Lock): void {
    const range = checkScope(lock.scope);
    const full = !this.byId.has(lock.id) && this.byId.size >= this.locksMax;
    if (full || ++this.additions % ADDITIONS_BETWEEN_SWEEPS === 0) this.removeExpired(lock.setAtMs);
    if (!this.byId.has(lock.id) && this.byId.size >= this.locksMax) {
      throw new OperatingError("ERR_LOCK_INVALID", `locks: expected at most ${this.locksMax}, the table is full`);
    }
    this.take(lock.id);
    this.byId.set(lock.id, lock);
    const name = shapeOf(lock.scope, range);
    let shape = this.shapes.get(name);
    if (shape === undefined) {
      const parts = EXACT.filter((part) => lock.scope[part] !== undefined);
      shape = { parts, range, locks: new Map(), firsts: new Map() };
      this.shapes.set(name, shape);
    }
    const key = keyOf(lock.scope, range);
    const bucket = shape.locks.get(key);
    if (bucket === undefined) shape.locks.set(key, new Set([lock]));
    else bucket.add(lock);
    const first = firstOf(shape, lock.scope);
    if (first !== undefined) shape.firsts.set(first, (shape.firsts.get(first) ?? 0) + 1);
    this.onChange?.({ kind: "added", lock });
  }

  remove(id: string): boolean {
    const taken = this.take(id);
    if (taken) this.onChange?.({ kind: "removed", id });
    return taken;
  }

  private take(id: string): boolean {
    const lock = this.byId.get(id);
    if (lock === undefined) return false;
    this.byId.delete(id);
    const range = lock.scope.address === undefined ? undefined : readRange(lock.scope.address);
    const name = shapeOf(lock.scope, range);
    const key = keyOf(lock.scope, range);
    const shape = this.shapes.get(name);
    const bucket = shape?.locks.get(key);
    bucket?.delete(lock);
    const first = shape === undefined ? undefined : firstOf(shape, lock.scope);
    if (shape !== undefined && first !== undefined) {
      const left = (shape.firsts.get(first) ?? 0) - 1;
      if (left > 0) shape.firsts.set(first, left);
      else shape.firsts.delete(first);
    }
    if (bucket?.size === 0) shape?.locks.delete(key);
    if (shape?.locks.size === 0) this.shapes.delete(name);
    return true;
  }

  /** The lock in force that matches the request, if any: so many look-ups as there are shapes, not locks. */
  match(facts: RequestFacts, identity: Identity, peerGroup: string | undefined, now: EpochMs): Lock | undefined {
    if (this.byId.size === 0) return undefined;
    let values: Values | undefined;
    let family: number | undefined;
    for (const shape of this.shapes.values()) {
      if (!mayMatch(shape, facts, identity, peerGroup)) continue;
      const { parts, range, locks } = shape;
      values ??= valuesOf(facts, identity, peerGroup);
      const shown = values;
      family ??= facts.sourceAddress === undefined ? 0 : readAddress(facts.sourceAddress, address);
      if (range !== undefined && range.family !== family) continue;
      let keys = [range === undefined ? "" : rangeText(address, range)];
      for (const part of parts) {
        keys = keys.flatMap((key) => shown[part].map((value) => `${key}\n${value}`));
      }
      for (const key of keys) {
        for (const lock of locks.get(key) ?? []) if (isInForce(lock, now)) return lock;
      }
    }
    return undefined;
  }

  private removeExpired(now: number): void {
    for (const lock of [...this.byId.values()]) if (!isInForce(lock, now)) this.remove(lock.id);
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
  peerGroup: string | undefined,
  now: EpochMs,
): Lock | undefined {
  if (locks.length === 0) return undefined;
  if (!tables.has(locks)) for (const _ of indexPolicyLocks(locks));
  return tables.get(locks)?.match(facts, identity, peerGroup, now);
}

function isInForce(lock: Lock, now: number): boolean {
  return lock.expiresAtMs === undefined || now < lock.expiresAtMs;
}

/** Words of the address that is looked for; read anew for each request that needs it. */
const address = new Uint32Array(4);

function firstOf({ parts }: Shape, scope: LockScope): string | undefined {
  const [part] = parts;
  return part === undefined ? undefined : scope[part];
}

/** Whether any lock of a shape names what the request shows of its first part: most requests show nothing that is locked. */
function mayMatch(
  { parts, firsts }: Shape,
  facts: RequestFacts,
  identity: Identity,
  peerGroup: string | undefined,
): boolean {
  const { certificate } = facts.presented;
  const has = (value: string | undefined): boolean => value !== undefined && firsts.has(value);
  switch (parts[0]) {
    case "credential":
      return firsts.has(identity.credential);
    case "certificate":
      return has(certificate?.sha256) || has(certificate?.serial);
    case "key":
      return has(certificate?.keySha256);
    case "principal":
      return firsts.has(identity.principal.name) || has(identity.second?.name);
    case "fingerprint":
      return has(facts.tls.ja4) || has(facts.tls.ja3);
    case "destination":
      return firsts.has(facts.destination);
    case "peerGroup":
      return has(peerGroup);
    default:
      return true; // a range alone
  }
}

type Values = Readonly<Record<(typeof EXACT)[number], readonly string[]>>;

/** What a request shows, by the parts that locks may name. */
function valuesOf(facts: RequestFacts, identity: Identity, peerGroup: string | undefined): Values {
  const { certificate } = facts.presented;
  return {
    credential: [identity.credential],
    certificate: given(certificate?.sha256, certificate?.serial),
    key: given(certificate?.keySha256),
    principal: given(identity.principal.name, identity.second?.name),
    fingerprint: given(facts.tls.ja4, facts.tls.ja3),
    destination: [facts.destination],
    peerGroup: given(peerGroup),
  };
}

function given(...values: readonly (string | undefined)[]): readonly string[] {
  return values.filter((value) => value !== undefined);
}

/** Names the shape of a scope. */
function shapeOf(scope: LockScope, range: AddressRange | undefined): string {
  const parts = EXACT.filter((part) => scope[part] !== undefined).join();
  return range === undefined ? parts : `${parts}/${range.family}/${range.prefix}`;
}

/** The values of a scope, in the order in which {@link Locks.match} puts those of a request together. */
function keyOf(scope: LockScope, range: AddressRange | undefined): string {
  const address = range === undefined ? "" : rangeText(range.words, range);
  return EXACT.reduce((key, part) => (scope[part] === undefined ? key : `${key}\n${scope[part]}`), address);
}

/** The first bits of an address, as text. */
function rangeText(words: ArrayLike<number>, { family, prefix }: Pick<AddressRange, "family" | "prefix">): string {
  let text = "";
  for (let index = family === 4 ? 3 : 0, left = prefix; index < 4; index++, left -= 32) {
    const mask = left >= 32 ? 0xffffffff : left <= 0 ? 0 : (0xffffffff << (32 - left)) >>> 0;
    text += `${((words[index] as number) & mask) >>> 0}.`;
  }
  return text;
}

function checkScope(scope: LockScope): AddressRange | undefined {
  const named = EXACT.some((part) => scope[part] !== undefined) || scope.address !== undefined;
  if (!named) throw new OperatingError("ERR_LOCK_INVALID", "lock scope: expected at least one part, got none");
  if (scope.address === undefined) return undefined;
  const range = readRange(scope.address);
  if (range === undefined) {
    throw new OperatingError(
      "ERR_LOCK_INVALID",
      `lock scope address: expected an address or CIDR range, got ${JSON.stringify(scope.address.slice(0, 60))}`,
    );
  }
  return range;
}
