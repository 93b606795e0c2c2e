/** Policy from an HTTPS address: polled, with back-off, within bounds of time and size. */

import { OperatingError } from "../../model/errors.ts";
import { MINUTE_MS, SECOND_MS } from "../../model/units.ts";
import { type Fetched, Fetcher, type FetchLimits } from "./fetch.ts";
import type { PolicySource, SourceClock, SourceListener } from "./source.ts";

export interface UrlSourceOptions {
  readonly url: URL;
  readonly pollMs: number;
  readonly bytesMax: number;
  /** Holds a bearer token; read anew at every look. */
  readonly tokenFile: string | undefined;
  /** PEM certificates believed instead of the system's; read anew at every look. */
  readonly caFile: string | undefined;
  readonly clock: SourceClock;
  /** For how long ago things were. */
  readonly monotonicMs: () => number;
  readonly limits?: FetchLimits;
}

/** First wait after a failure; doubles with each further one. */
const BACKOFF_MS_MIN = SECOND_MS;
const BACKOFF_MS_MAX = 5 * MINUTE_MS;
/** A server may ask for at most this much patience with Retry-After. */
const RETRY_AFTER_MS_MAX = 60 * MINUTE_MS;
/** Polls of a fleet that started together drift apart by this share. */
const POLL_JITTER = 0.1;
/** Refused content is asked for whole again after this long: what spoke against it may have been this machine's clock. */
const REFUSED_AGAIN_MS = 10 * MINUTE_MS;

export class UrlSource implements PolicySource {
  readonly kind = "url";
  readonly label: string;
  private readonly options: UrlSourceOptions;
  private readonly fetcher: Fetcher;
  private readonly closing = new AbortController();
  private listener: SourceListener | undefined;
  private running: Promise<number | undefined> = Promise.resolve(undefined);
  private validators: { readonly etag: string | undefined; readonly modified: string | undefined } | undefined;
  private refusedAtMs: number | undefined;
  private failures = 0;

  constructor(options: UrlSourceOptions) {
    this.options = options;
    this.label = labelOf(options.url);
    this.fetcher = new Fetcher({ ...options, label: this.label, signal: this.closing.signal });
  }

  start(listener: SourceListener): void {
    this.listener = listener;
    void this.poll();
  }

  /** Looks now; the regular looks go on as they were. */
  async check(): Promise<void> {
    await this.lookOnce();
  }

  close(): void {
    this.closing.abort();
    void this.fetcher.close();
  }

  private async poll(): Promise<void> {
    const { signal } = this.closing;
    while (!signal.aborted) {
      const retryAfterMs = await this.lookOnce();
      await this.options.clock.sleep(this.waitMs(retryAfterMs), signal);
    }
  }

  /** Up to the next look, milliseconds. */
  private waitMs(retryAfterMs: number | undefined): number {
    const { pollMs, clock } = this.options;
    if (this.failures === 0) return pollMs * (1 - POLL_JITTER + 2 * POLL_JITTER * clock.random());
    const ceiling = Math.min(Math.max(BACKOFF_MS_MAX, pollMs), BACKOFF_MS_MIN * 2 ** Math.min(this.failures - 1, 30));
    // Between half and all of the ceiling: spread out, and never at once.
    const backoffMs = ceiling * (0.5 + 0.5 * clock.random());
    return Math.max(backoffMs, Math.min(retryAfterMs ?? 0, RETRY_AFTER_MS_MAX));
  }

  /** One look at a time. @returns what the server asked to wait */
  private lookOnce(): Promise<number | undefined> {
    this.running = this.running.then(() => this.look());
    return this.running;
  }

  private async look(): Promise<number | undefined> {
    const { listener, closing } = this;
    if (listener === undefined || closing.signal.aborted) return undefined;
    const { monotonicMs } = this.options;
    if (this.refusedAtMs !== undefined && monotonicMs() - this.refusedAtMs >= REFUSED_AGAIN_MS) {
      this.validators = undefined;
    }
    let fetched: Fetched;
    try {
      fetched = await this.fetcher.get(this.validators);
    } catch (error) {
      if (closing.signal.aborted) return undefined;
      // Keeps the last good policy.
      this.failures++;
      listener.failed(asUnreachable(error, this.label));
      return undefined;
    }
    if (closing.signal.aborted) return undefined;
    switch (fetched.kind) {
      case "unchanged":
        if (this.refusedAtMs !== undefined) return this.failed();
        this.failures = 0;
        listener.confirmed();
        return undefined;
      case "busy":
        this.failures++;
        listener.failed(fetched.error);
        return fetched.retryAfterMs;
      case "content": {
        const result = await listener.offer(
          { kind: "bytes", label: this.label, bytes: fetched.bytes },
          { from: this.label },
        );
        this.validators = fetched.validators;
        this.refusedAtMs = result.kind === "refused" ? monotonicMs() : undefined;
        if (result.kind === "refused") return this.failed();
        this.failures = 0;
        return undefined;
      }
    }
  }

  /** The server still has what was refused: told already. */
  private failed(): undefined {
    this.failures++;
    return undefined;
  }
}

/** A query may hold a signature that opens the address to whoever reads it: it is not shown. */
function labelOf(url: URL): string {
  return `${url.origin}${url.pathname}`;
}

function asUnreachable(error: unknown, label: string): OperatingError {
  if (error instanceof OperatingError) return error;
  const kind = error instanceof Error ? error.name : typeof error;
  return new OperatingError("ERR_BUNDLE_UNREACHABLE", `${label}: ${kind}`, { cause: error });
}
