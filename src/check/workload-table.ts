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

/** What {@link Workloads.peerOf} finds: made once for each pod, since every request of it asks. */
type Peer = OwnPeer | Extract<PeerPod, { kind: "other" }>;

interface OwnPeer extends Extract<PeerPod, { kind: "own" }> {
  /** Its facts as they were last told, with their age. */
  told: PostureFacts | undefined;
}

/** An address and the pods that claim it; seldom more than one. */
interface Place {
  readonly pods: readonly Workload[];
  /** Since when it is these. */
  readonly sinceMs: number;
  readonly own: OwnPeer;
  readonly other: Extract<PeerPod, { kind: "other" }>;
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
  private readonly podsMax: number;
  private confirmedMs = Number.NEGATIVE_INFINITY;
  private missing = false;
  /** What has been put since a change began anew, until its last part. */
  private listed: Set<string> | undefined;

  /** @param podsMax further pods are left out: nothing is known of them then */
  constructor(podsMax: number) {
    this.podsMax = podsMax;
  }

  get size(): number {
    return this.byUid.size;
  }

  change({ first, last, put, removed }: WorkloadChange, at: EpochMs): void {
    if (first) {
      this.missing = true; // until it is confirmed
      this.listed = new Set();
    }
    // What goes makes room for what comes.
    for (const uid of removed) this.remove(uid, at);
    for (const workload of put) {
      this.listed?.add(workload.uid);
      this.put(workload, at);
    }
    if (!last || this.listed === undefined) return;
    for (const uid of [...this.byUid.keys()]) if (!this.listed.has(uid)) this.remove(uid, at);
    this.listed = undefined;
  }

  confirm(at: EpochMs | undefined): void {
    this.missing = at === undefined;
    if (at === undefined) this.listed = undefined;
    // Back as well: another control plane may know less than the one before.
    if (at !== undefined) this.confirmedMs = at;
  }

  clear(): void {
    this.byUid.clear();
    this.byAddress.clear();
    this.byPrincipal.clear();
    this.confirmedMs = Number.NEGATIVE_INFINITY;
    this.missing = false;
    this.listed = undefined;
  }

  /** Whether addresses count. */
  isFresh(now: EpochMs): boolean {
    return !this.missing && now - this.confirmedMs <= WORKLOADS_STALE_MS;
  }

  /** Whose address it is, seen from a principal; one look-up where nothing is strange. */
  peerOf(address: string | undefined, principal: string, now: EpochMs): Peer | undefined {
    const place = address === undefined ? undefined : this.byAddress.get(address);
    if (place === undefined || place.pods.length !== 1) return undefined;
    const { workload } = place.own;
    // An ending pod is no less its own: only that the address accuses nobody.
    if (workload.principals[0] === principal || workload.principals.includes(principal, 1)) return place.own;
    if (workload.shared || now - place.sinceMs < ADDRESS_GRACE_MS || !this.isFresh(now)) return undefined;
    return this.byPrincipal.has(principal) ? place.other : undefined;
  }

  /** Facts of the very pod where the address names one of the principal's own; else what all of its pods agree on. */
  factsOf(principal: string, peer: Peer | undefined, now: EpochMs): PostureFacts | undefined {
    if (now - this.confirmedMs > WORKLOADS_KEPT_MS) return undefined;
    if (peer?.kind === "own") {
      if (peer.told?.reportedAtMs !== this.confirmedMs) {
        peer.told = this.asOfNow(factsOf(peer.workload));
      }
      return peer.told;
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
    const pods = after === undefined ? others : [...others, after];
    const workload = pods[0]!;
    this.byAddress.set(address, {
      pods,
      sinceMs: same && place !== undefined ? place.sinceMs : at,
      own: { kind: "own", workload, told: undefined },
      other: { kind: "other", workload },
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

function factsOf({ common, own }: Workload): Readonly<Record<string, string>> {
  return { ...common, ...own };
}

function agreedFacts(pods: ReadonlySet<Workload>): Readonly<Record<string, string>> {
  const [first, ...others] = pods;
  if (first === undefined) return {};
  const factOf = ({ common, own }: Workload, fact: string): string | undefined => own[fact] ?? common[fact];
  return Object.fromEntries(
    Object.entries(factsOf(first)).filter(([fact, value]) => others.every((pod) => factOf(pod, fact) === value)),
  );
}
