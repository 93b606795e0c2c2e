/** Which pod has which address, and what is true of a service account's pods; bounded, and silent about what is in doubt. */

import type { PostureFacts } from "../model/policy.ts";
import { type EpochMs, MINUTE_MS, SECOND_MS } from "../model/units.ts";
import type { PeerPod, Workload, WorkloadChange, WorkloadTable } from "../model/workloads.ts";

/**
 * How long an address names nobody after another pod got it or left it: requests of the pod before may still be under way,
 * and the API hears of a new pod's address later than its first request comes.
 */
export const ADDRESS_GRACE_MS = MINUTE_MS;

/** Unconfirmed for longer, addresses name nobody: one may have gone to another pod. The API's own signs of life come once a minute. */
export const WORKLOADS_STALE_MS = 150 * SECOND_MS;

/** Unconfirmed for longer, facts are none any more. */
export const WORKLOADS_KEPT_MS = 15 * MINUTE_MS;

const SOURCE = "kubernetes";

/** An address and the pods that claim it; seldom more than one. */
interface Place {
  readonly pods: readonly Workload[];
  /** Since when it is these. */
  readonly sinceMs: number;
}

interface Account {
  readonly pods: Set<Workload>;
  /** What all pods agree on; `undefined`: not looked at since the last change. */
  agreed: Readonly<Record<string, string>> | undefined;
  /** The same as it was last told, with its age. */
  told: PostureFacts | undefined;
}

export class Workloads implements WorkloadTable {
  private readonly byUid = new Map<string, Workload>();
  private readonly byAddress = new Map<string, Place>();
  private readonly byPrincipal = new Map<string, Account>();
  /** Of pods that requests came from, as they were last told. */
  private readonly ofPods = new WeakMap<Workload, PostureFacts>();
  private readonly podsMax: number;
  private confirmedMs = Number.NEGATIVE_INFINITY;
  private missing = false;

  /** @param podsMax further pods are left out: nothing is known of them then */
  constructor(podsMax: number) {
    this.podsMax = podsMax;
  }

  get size(): number {
    return this.byUid.size;
  }

  change({ whole, put, removed }: WorkloadChange, at: EpochMs): void {
    if (whole) {
      this.missing = true; // until it is confirmed
      const stays = new Set(put.map(({ uid }) => uid));
      for (const uid of [...this.byUid.keys()]) if (!stays.has(uid)) this.remove(uid, at);
    }
    // What goes makes room for what comes.
    for (const uid of removed) this.remove(uid, at);
    for (const workload of put) this.put(workload, at);
  }

  confirm(at: EpochMs | undefined): void {
    this.missing = at === undefined;
    // Back as well: another control plane may know less than the one before.
    if (at !== undefined) this.confirmedMs = at;
  }

  clear(): void {
    this.byUid.clear();
    this.byAddress.clear();
    this.byPrincipal.clear();
    this.confirmedMs = Number.NEGATIVE_INFINITY;
    this.missing = false;
  }

  /** Whether addresses count. */
  isFresh(now: EpochMs): boolean {
    return !this.missing && now - this.confirmedMs <= WORKLOADS_STALE_MS;
  }

  /** Whose address it is, seen from a principal; one look-up where nothing is strange. */
  peerOf(address: string | undefined, principal: string, now: EpochMs): PeerPod | undefined {
    const place = address === undefined ? undefined : this.byAddress.get(address);
    if (place === undefined || place.pods.length !== 1) return undefined;
    const workload = place.pods[0]!;
    // An ending pod is no less its own: only that the address accuses nobody.
    if (workload.principals.includes(principal)) return { kind: "own", workload };
    if (workload.shared || now - place.sinceMs < ADDRESS_GRACE_MS || !this.isFresh(now)) return undefined;
    return this.byPrincipal.has(principal) ? { kind: "other", workload } : undefined;
  }

  /** Facts of the very pod where the address names one of the principal's own; else what all of its pods agree on. */
  factsOf(principal: string, peer: PeerPod | undefined, now: EpochMs): PostureFacts | undefined {
    if (now - this.confirmedMs > WORKLOADS_KEPT_MS) return undefined;
    if (peer?.kind === "own") {
      const { workload } = peer;
      const told = this.ofPods.get(workload);
      if (told?.reportedAtMs === this.confirmedMs) return told;
      const now = this.asOfNow(workload.facts);
      this.ofPods.set(workload, now);
      return now;
    }
    const account = this.byPrincipal.get(principal);
    if (account === undefined) return undefined;
    if (account.agreed === undefined || account.told?.reportedAtMs !== this.confirmedMs) {
      account.agreed ??= agreedFacts(account.pods);
      account.told = this.asOfNow(account.agreed);
    }
    return account.told;
  }

  private asOfNow(facts: Readonly<Record<string, string>>): PostureFacts {
    return { facts, source: SOURCE, reportedAtMs: this.confirmedMs };
  }

  private put(workload: Workload, at: EpochMs): void {
    const known = this.byUid.get(workload.uid);
    if (known === undefined && this.byUid.size >= this.podsMax) return;
    this.byUid.set(workload.uid, workload);
    if (known !== undefined) {
      for (const address of known.addresses) {
        if (!workload.addresses.includes(address)) this.claim(address, known, undefined, at);
      }
      this.leaveAccounts(known);
    }
    for (const address of workload.addresses) {
      const before = known?.addresses.includes(address) ? known : undefined;
      this.claim(address, before, workload, at);
    }
    for (const principal of workload.principals) {
      const account = this.byPrincipal.get(principal);
      if (account === undefined)
        this.byPrincipal.set(principal, { pods: new Set([workload]), agreed: undefined, told: undefined });
      else {
        account.pods.add(workload);
        account.agreed = undefined;
      }
    }
  }

  private remove(uid: string, at: EpochMs): void {
    const known = this.byUid.get(uid);
    if (known === undefined) return;
    this.byUid.delete(uid);
    for (const address of known.addresses) this.claim(address, known, undefined, at);
    this.leaveAccounts(known);
  }

  /** Puts one pod in the place of another, or of none. */
  private claim(address: string, before: Workload | undefined, after: Workload | undefined, at: EpochMs): void {
    const place = this.byAddress.get(address);
    const others = place?.pods.filter((pod) => pod !== before) ?? [];
    if (after === undefined && others.length === 0) {
      this.byAddress.delete(address);
      return;
    }
    const same =
      before !== undefined && after !== undefined && before.shared === after.shared && isAlike(before, after);
    this.byAddress.set(address, {
      pods: after === undefined ? others : [...others, after],
      sinceMs: same && place !== undefined ? place.sinceMs : at,
    });
  }

  private leaveAccounts(workload: Workload): void {
    for (const principal of workload.principals) {
      const account = this.byPrincipal.get(principal);
      if (account === undefined) continue;
      account.pods.delete(workload);
      account.agreed = undefined;
      if (account.pods.size === 0) this.byPrincipal.delete(principal);
    }
  }
}

function isAlike(one: Workload, other: Workload): boolean {
  return (
    one.principals.length === other.principals.length && one.principals.every((name, i) => name === other.principals[i])
  );
}

function agreedFacts(pods: ReadonlySet<Workload>): Readonly<Record<string, string>> {
  const [first, ...others] = pods;
  return Object.fromEntries(
    Object.entries(first?.facts ?? {}).filter(([fact, value]) => others.every(({ facts }) => facts[fact] === value)),
  );
}
