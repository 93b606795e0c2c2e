/**
 * Follows one collection of the Kubernetes API: lists it in pages, watches it from there on, and lists again when the
 * server no longer has what came since (410 Gone). Keeps nothing itself: what it hears goes to its listener.
 */

import { MINUTE_MS, SECOND_MS } from "../../model/units.ts";
import { ApiError, type KubernetesApi, UnreadableError } from "./api.ts";

/** Objects of one page: a page is held in memory whole. */
const PAGE_ITEMS = 500;
/** The server ends a watch after some minutes; spread, so that a fleet of control planes does not begin anew together. */
const WATCH_SECONDS_MIN = 300;
const WATCH_SECONDS_SPREAD = 300;
/** A watch on which nothing comes for this long hangs: bookmarks come about once a minute. */
const IDLE_MS_MAX = 100 * SECOND_MS;
/** A watch that lasted this long was a good one. */
const GOOD_WATCH_MS = 5 * SECOND_MS;
const BACKOFF_MS_MIN = 500;
const BACKOFF_MS_MAX = 30 * SECOND_MS;
/** Most that `Retry-After` is heeded for. */
const RETRY_AFTER_MS_MAX = 5 * MINUTE_MS;
const GONE = 410;

/** Hears what there is. All calls are synchronous and in order. */
export interface ReflectorListener {
  /** A list begins: what is put until `listed` is all there is. */
  listing(): void;
  listed(): void;
  /** It is there, or has changed. */
  put(object: unknown): void;
  removed(object: unknown): void;
}

export interface ReflectorClock {
  readonly monotonicMs: () => number;
  readonly random: () => number;
  /** Resolves after `ms`, or at once when the signal is aborted. */
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>;
}

export interface ReflectorOptions {
  readonly api: KubernetesApi;
  /** `/api/v1/pods`, or the same of one namespace. */
  readonly path: string;
  /** Selectors, as parameters of the query. */
  readonly query: Readonly<Record<string, string>>;
  readonly listener: ReflectorListener;
  readonly clock: ReflectorClock;
  /** Told of each failure; it is tried again by itself. */
  readonly onFailure: (error: ApiError) => void;
  /** Told each time a watch is open. */
  readonly onWatching: () => void;
  /** Told each time it begins with a list. */
  readonly onList: () => void;
  /** A watch on which nothing comes for this long is begun anew, milliseconds. Default 100 s. */
  readonly idleMsMax?: number;
}

export class Reflector {
  private readonly options: ReflectorOptions;
  private readonly ended = new AbortController();
  /** Where the watch goes on; `undefined`: a list comes first. */
  private resourceVersion: string | undefined;
  private heardAtMs: number | undefined;
  private watching = false;
  private isLoaded = false;
  private running: Promise<void> | undefined;

  constructor(options: ReflectorOptions) {
    this.options = options;
  }

  /** Whether everything was listed once. */
  get loaded(): boolean {
    return this.isLoaded;
  }

  get isWatching(): boolean {
    return this.watching;
  }

  /** Monotonic time at which the server was last heard; `undefined`: never. */
  get heardMs(): number | undefined {
    return this.heardAtMs;
  }

  start(): void {
    this.running ??= this.run();
  }

  async close(): Promise<void> {
    this.ended.abort();
    await this.running;
  }

  private async run(): Promise<void> {
    const { signal } = this.ended;
    const { clock, onFailure } = this.options;
    let failures = 0;
    let wasUnreadable = false;
    while (!signal.aborted) {
      const begunMs = clock.monotonicMs();
      let waitMs = 0;
      try {
        if (this.resourceVersion === undefined) await this.list(signal);
        await this.watch(signal);
        // Watches end by themselves after some minutes; one that ends at once is no good one.
        failures = clock.monotonicMs() - begunMs >= GOOD_WATCH_MS ? 0 : failures + 1;
      } catch (cause) {
        if (signal.aborted) return;
        this.watching = false;
        const error = failureOf(cause, this.options.path);
        // Keeps what is known, which ages meanwhile; it is tried again for as long as this process lives.
        const isUnreadable = error instanceof UnreadableError;
        if (error.status === GONE || (isUnreadable && wasUnreadable)) this.resourceVersion = undefined;
        wasUnreadable = isUnreadable;
        failures = clock.monotonicMs() - begunMs >= GOOD_WATCH_MS ? 1 : failures + 1;
        waitMs = Math.min(RETRY_AFTER_MS_MAX, error.retryAfterMs ?? 0);
        onFailure(error);
      } finally {
        this.watching = false;
      }
      if (failures > 0) {
        const most = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** Math.min(failures - 1, 10));
        await clock.sleep(waitMs + most * (0.5 + clock.random() / 2), signal);
      }
    }
  }

  /** In pages: a large cluster's pods do not fit into one answer. */
  private async list(signal: AbortSignal): Promise<void> {
    const { api, path, query, listener, onList } = this.options;
    onList();
    listener.listing();
    let next = "";
    do {
      const page = await api.get(
        path,
        { ...query, limit: String(PAGE_ITEMS), ...(next === "" ? {} : { continue: next }) },
        signal,
      );
      const { metadata, items } = (page ?? {}) as {
        readonly metadata?: { readonly resourceVersion?: unknown; readonly continue?: unknown };
        readonly items?: unknown;
      };
      const version = metadata?.resourceVersion;
      if (typeof version !== "string" || version === "" || !Array.isArray(items ?? [])) {
        throw new ApiError(`kubernetes ${path}: expected a list with a resource version, got something else`);
      }
      this.heard();
      for (const item of (items ?? []) as readonly unknown[]) listener.put(item);
      next = typeof metadata?.continue === "string" ? metadata.continue : "";
      if (next === "") this.resourceVersion = version;
    } while (next !== "");
    listener.listed();
    this.isLoaded = true;
  }

  private async watch(signal: AbortSignal): Promise<void> {
    const { api, path, query, clock, onWatching } = this.options;
    const over = new AbortController();
    const either = AbortSignal.any([signal, over.signal]);
    const idleMsMax = this.options.idleMsMax ?? IDLE_MS_MAX;
    let timer: NodeJS.Timeout | undefined;
    const wait = (): void => {
      clearTimeout(timer);
      timer = setTimeout(() => over.abort(), idleMsMax).unref();
    };
    const alive = (): void => {
      this.heard();
      wait();
    };
    const timeoutSeconds = String(Math.floor(WATCH_SECONDS_MIN + WATCH_SECONDS_SPREAD * clock.random()));
    const asked = {
      ...query,
      watch: "true",
      allowWatchBookmarks: "true",
      resourceVersion: this.resourceVersion!,
      timeoutSeconds,
    };
    wait();
    try {
      const opened = (): void => {
        this.watching = true;
        alive();
        onWatching();
      };
      for await (const event of api.watch(path, asked, either, opened)) {
        alive();
        this.take(event);
      }
    } catch (cause) {
      if (over.signal.aborted && !signal.aborted) {
        throw new ApiError(`kubernetes ${path}: nothing was heard for ${idleMsMax / SECOND_MS} s: the watch hangs`);
      }
      throw cause;
    } finally {
      clearTimeout(timer);
    }
  }

  /** One WatchEvent (meta/v1). */
  private take(event: unknown): void {
    const { path, listener } = this.options;
    const { type, object } = (event ?? {}) as { readonly type?: unknown; readonly object?: unknown };
    if (type === "ERROR") {
      const { code, message } = (object ?? {}) as { readonly code?: unknown; readonly message?: unknown };
      const status = typeof code === "number" ? code : undefined;
      const said = typeof message === "string" ? message.slice(0, 300) : "";
      throw new ApiError(`kubernetes ${path}: the watch ended: ${status ?? "error"} ${said}`, status);
    }
    const version = (object as { readonly metadata?: { readonly resourceVersion?: unknown } } | null | undefined)
      ?.metadata?.resourceVersion;
    if (typeof version !== "string" || version === "") {
      throw new UnreadableError(`kubernetes ${path}: expected an event with a resource version, got something else`);
    }
    if (type === "ADDED" || type === "MODIFIED") listener.put(object);
    else if (type === "DELETED") listener.removed(object);
    // Bookmarks say only how far the server has come.
    this.resourceVersion = version;
  }

  private heard(): void {
    this.heardAtMs = this.options.clock.monotonicMs();
  }
}

/** A defect in reading pods must not take the fleet's control plane away: it is a failure like any other. */
function failureOf(cause: unknown, path: string): ApiError {
  if (cause instanceof ApiError) return cause;
  return new ApiError(`kubernetes ${path}: what came could not be read`, undefined, undefined, { cause });
}
