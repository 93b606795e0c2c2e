/** A transmitter's public keys: fetched beforehand, refreshed in the background; the last good set stays. */

import { createLocalJWKSet, type JSONWebKeySet } from "jose";
import { checkForm } from "../bundle/forms.ts";
import { Form } from "../gen/sallyport/policy/v1/options_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { MINUTE_MS, SECOND_MS } from "../model/units.ts";
import { call, isCallable, whyFailed } from "./http.ts";

export type Keys = ReturnType<typeof createLocalJWKSet>;

const REFRESH_MS = 5 * MINUTE_MS;
/** A token with an unknown key makes the set be fetched anew, but no more often than this. */
const UNKNOWN_KEY_MS = 10 * SECOND_MS;
const TIMEOUT_MS = 5 * SECOND_MS;
const BYTES_MAX = 1024 * 1024;

/** Where the keys are. */
export type KeyPlace =
  | { readonly kind: "inline"; readonly jwks: string }
  | { readonly kind: "url"; readonly url: string }
  /** Asks where they are: the transmitter's own configuration names the place. */
  | { readonly kind: "discovered"; readonly find: () => Promise<string> };

export interface SourceKeysOptions {
  readonly place: KeyPlace;
  readonly fetch: typeof fetch;
  readonly now: () => number;
  /** Told of every failed fetch; the last good keys stay in force. */
  readonly onError: (error: OperatingError) => void;
}

export class SourceKeys {
  private readonly options: SourceKeysOptions;
  private readonly closing = new AbortController();
  private keys: Keys | undefined;
  private fetchedAtMs = Number.NEGATIVE_INFINITY;
  private goodAtMs = Number.NEGATIVE_INFINITY;
  private fetching: Promise<void> | undefined;
  private timer: NodeJS.Timeout | undefined;

  constructor(options: SourceKeysOptions) {
    this.options = options;
    if (options.place.kind === "inline") this.keys = createLocalJWKSet(JSON.parse(options.place.jwks) as JSONWebKeySet);
  }

  /** Begins to fetch, and goes on in the background. */
  start(): void {
    if (this.options.place.kind === "inline") return;
    void this.fetchOnce();
    this.timer = setInterval(() => void this.fetchOnce(), REFRESH_MS);
    this.timer.unref();
  }

  /** The keys at hand; fetches them when there are none yet, as often as is allowed. */
  async get(): Promise<Keys | undefined> {
    if (this.keys === undefined) await this.refetch();
    return this.keys;
  }

  /**
   * A token names a key that is not at hand: looks once more.
   * @returns whether the keys at hand are fresh; if not, the key may exist all the same
   */
  async refetch(): Promise<boolean> {
    if (this.options.place.kind === "inline") return true;
    const { now } = this.options;
    const before = now();
    if (before - this.fetchedAtMs >= UNKNOWN_KEY_MS || this.fetching !== undefined) await this.fetchOnce();
    return this.goodAtMs >= before;
  }

  close(): void {
    clearInterval(this.timer);
    this.closing.abort();
  }

  private fetchOnce(): Promise<void> {
    this.fetching ??= this.fetchKeys().finally(() => {
      this.fetching = undefined;
    });
    return this.fetching;
  }

  private async fetchKeys(): Promise<void> {
    const { place, now, onError } = this.options;
    if (place.kind === "inline") return;
    let from = "where the transmitter says";
    try {
      from = place.kind === "url" ? place.url : await place.find();
      if (!isCallable(from)) throw new Error("expected an https URL");
      const answer = await call(this.options.fetch, from, {
        method: "GET",
        headers: { accept: "application/jwk-set+json, application/json" },
        timeoutMs: TIMEOUT_MS,
        bytesMax: BYTES_MAX,
        signal: this.closing.signal,
      });
      if (answer.status !== 200) throw new Error(`expected status 200, got ${answer.status}`);
      const fault = checkForm(Form.JWKS, answer.text);
      if (fault !== undefined) throw new Error(`expected ${fault.expected}, got ${fault.got}`);
      this.keys = createLocalJWKSet(JSON.parse(answer.text) as JSONWebKeySet);
      this.goodAtMs = now();
    } catch (cause) {
      if (this.closing.signal.aborted) return;
      // Keeps the last good keys; without any, tokens are neither taken nor refused: they are to come again.
      onError(new OperatingError("ERR_JWKS", `keys from ${from}: ${whyFailed(cause)}`, { cause }));
    } finally {
      this.fetchedAtMs = now();
    }
  }
}
