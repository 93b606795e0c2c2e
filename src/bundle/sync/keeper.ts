/** Keeps a good policy in force: takes offers one at a time, applies them whole, and remembers the last good one. */

import { webcrypto } from "node:crypto";
import type { BundleFacts, PolicyFreshness, Trust } from "../../model/bundle.ts";
import { OperatingError } from "../../model/errors.ts";
import type { Loaded, LoadOptions, LoadResult, PolicyOrigin } from "../load.ts";
import { writeTrust } from "../trust-text.ts";
import { readBundleFile } from "./bundle-bytes.ts";
import { type Refusal, refusalFor, refusalOf, unsigned } from "./refusal.ts";
import type { OfferNote, OfferResult, OriginLoader, SourceListener } from "./source.ts";
import type { PolicyState } from "./state.ts";
import { Told } from "./told.ts";

/** What there is instead of what was refused: the last good policy, or none yet. */
export type Stays = "last good" | "none";

/** What the keeper tells; each thing once, however often the source repeats it. */
export interface KeeperEvents {
  /** Puts it in force; must not throw. */
  readonly inForce: (loaded: Loaded, from: string) => void;
  readonly refused: (refusal: Refusal, from: string, stays: Stays) => void;
  /** The source has come back to what is in force after {@link refused} was told. */
  readonly settled: (from: string) => void;
  readonly unreachable: (error: OperatingError, stays: Stays) => void;
  /** The source answers again after {@link unreachable} was told. */
  readonly recovered: () => void;
  readonly warned: (warning: string, from: string) => void;
  readonly unsaved: (error: OperatingError) => void;
  /** The last good policy is on disk again after {@link unsaved} was told. */
  readonly saved: () => void;
}

/** Counts of everything, told or not. */
export interface KeeperMeters {
  readonly loaded: (result: "accepted" | "refused" | "unchanged", seconds: number) => void;
  readonly refused: (code: string) => void;
  readonly failed: (code: string) => void;
  readonly state: (result: "written" | "failed") => void;
}

export interface KeeperOptions {
  readonly loader: OriginLoader;
  /** Where policy comes from, for messages. */
  readonly label: string;
  /** Whose signatures count; `undefined`: no keys were configured, and unsigned policy is taken. */
  readonly trust: Trust | undefined;
  /** Where the last good bundle is kept; `undefined`: nowhere. */
  readonly state: PolicyState | undefined;
  readonly bytesMax: number;
  /** The only name of a bundle that is taken; left out: that of the first one. */
  readonly bundleName?: string | undefined;
  /** How long the source may be silent before the policy counts as stale; `undefined`: for ever. */
  readonly staleAfterMs: number | undefined;
  /** Milliseconds since the epoch: for the times that bundles state. */
  readonly now: () => number;
  /** For how long ago things were: steps of the clock do not count. */
  readonly monotonicMs: () => number;
  readonly events: KeeperEvents;
  readonly meters: KeeperMeters;
}

export interface KeeperStatus {
  /** `undefined`: unsigned, or nothing in force. */
  readonly bundle: BundleFacts | undefined;
  readonly freshness: PolicyFreshness;
  /** When the source last said that this is what should be in force; `undefined`: not since the start. */
  readonly confirmedAtMs: number | undefined;
  /** Why the newest candidate is not in force; `undefined` when the one in force is the newest. */
  readonly refusal: Refusal | undefined;
  /** Why the source cannot be asked; `undefined` when it answered last time. */
  readonly failure: OperatingError | undefined;
}

interface InForce {
  /** Of everything read. */
  readonly digest: string;
  /** SHA-256 of the bundle's bytes as they came; `undefined` for YAML. */
  readonly bytesHash: string | undefined;
  readonly bundle: BundleFacts | undefined;
  readonly files: readonly string[];
}

interface Kept {
  readonly bytes: Uint8Array;
  readonly trust: Trust;
}

export class PolicyKeeper implements SourceListener {
  private readonly options: KeeperOptions;
  private readonly told = new Told();
  private trust: Trust | undefined;
  private current: InForce | undefined;
  private refusal: Refusal | undefined;
  private failure: OperatingError | undefined;
  private failureTold = false;
  private refusalTold = false;
  private confirmedAtMs: number | undefined;
  private confirmedMonotonicMs: number;
  private running: Promise<unknown> = Promise.resolve();
  /** What the disk does not have yet. */
  private unsaved: Kept | undefined;
  private unsavedTold = false;
  private saving: Promise<void> = Promise.resolve();
  /** The bundle in force where no disk keeps it. */
  private heldBytes: Uint8Array | undefined;
  private closed = false;
  private readonly waiting: (() => void)[] = [];

  constructor(options: KeeperOptions) {
    this.options = options;
    this.trust = options.trust;
    this.confirmedMonotonicMs = options.monotonicMs();
  }

  /**
   * Verifies the last good bundle from disk once more, and puts it in force even past its time: deciding by it is
   * better than deciding by nothing, and its freshness says so.
   * @returns whether there was one that could be put in force
   */
  async restore(bytes: Uint8Array, label: string): Promise<boolean> {
    const loaded = await this.load({ kind: "bytes", label, bytes }, { acceptExpired: true });
    if (!("ok" in loaded) || !loaded.ok) {
      this.refuse(refusalOf(loaded), label);
      return false;
    }
    if (loaded.bundle === undefined) {
      this.refuse(unsigned(label), label);
      return false;
    }
    await this.apply(loaded, bytes, label, { isSame: false, isKept: true });
    return true;
  }

  async offer(origin: PolicyOrigin, { from }: OfferNote): Promise<OfferResult> {
    const taken = this.running.then(() => this.take(origin, from));
    this.running = taken.catch(() => {}); // a defect is told to whoever offered; later offers are still taken
    const result = await taken;
    this.wake();
    return result;
  }

  confirmed(): void {
    if (this.current === undefined) return;
    this.confirmedAtMs = this.options.now();
    this.confirmedMonotonicMs = this.options.monotonicMs();
    this.settle(true);
    this.answered();
  }

  failed(error: OperatingError): void {
    const { meters, events, monotonicMs } = this.options;
    if (error.code !== "ERR_BUNDLE_UNREACHABLE" && error.code !== "ERR_CONTROL") {
      meters.loaded("refused", 0);
      this.refuse(refusalFor(error), this.options.label);
    } else {
      // Keeps the last good policy, which grows stale meanwhile.
      this.failure = error;
      meters.failed(error.code);
      if (this.told.isNew(`failure ${error.code} ${error.message}`, monotonicMs())) {
        this.failureTold = true;
        events.unreachable(error, this.stays());
      }
    }
    this.wake();
  }

  status(): KeeperStatus {
    return {
      bundle: this.current?.bundle,
      freshness: this.freshness(),
      confirmedAtMs: this.confirmedAtMs,
      refusal: this.refusal,
      failure: this.failure,
    };
  }

  /** Cheap enough to be asked for each request. */
  freshness(): PolicyFreshness {
    const { now, monotonicMs, staleAfterMs } = this.options;
    if (this.current === undefined) return "stale";
    if (this.current.bundle !== undefined && now() >= this.current.bundle.expiresAtMs) return "expired";
    if (staleAfterMs === undefined) return "fresh";
    return monotonicMs() - this.confirmedMonotonicMs > staleAfterMs ? "stale" : "fresh";
  }

  get isInForce(): boolean {
    return this.current !== undefined;
  }

  /** Resolves when the source has next been heard of: an offer was dealt with, or it failed. */
  heard(): Promise<void> {
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** Bytes of the bundle in force, for deltas; `undefined` without one, or when the disk lost them. */
  async held(): Promise<Uint8Array | undefined> {
    await this.saving;
    const inMemory = this.unsaved?.bytes ?? this.heldBytes;
    if (inMemory !== undefined || this.current?.bundle === undefined) return inMemory;
    try {
      return (await this.options.state?.read(this.options.bytesMax))?.bundle;
    } catch {
      return undefined; // keeps the policy in force: without its bytes the next one comes whole
    }
  }

  /** Tries once more to write what the disk did not take. */
  saveAgain(): Promise<void> {
    if (this.unsaved !== undefined) this.saving = this.saving.then(() => this.save());
    return this.saving;
  }

  /** Waits for what is being written; later offers are not taken. */
  async close(): Promise<void> {
    this.closed = true;
    this.wake();
    await this.running;
    await this.saving;
  }

  private async take(origin: PolicyOrigin, from: string): Promise<OfferResult> {
    const { monotonicMs, meters } = this.options;
    const startedMs = monotonicMs();
    const seconds = (): number => (monotonicMs() - startedMs) / 1000;
    if (this.closed) return { kind: "unchanged", files: [] };
    if (origin.kind === "bytes" && this.current?.bytesHash === (await hashOf(origin.bytes))) {
      meters.loaded("unchanged", seconds());
      this.confirmed();
      return { kind: "unchanged", files: this.current.files };
    }
    const { loaded, bytes } = await this.loadWhole(origin);
    if (!("ok" in loaded) || !loaded.ok) {
      meters.loaded("refused", seconds());
      return this.refuse(refusalOf(loaded), from, "files" in loaded ? loaded.files : []);
    }
    if (this.trust !== undefined && (loaded.bundle === undefined || loaded.trust === undefined)) {
      meters.loaded("refused", seconds());
      return this.refuse(unsigned(from), from, loaded.files);
    }
    const isSame = loaded.digest === this.current?.digest || sameBundle(loaded.bundle, this.current?.bundle);
    meters.loaded(isSame ? "unchanged" : "accepted", seconds());
    await this.apply(loaded, bytes, from, { isSame, isKept: false });
    this.confirmed();
    if (isSame) return { kind: "unchanged", files: loaded.files };
    return { kind: "in_force", bundle: loaded.bundle, files: loaded.files };
  }

  /** A bundle found in a folder is loaded from bytes that are read once, so that what is kept is what was verified. */
  private async loadWhole(
    origin: PolicyOrigin,
  ): Promise<{ readonly loaded: LoadResult | OperatingError; readonly bytes: Uint8Array | undefined }> {
    const loaded = await this.load(origin);
    if (origin.kind === "bytes") return { loaded, bytes: origin.bytes };
    if (!("ok" in loaded) || !loaded.ok || loaded.bundle === undefined) return { loaded, bytes: undefined };
    const file = loaded.files.find((name) => name.endsWith(".bundle")) ?? loaded.files[0] ?? origin.path;
    try {
      const bytes = await readBundleFile(file, file, this.options.bytesMax);
      if (bytes === undefined) return { loaded, bytes };
      const again = await this.load({ kind: "bytes", label: file, bytes });
      if (!("ok" in again) || !again.ok) return { loaded: again, bytes };
      // What a folder's other files were passed over for is known to the first look only.
      const { passedOver } = loaded;
      return { loaded: { ...again, warnings: [...again.warnings, ...passedOver] }, bytes };
    } catch (error) {
      return { loaded: asOperating(error, origin), bytes: undefined }; // keeps the last good policy
    }
  }

  private async load(origin: PolicyOrigin, more: LoadOptions = {}): Promise<LoadResult | OperatingError> {
    const { loader, now, bundleName } = this.options;
    try {
      const trust = this.trust === undefined ? {} : { trust: this.trust };
      return await loader.load(origin, { ...trust, bundleName, nowMs: now(), ...more });
    } catch (error) {
      return asOperating(error, origin); // keeps the last good policy
    }
  }

  private async apply(
    loaded: Loaded,
    bytes: Uint8Array | undefined,
    from: string,
    { isSame, isKept }: { readonly isSame: boolean; readonly isKept: boolean },
  ): Promise<void> {
    const { events, state, monotonicMs } = this.options;
    if (!isSame) {
      events.inForce(loaded, from);
      this.told.forget();
    }
    for (const warning of loaded.warnings) {
      if (this.told.isNew(`warning ${warning}`, monotonicMs())) events.warned(warning, from);
    }
    const { bundle, files, digest } = loaded;
    this.current = { digest, bundle, files, bytesHash: bytes === undefined ? undefined : await hashOf(bytes) };
    this.settle(isSame);
    const moved = loaded.trust;
    // Trust only moves forward, whatever a loader says.
    if (moved === undefined || moved.root.version < (this.trust?.root.version ?? 0)) return;
    const before = this.trust;
    this.trust = moved;
    if (bytes === undefined) return;
    if (state === undefined) {
      this.heldBytes = bytes;
      return;
    }
    if (isKept && before !== undefined && writeTrust(before) === writeTrust(moved)) return;
    this.unsaved = { bytes, trust: moved };
    this.saving = this.saving.then(() => this.save());
  }

  private async save(): Promise<void> {
    const { state, events, meters } = this.options;
    const kept = this.unsaved;
    if (state === undefined || kept === undefined) return;
    try {
      await state.write(kept.bytes, writeTrust(kept.trust));
      meters.state("written");
      if (this.unsaved === kept) this.unsaved = undefined;
      if (this.unsavedTold) events.saved();
      this.unsavedTold = false;
    } catch (error) {
      // The new policy stays in force; the disk still has the one before. Tried again by saveAgain.
      meters.state("failed");
      if (!this.unsavedTold) events.unsaved(asStateError(error));
      this.unsavedTold = true;
    }
  }

  private refuse(refusal: Refusal, from: string, files: readonly string[] = []): OfferResult {
    const { events, meters, monotonicMs } = this.options;
    this.refusal = refusal;
    meters.refused(refusal.error.code);
    this.answered();
    if (this.told.isNew(`refusal ${refusal.key}`, monotonicMs())) {
      this.refusalTold = true;
      events.refused(refusal, from, this.stays());
    }
    return { kind: "refused", error: refusal.error, files };
  }

  private stays(): Stays {
    return this.current === undefined ? "none" : "last good";
  }

  /** Nothing is refused any more; a new policy says so by itself. */
  private settle(isSame: boolean): void {
    this.refusal = undefined;
    if (isSame && this.refusalTold) this.options.events.settled(this.options.label);
    this.refusalTold = false;
  }

  private answered(): void {
    this.failure = undefined;
    if (this.failureTold) this.options.events.recovered();
    this.failureTold = false;
  }

  private wake(): void {
    for (const resolve of this.waiting.splice(0)) resolve();
  }
}

/** Away from the event loop: a bundle may be large. */
async function hashOf(bytes: Uint8Array): Promise<string> {
  return Buffer.from(await webcrypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>)).toString("hex");
}

function sameBundle(left: BundleFacts | undefined, right: BundleFacts | undefined): boolean {
  return left !== undefined && left.name === right?.name && left.digest === right.digest;
}

function asOperating(error: unknown, origin: PolicyOrigin): OperatingError {
  if (error instanceof OperatingError) return error;
  const label = origin.kind === "path" ? origin.path : origin.label;
  // A foreign message may quote its input: only its kind is said.
  const kind = error instanceof Error ? error.name : typeof error;
  return new OperatingError("ERR_POLICY_UNREADABLE", `${label}: could not be loaded: ${kind}`, { cause: error });
}

function asStateError(error: unknown): OperatingError {
  if (error instanceof OperatingError) return error;
  return new OperatingError("ERR_STATE_UNWRITABLE", "the last good policy could not be written", { cause: error });
}
