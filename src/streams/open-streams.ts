/** Streams that Envoy holds open under our watch, so that each can be ended at any moment; bounded. */

import type { RequestFacts } from "../model/facts.ts";
import type { Verdict } from "../model/verdict.ts";

/** A request that was let through and may stay open for long. */
export interface Admitted {
  readonly facts: RequestFacts;
  readonly verdict: Verdict;
}

/** A stream that is open now. */
export interface OpenStream extends Admitted {
  readonly openedAtMs: number;
  /** Ends it at Envoy; further calls do nothing. */
  readonly end: (because: string) => void;
}

export interface OpenStreamsOptions {
  /** Streams held at most; Envoy is asked to let further ones go on unwatched, and they are counted. */
  readonly streamsMax: number;
  /** Admitted requests waiting for Envoy to hold them; the oldest goes first. */
  readonly awaitedMax: number;
  /** How long one waits, milliseconds: Envoy asks at once or, where no filter holds streams, never. */
  readonly awaitedMs: number;
}

export type Attached =
  | { readonly kind: "held"; readonly stream: OpenStream }
  /** No admitted request of that id waits: of an earlier process, or it waited too long. */
  | { readonly kind: "unknown" }
  | { readonly kind: "full" };

/** Open streams by decision, principal and credential. */
export class OpenStreams {
  /** Streams let go on without watch since the start, because `streamsMax` were held. */
  unwatched = 0;
  private readonly options: OpenStreamsOptions;
  private readonly awaited = new Map<string, Admitted>();
  private readonly byDecision = new Map<string, OpenStream>();
  private readonly byPrincipal = new Map<string, Set<OpenStream>>();
  private readonly byCredential = new Map<string, Set<OpenStream>>();

  constructor(options: OpenStreamsOptions) {
    this.options = options;
  }

  get size(): number {
    return this.byDecision.size;
  }

  /** Notes that Envoy was told to hold the stream of this request. */
  expect(facts: RequestFacts, verdict: Verdict): void {
    const oldest = this.awaited.entries().next().value;
    const tooOld = oldest !== undefined && facts.time - oldest[1].facts.time > this.options.awaitedMs;
    if (oldest !== undefined && (tooOld || this.awaited.size >= this.options.awaitedMax))
      this.awaited.delete(oldest[0]);
    this.awaited.set(verdict.decisionId, { facts, verdict });
  }

  /**
   * Envoy holds a stream.
   * @param decisionId as the verdict gave it
   * @param now milliseconds since the epoch
   * @param end ends the stream at Envoy
   */
  attach(decisionId: string, now: number, end: (because: string) => void): Attached {
    const admitted = this.awaited.get(decisionId);
    if (admitted === undefined) return { kind: "unknown" };
    this.awaited.delete(decisionId);
    if (now - admitted.facts.time > this.options.awaitedMs) return { kind: "unknown" };
    if (this.byDecision.size >= this.options.streamsMax) {
      this.unwatched++;
      return { kind: "full" };
    }
    let open = true;
    const stream: OpenStream = {
      ...admitted,
      openedAtMs: now,
      end: (because) => {
        if (!open) return;
        open = false;
        end(because);
      },
    };
    this.byDecision.set(decisionId, stream);
    addTo(this.byPrincipal, admitted.verdict.identity.principal.name, stream);
    addTo(this.byCredential, admitted.verdict.identity.credential, stream);
    return { kind: "held", stream };
  }

  /** Envoy holds the stream no more: it ended, or was ended. */
  detach(stream: OpenStream): void {
    const { decisionId, identity } = stream.verdict;
    if (this.byDecision.get(decisionId) !== stream) return;
    this.byDecision.delete(decisionId);
    removeFrom(this.byPrincipal, identity.principal.name, stream);
    removeFrom(this.byCredential, identity.credential, stream);
  }

  byId(decisionId: string): OpenStream | undefined {
    return this.byDecision.get(decisionId);
  }

  all(): readonly OpenStream[] {
    return [...this.byDecision.values()];
  }

  /** Streams of a principal or with its credential, whoever presents it. */
  related(principal: string, credential: string): readonly OpenStream[] {
    const found = new Set(this.byPrincipal.get(principal));
    for (const stream of this.byCredential.get(credential) ?? []) found.add(stream);
    return [...found];
  }
}

function addTo(index: Map<string, Set<OpenStream>>, key: string, stream: OpenStream): void {
  const streams = index.get(key);
  if (streams === undefined) index.set(key, new Set([stream]));
  else streams.add(stream);
}

function removeFrom(index: Map<string, Set<OpenStream>>, key: string, stream: OpenStream): void {
  const streams = index.get(key);
  streams?.delete(stream);
  if (streams?.size === 0) index.delete(key);
}
