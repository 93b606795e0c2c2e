/**
 * Remembers proofs until they are too old to be used again, in bounded memory, and never lets one through twice.
 *
 * When the table is full the oldest proof is forgotten, and its key gets a *horizon*: of that key, proofs made at or
 * before the forgotten one's time are no longer accepted, since they can no longer be told from replays. Refusing all
 * newcomers instead would let one busy key shut out everybody; forgetting alone would open a door to replays. A caller
 * below the horizon is asked for a new proof, which lies beyond it.
 *
 * The table belongs to one sidecar. A proof caught on its way can be spent once at every replica of the service it was
 * made for, until its nonce is stale; and proofs from before a start lie below the first horizon, so that a restart opens
 * nothing.
 */

/** `forgotten`: may or may not have been used before; a newer proof will do. */
export type Admission = "first" | "replayed" | "forgotten";

export interface ReplayOptions {
  /** Proofs remembered at once; about 200 bytes each. */
  readonly proofsMax?: number;
  /** Keys with a horizon of their own; beyond, everybody shares one. */
  readonly horizonsMax?: number;
  /** Proofs made before this may have been used at a process that is gone: they are `forgotten`. */
  readonly startedAtMs?: number;
}

const PROOFS_MAX = 65_536;
const HORIZONS_MAX = 4_096;
/** Expired proofs swept per admission: more than one, so that the table empties after a flood. */
const SWEPT_MAX = 8;

interface Seen {
  readonly key: string;
  readonly madeAtMs: number;
  readonly expiresAtMs: number;
}

interface Horizon {
  readonly madeAtMs: number;
  readonly expiresAtMs: number;
}

export class ReplayMemory {
  private readonly seen = new Map<string, Seen>();
  private readonly horizons = new Map<string, Horizon>();
  private sharedHorizonMs: number;
  private readonly proofsMax: number;
  private readonly horizonsMax: number;

  constructor(options: ReplayOptions = {}) {
    this.proofsMax = options.proofsMax ?? PROOFS_MAX;
    this.horizonsMax = options.horizonsMax ?? HORIZONS_MAX;
    this.sharedHorizonMs = (options.startedAtMs ?? Number.NEGATIVE_INFINITY) - 1;
  }

  get size(): number {
    return this.seen.size;
  }

  /** What {@link admit} would say, without remembering: saves the work of verifying a replay. */
  peek(key: string, id: string, madeAtMs: number): Admission {
    if (this.seen.has(nameOf(key, id))) return "replayed";
    const horizonMs = Math.max(this.sharedHorizonMs, this.horizons.get(key)?.madeAtMs ?? Number.NEGATIVE_INFINITY);
    return madeAtMs <= horizonMs ? "forgotten" : "first";
  }

  /**
   * Takes note of a verified proof. Only proofs by keys that count may come here: strangers must not fill the table.
   * @param key thumbprint of the key
   * @param id `jti`, or what else tells this key's proofs apart
   * @param madeAtMs when the proof says it was made
   * @param expiresAtMs when it stops being acceptable anyway
   */
  admit(key: string, id: string, madeAtMs: number, expiresAtMs: number, nowMs: number): Admission {
    const found = this.peek(key, id, madeAtMs);
    if (found !== "first") return found;
    this.sweep(nowMs);
    this.seen.set(nameOf(key, id), { key, madeAtMs, expiresAtMs });
    if (this.seen.size > this.proofsMax) this.forgetOldest(nowMs);
    return "first";
  }

  private sweep(nowMs: number): void {
    let left = SWEPT_MAX;
    for (const [name, { expiresAtMs }] of this.seen) {
      if (expiresAtMs >= nowMs || left-- === 0) return;
      this.seen.delete(name);
    }
  }

  private forgetOldest(nowMs: number): void {
    const oldest = this.seen.entries().next().value;
    if (oldest === undefined) return;
    const [name, { key, madeAtMs, expiresAtMs }] = oldest;
    this.seen.delete(name);
    if (expiresAtMs < nowMs) return;
    const before = this.horizons.get(key);
    this.horizons.delete(key);
    this.horizons.set(key, {
      madeAtMs: Math.max(madeAtMs, before?.madeAtMs ?? Number.NEGATIVE_INFINITY),
      expiresAtMs: Math.max(expiresAtMs, before?.expiresAtMs ?? Number.NEGATIVE_INFINITY),
    });
    if (this.horizons.size > this.horizonsMax) this.mergeOldestHorizon(nowMs);
  }

  private mergeOldestHorizon(nowMs: number): void {
    const oldest = this.horizons.entries().next().value;
    if (oldest === undefined) return;
    this.horizons.delete(oldest[0]);
    if (oldest[1].expiresAtMs >= nowMs) this.sharedHorizonMs = Math.max(this.sharedHorizonMs, oldest[1].madeAtMs);
  }
}

function nameOf(key: string, id: string): string {
  return `${key} ${id}`;
}
