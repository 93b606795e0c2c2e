/** What all sidecars are to heed: locks of the fleet, and posture facts that others have told. Bounded, with an end. */

import { createHash } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { readRange } from "../bundle/address.ts";
import {
  type FleetLock,
  FleetLockSchema,
  type Order,
  OrderSchema,
  OrdersSchema,
} from "../gen/sallyport/control/v1/control_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { DAY_MS } from "../model/units.ts";
import type { FleetStore } from "./store.ts";

export const FLEET_LOCKS_MAX = 10_000;
/** Subjects with posture facts; the facts stated longest ago go first. */
const POSTURES_MAX = 10_000;
/** Facts say nothing to policies once they are old; the control plane forgets them then. */
const POSTURE_KEPT_MS = 7 * DAY_MS;
/** Changes that are told as such; whoever missed more is told everything. */
const CHANGES_KEPT = 1_000;
/** A message to sidecars is filled up to this. */
const MESSAGE_BYTES = 512 * 1024;
const SWEEP_MS = 1_000;
const FACTS_MAX = 64;

/** The beginning of the ids of all locks that sidecars have from the control plane. */
export const FLEET_PREFIX = "fleet-";

interface Told {
  readonly version: number;
  readonly put: readonly Order[];
  readonly removed: readonly string[];
}

export interface OrdersOptions {
  readonly store: FleetStore;
  readonly now: () => number;
  /** Told after something has changed that sidecars are to hear. */
  readonly onChange: () => void;
}

/** Follows the store's orders: what changed since when, encoded once for all sidecars. */
export class Standing {
  private readonly options: OrdersOptions;
  private readonly timer: NodeJS.Timeout;
  private known: ReadonlyMap<string, Order> = new Map();
  private changes: readonly Told[] = [];
  private version = 0;
  private stateNow: string | undefined;
  private whole: readonly Uint8Array[] | undefined;
  private readonly deltas = new Map<number, readonly Uint8Array[]>();
  private turn: Promise<unknown> = Promise.resolve();

  constructor(options: OrdersOptions) {
    this.options = options;
    this.timer = setInterval(() => this.refresh(), SWEEP_MS);
    this.timer.unref();
  }

  close(): void {
    clearInterval(this.timer);
  }

  /** Looks at the store again: another process may have changed it, and time goes on. */
  refresh(): void {
    const now = this.options.now();
    const next = new Map<string, Order>();
    for (const [id, order] of this.options.store.orders()) if (isInForce(order, now)) next.set(id, order);
    const put = [...next.values()].filter((order) => this.known.get(order.id) !== order);
    const removed = [...this.known.keys()].filter((id) => !next.has(id));
    if (put.length === 0 && removed.length === 0) return;
    this.known = next;
    this.version++;
    this.changes = [...this.changes, { version: this.version, put, removed }].slice(-CHANGES_KEPT);
    this.stateNow = undefined;
    this.whole = undefined;
    this.deltas.clear();
    this.options.onChange();
  }

  /** Names what is in force, the same in every process that has the same. */
  get state(): string {
    this.stateNow ??= stateOf(this.known.values());
    return this.stateNow;
  }

  /** Counts changes; of this process alone. */
  get current(): number {
    return this.version;
  }

  /** Messages that bring a sidecar up to now. */
  since(version: number | undefined): readonly Uint8Array[] {
    const oldest = this.changes[0]?.version ?? this.version + 1;
    if (version === undefined || version < oldest - 1) {
      this.whole ??= pack([...this.known.values()], [], true, this.state);
      return this.whole;
    }
    let delta = this.deltas.get(version);
    if (delta === undefined) {
      const put = new Map<string, Order>();
      const removed = new Set<string>();
      for (const change of this.changes) {
        if (change.version <= version) continue;
        for (const id of change.removed) {
          removed.add(id);
          put.delete(id);
        }
        for (const order of change.put) {
          put.set(order.id, order);
          removed.delete(order.id);
        }
      }
      delta = pack([...put.values()], [...removed], false, this.state);
      this.deltas.set(version, delta);
    }
    return delta;
  }

  locks(): readonly FleetLock[] {
    return [...this.known.values()].flatMap(({ what }) => (what.case === "lock" ? [what.value] : []));
  }

  /**
   * Puts locks and facts in force, and takes locks away, one change after the other.
   * @throws {OperatingError} ERR_LOCK_INVALID, and what the store throws
   */
  change(put: readonly FleetLock[], removed: readonly string[], facts: readonly StatedFacts[] = []): Promise<void> {
    const next = this.turn.then(async () => {
      const { store, now } = this.options;
      for (const lock of put) checkLock(lock);
      this.refresh();
      const ids = new Set(this.locks().map(({ id }) => id));
      for (const id of removed) ids.delete(id);
      for (const { id } of put) ids.add(id);
      if (put.length > 0 && ids.size > FLEET_LOCKS_MAX) {
        throw new OperatingError(
          "ERR_LOCK_INVALID",
          `locks: expected at most ${FLEET_LOCKS_MAX}, the fleet has as many`,
        );
      }
      const gone = [...store.orders().values()].filter((order) => !isInForce(order, now())).map(({ id }) => id);
      const orders = new Map(put.map((lock) => [lock.id, orderOf(lock)]));
      for (const stated of facts) {
        const id = postureId(stated);
        const order = factsOrder(id, stated, orders.get(id) ?? this.known.get(id));
        orders.set(id, order);
      }
      const postures = [...this.known.values()].filter(({ id, what }) => what.case === "posture" && !orders.has(id));
      const surplus = Math.max(0, postures.length + facts.length - POSTURES_MAX);
      const oldest = surplus === 0 ? [] : postures.toSorted((a, b) => endOf(a) - endOf(b)).slice(0, surplus);
      await store.order([...orders.values()], [...removed, ...gone, ...oldest.map(({ id }) => id)]);
      this.refresh();
    });
    this.turn = next.catch(() => {}); // told to whoever asked; the next change has its own fate
    return next;
  }
}

export interface StatedFacts {
  readonly subject: string;
  readonly facts: Readonly<Record<string, string>>;
  readonly source: string;
  readonly reportedAtMs: number;
}

function orderOf(lock: FleetLock): Order {
  const { id, expiresAt } = lock;
  return create(OrderSchema, {
    id,
    what: { case: "lock", value: lock },
    ...(expiresAt === undefined ? {} : { expiresAt }),
  });
}

/** Facts of other names stay as they are. */
function factsOrder(
  id: string,
  { subject, facts, source, reportedAtMs }: StatedFacts,
  before: Order | undefined,
): Order {
  const earlier = before?.what.case === "posture" ? before.what.value : undefined;
  const merged = Object.entries({ ...earlier?.facts, ...facts }).slice(-FACTS_MAX);
  const earlierMs = earlier?.reportedAt === undefined ? 0 : timestampMs(earlier.reportedAt);
  const atMs = Math.floor(Math.max(earlierMs, reportedAtMs));
  return create(OrderSchema, {
    id,
    what: {
      case: "posture",
      value: { subject, facts: Object.fromEntries(merged), source, reportedAt: timestampFromMs(atMs) },
    },
    expiresAt: timestampFromMs(atMs + POSTURE_KEPT_MS),
  });
}

function postureId({ subject, source }: StatedFacts): string {
  return `posture-${sha256(JSON.stringify([source, subject])).slice(0, 32)}`;
}

function checkLock(lock: FleetLock): void {
  const { principal, credential, certificate, key, fingerprint, address, destination, peerGroup } = lock;
  const parts = [principal, credential, certificate, key, fingerprint, address, destination, peerGroup];
  if (parts.every((part) => part === "")) {
    throw new OperatingError("ERR_LOCK_INVALID", "lock scope: expected at least one part, got none");
  }
  if (address !== "" && readRange(address) === undefined) {
    const found = JSON.stringify(address.slice(0, 60));
    throw new OperatingError("ERR_LOCK_INVALID", `lock scope address: expected an address or CIDR range, got ${found}`);
  }
}

/** A lock as an operator asked for it, with what the control plane gives. */
export function settled(asked: FleetLock, id: string, by: string, nowMs: number, ttlSeconds: number): FleetLock {
  return create(FleetLockSchema, {
    ...asked,
    destination: asked.destination.toLowerCase(),
    id: `${FLEET_PREFIX}${id}`,
    setBy: `fleet:${by}`,
    setAt: timestampFromMs(nowMs),
    expiresAt: ttlSeconds === 0 ? undefined : timestampFromMs(nowMs + ttlSeconds * 1_000),
  });
}

function isInForce({ expiresAt }: Order, now: number): boolean {
  return expiresAt === undefined || now < timestampMs(expiresAt);
}

function endOf({ expiresAt }: Order): number {
  return expiresAt === undefined ? Number.POSITIVE_INFINITY : timestampMs(expiresAt);
}

/** Deterministic: map entries of facts are told in the order of their names. */
function stateOf(orders: Iterable<Order>): string {
  const hash = createHash("sha256");
  for (const order of [...orders].sort((a, b) => (a.id < b.id ? -1 : 1))) {
    const { what } = order;
    if (what.case === "posture") {
      const facts = Object.entries(what.value.facts).sort(([a], [b]) => (a < b ? -1 : 1));
      hash.update(JSON.stringify([order.id, facts, what.value.source, String(what.value.reportedAt?.seconds)]));
    } else hash.update(toBinary(OrderSchema, order));
  }
  return hash.digest("hex");
}

function pack(put: readonly Order[], removed: readonly string[], first: boolean, state: string): readonly Uint8Array[] {
  const parts: { put: Order[]; removed: string[] }[] = [{ put: [], removed: [...removed] }];
  let bytes = 0;
  for (const order of put) {
    const size = toBinary(OrderSchema, order).length;
    if (bytes + size > MESSAGE_BYTES && bytes > 0) {
      parts.push({ put: [], removed: [] });
      bytes = 0;
    }
    parts.at(-1)!.put.push(order);
    bytes += size;
  }
  return parts.map((part, index) => {
    const last = index === parts.length - 1;
    const message = create(OrdersSchema, { ...part, first: first && index === 0, last, state: last ? state : "" });
    return toBinary(OrdersSchema, message);
  });
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
