/** Issuers' public keys: fetched beforehand, refreshed in the background, swapped in whole; the last good set stays. */

import type { createLocalJWKSet, JSONWebKeySet } from "jose";
import { OperatingError } from "../model/errors.ts";
import type { IssuerPolicy } from "../model/policy.ts";
import { MINUTE_MS, SECOND_MS } from "../model/units.ts";
import { loadJose } from "./jose.ts";

export type Keys = ReturnType<typeof createLocalJWKSet>;

const REFRESH_MS = 5 * MINUTE_MS;
/** A token with an unknown key makes the set be fetched anew, but no more often than this. */
const UNKNOWN_KEY_MS = 10 * SECOND_MS;
const FETCH_TIMEOUT_MS = 5 * SECOND_MS;
const JWKS_BYTES_MAX = 1024 * 1024;

interface Entry {
  readonly url: string;
  keys: Keys | undefined;
  fetchedAtMs: number;
  fetching: Promise<void> | undefined;
}

export interface KeySetOptions {
  readonly now: () => number;
  /** Told of every failed fetch; the last good keys stay in force. */
  readonly onError: (error: OperatingError) => void;
  readonly fetch?: typeof fetch;
}

/** Keys by issuer policy. Call {@link KeySets.refresh} regularly. */
export class KeySets {
  private readonly byUrl = new Map<string, Entry>();
  private readonly inline = new Map<string, Keys>();
  private readonly options: KeySetOptions;
  private readonly closing = new AbortController();

  constructor(options: KeySetOptions) {
    this.options = options;
  }

  /** The keys at hand, or `undefined` while none were ever fetched. */
  async keysFor(issuer: IssuerPolicy): Promise<Keys | undefined> {
    if (issuer.jwks.kind === "url") return this.entry(issuer.jwks.url).keys;
    let keys = this.inline.get(issuer.jwks.keys);
    if (keys === undefined) {
      const jose = await loadJose();
      keys = jose.createLocalJWKSet(JSON.parse(issuer.jwks.keys) as JSONWebKeySet);
      this.inline.set(issuer.jwks.keys, keys);
    }
    return keys;
  }

  /** Fetches what is missing or old; resolves when all is done, never rejects. */
  async refresh(issuers: readonly IssuerPolicy[]): Promise<void> {
    const wanted = new Set(issuers.flatMap(({ jwks }) => (jwks.kind === "url" ? [jwks.url] : [])));
    for (const url of this.byUrl.keys()) if (!wanted.has(url)) this.byUrl.delete(url);
    this.inline.clear();
    if (issuers.length > 0) await loadJose(); // before their first token, which would wait for it
    const due = [...wanted].filter((url) => this.options.now() - this.entry(url).fetchedAtMs >= REFRESH_MS);
    await Promise.all(due.map((url) => this.fetchOnce(this.entry(url))));
  }

  /** A token named a key that is not at hand: look once more. */
  async refetch(issuer: IssuerPolicy): Promise<void> {
    if (issuer.jwks.kind !== "url") return;
    const entry = this.entry(issuer.jwks.url);
    if (this.options.now() - entry.fetchedAtMs < UNKNOWN_KEY_MS) return;
    await this.fetchOnce(entry);
  }

  /** Gives up what is being fetched; keys at hand stay. */
  close(): void {
    this.closing.abort();
  }

  private entry(url: string): Entry {
    let entry = this.byUrl.get(url);
    if (entry === undefined) {
      entry = { url, keys: undefined, fetchedAtMs: Number.NEGATIVE_INFINITY, fetching: undefined };
      this.byUrl.set(url, entry);
    }
    return entry;
  }

  private fetchOnce(entry: Entry): Promise<void> {
    entry.fetching ??= this.fetchKeys(entry).finally(() => {
      entry.fetching = undefined;
    });
    return entry.fetching;
  }

  private async fetchKeys(entry: Entry): Promise<void> {
    try {
      const response = await (this.options.fetch ?? fetch)(entry.url, {
        signal: AbortSignal.any([AbortSignal.timeout(FETCH_TIMEOUT_MS), this.closing.signal]),
        redirect: "error",
        headers: { accept: "application/jwk-set+json, application/json" },
      });
      if (!response.ok) throw new Error(`expected status 200, got ${response.status}`);
      const text = await response.text();
      if (text.length > JWKS_BYTES_MAX) throw new Error(`expected at most ${JWKS_BYTES_MAX} bytes, got ${text.length}`);
      const jose = await loadJose();
      entry.keys = jose.createLocalJWKSet(JSON.parse(text) as JSONWebKeySet);
    } catch (cause) {
      if (this.closing.signal.aborted) return;
      // Keeps the last good keys; tokens of an issuer without any stay unverified and name nobody.
      const why = cause instanceof Error ? cause.message : String(cause);
      this.options.onError(new OperatingError("ERR_JWKS", `keys from ${entry.url}: ${why}`, { cause }));
    } finally {
      entry.fetchedAtMs = this.options.now();
    }
  }
}
