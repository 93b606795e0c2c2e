/** Follows the pods of a cluster, or of some of its namespaces, and feeds them to sidecars. */

import { SECOND_MS } from "../../model/units.ts";
import { type ApiError, KubernetesApi } from "./api.ts";
import { WorkloadFeed } from "./feed.ts";
import { type PodNaming, readPod } from "./pod.ts";
import { Reflector, type ReflectorClock, type ReflectorListener } from "./reflector.ts";

/** A watch that is begun anew is no broken one yet. */
const BROKEN_AFTER_MS = 5 * SECOND_MS;
const LOOK_MS = SECOND_MS;

export interface KubernetesSettings {
  readonly api: string;
  /** Empty: all. */
  readonly namespaces: readonly string[];
  readonly labelSelector: string | undefined;
  readonly fieldSelector: string | undefined;
  readonly tokenFile: string | undefined;
  readonly caFile: string | undefined;
  readonly naming: PodNaming;
  readonly podsMax: number;
  /** What tokens of service accounts must be meant for; `undefined`: they are not accepted. */
  readonly tokenAudience: string | undefined;
}

export interface PodWatchOptions {
  readonly settings: KubernetesSettings;
  /** 16 hex digits, random. */
  readonly epoch: string;
  readonly clock: ReflectorClock;
  /** Told when sidecars have something to hear: pods, or that the watch broke or is whole again. */
  readonly onChange: () => void;
  /** Told of each failure; the first after all was well is news. */
  readonly onFailure: (error: ApiError, isNews: boolean) => void;
  /** Told when all watches are open again, or for the first time. */
  readonly onWell: () => void;
  readonly onList: () => void;
  readonly onLeftOut: () => void;
  readonly idleMsMax?: number;
}

/** How well it is known what sidecars are told. */
export interface WatchHealth {
  readonly silentMs: number;
  readonly broken: boolean;
}

export class PodWatch {
  readonly feed: WorkloadFeed;
  private readonly options: PodWatchOptions;
  private readonly reflectors: readonly Reflector[];
  private readonly looking: NodeJS.Timeout;
  /** Monotonic times since when a reflector has no open watch. */
  private readonly downSince: (number | undefined)[];
  private failure: ApiError | undefined;
  private toldBroken = false;
  private toldLoaded = false;
  private toldWell = false;

  constructor(options: PodWatchOptions) {
    this.options = options;
    const { settings, clock } = options;
    this.feed = new WorkloadFeed({
      epoch: options.epoch,
      podsMax: settings.podsMax,
      onChange: () => {
        if (this.loaded) options.onChange();
      },
      onLeftOut: options.onLeftOut,
    });
    const api = new KubernetesApi({ url: settings.api, tokenFile: settings.tokenFile, caFile: settings.caFile });
    const query = {
      ...(settings.labelSelector === undefined ? {} : { labelSelector: settings.labelSelector }),
      ...(settings.fieldSelector === undefined ? {} : { fieldSelector: settings.fieldSelector }),
    };
    const paths =
      settings.namespaces.length === 0
        ? ["/api/v1/pods"]
        : settings.namespaces.map((namespace) => `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods`);
    this.downSince = paths.map(() => clock.monotonicMs());
    this.reflectors = paths.map(
      (path) =>
        new Reflector({
          api,
          path,
          query,
          clock,
          listener: this.listenerOf(),
          onFailure: (error) => this.failed(error),
          onWatching: () => this.look(),
          onList: options.onList,
          ...(options.idleMsMax === undefined ? {} : { idleMsMax: options.idleMsMax }),
        }),
    );
    // Time alone makes a watch that is down a broken one.
    this.looking = setInterval(() => this.look(), LOOK_MS);
    this.looking.unref();
  }

  start(): void {
    for (const reflector of this.reflectors) reflector.start();
  }

  async close(): Promise<void> {
    clearInterval(this.looking);
    this.feed.close();
    await Promise.all(this.reflectors.map((reflector) => reflector.close()));
  }

  /** Whether every pod was seen once: nobody is told of some of them as if they were all. */
  get loaded(): boolean {
    return this.reflectors.every(({ loaded }) => loaded);
  }

  get health(): WatchHealth {
    const now = this.options.clock.monotonicMs();
    const silentMs = this.reflectors.map(({ heardMs }) =>
      heardMs === undefined ? Number.MAX_SAFE_INTEGER : now - heardMs,
    );
    const broken = this.downSince.some((since) => since !== undefined && now - since > BROKEN_AFTER_MS);
    return { silentMs: Math.max(...silentMs), broken };
  }

  /** In a few words, for people. */
  get detail(): string {
    if (this.failure !== undefined) return this.failure.message;
    return this.loaded ? "watching" : "listing";
  }

  /** Each reflector's pods are its own: a list replaces those and no others. */
  private listenerOf(): ReflectorListener {
    const { naming } = this.options.settings;
    const own = new Set<string>();
    let listed = new Set<string>();
    let inList = false;
    const drop = (uid: string): void => {
      own.delete(uid);
      this.feed.remove(uid);
    };
    return {
      listing: () => {
        listed = new Set();
        inList = true;
      },
      listed: () => {
        for (const uid of [...own]) if (!listed.has(uid)) drop(uid);
        listed = new Set();
        inList = false;
        this.feed.flush();
        if (this.loaded && !this.toldLoaded) {
          this.toldLoaded = true;
          this.options.onChange();
        }
      },
      put: (object) => {
        const pod = readPod(object, naming);
        if (pod === undefined) {
          // It has ended: a list leaves it out by itself.
          const uid = uidOf(object);
          if (uid !== undefined && !inList) drop(uid);
          return;
        }
        this.feed.put(pod);
        if (this.feed.has(pod.uid)) own.add(pod.uid);
        if (inList) listed.add(pod.uid);
      },
      removed: (object) => {
        const uid = uidOf(object);
        if (uid !== undefined) drop(uid);
      },
    };
  }

  private failed(error: ApiError): void {
    const isNews = this.failure === undefined;
    this.failure = error;
    this.options.onFailure(error, isNews);
    this.look();
  }

  private look(): void {
    const now = this.options.clock.monotonicMs();
    for (const [index, { isWatching }] of this.reflectors.entries()) {
      this.downSince[index] = isWatching ? undefined : (this.downSince[index] ?? now);
    }
    if (this.reflectors.every(({ isWatching }) => isWatching) && (this.failure !== undefined || !this.toldWell)) {
      this.failure = undefined;
      this.toldWell = true;
      this.options.onWell();
    }
    const { broken } = this.health;
    if (broken === this.toldBroken) return;
    this.toldBroken = broken;
    this.options.onChange();
  }
}

function uidOf(object: unknown): string | undefined {
  const uid = (object as { readonly metadata?: { readonly uid?: unknown } } | null | undefined)?.metadata?.uid;
  return typeof uid === "string" && uid !== "" ? uid : undefined;
}
