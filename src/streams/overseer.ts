/** Judges open streams anew when something has changed that concerns them, and ends those that would be refused now. */

import type { Line } from "../model/line.ts";
import type { Policy, StreamPolicy } from "../model/policy.ts";
import { type EpochMs, toEpochMs } from "../model/units.ts";
import type { Verdict } from "../model/verdict.ts";
import type { OpenStream, OpenStreams } from "./open-streams.ts";

/** Why a stream was ended. */
export interface Ending {
  readonly stream: OpenStream;
  /** `lock`, `expired`, or what the new verdict says, such as `score` or the name of a rule. */
  readonly because: string;
  /** The verdict of now; `undefined` where it was not asked for. */
  readonly verdict: Verdict | undefined;
}

export interface OverseerOptions {
  readonly streams: OpenStreams;
  readonly line: Pick<Line, "review" | "locks">;
  /** The policy in force; asked once for each stream. */
  readonly policy: () => Policy;
  /** Told of every stream that was ended. */
  readonly onEnd: (ending: Ending) => void;
}

export class Overseer {
  private readonly options: OverseerOptions;
  /** Streams that the running round has not come to yet. */
  private round: readonly OpenStream[] = [];
  private next = 0;

  constructor(options: OverseerOptions) {
    this.options = options;
  }

  /** Locks were set: what one of them matches ends, without judging more. */
  locked(now: EpochMs, among: readonly OpenStream[] = this.options.streams.all()): void {
    for (const stream of among) this.opened(stream, now);
  }

  /** A stream was opened: a lock may have been set since its request was let through. */
  opened(stream: OpenStream, now: EpochMs): void {
    const { facts, verdict } = stream;
    if (verdict.mode === "observe") return;
    const lock = this.options.line.locks.match(facts, verdict.identity, verdict.peerGroup, now);
    if (lock !== undefined) this.end(stream, "lock", undefined);
  }

  /** A request was not simply let through: whatever is open of its principal, or with its credential, is judged anew. */
  judged({ identity }: Verdict, now: EpochMs): void {
    for (const stream of this.options.streams.related(identity.principal.name, identity.credential)) {
      this.review(stream, now);
    }
  }

  /** A stream reported what it has carried so far. */
  reported(decisionId: string, now: EpochMs): void {
    const stream = this.options.streams.byId(decisionId);
    if (stream !== undefined) this.review(stream, now);
  }

  /** Posture facts were stated of a principal or an address. */
  stated(subject: string, now: EpochMs): void {
    for (const stream of this.options.streams.all()) {
      const { facts, verdict } = stream;
      if (verdict.identity.principal.name === subject || facts.sourceAddress === subject) this.review(stream, now);
    }
  }

  /**
   * Judges the next streams of the running round; when all were, a new round begins. Finds what no event tells: a
   * credential past its end, facts grown stale, another policy.
   * @param most how many
   */
  sweep(now: EpochMs, most: number): void {
    if (this.next >= this.round.length) {
      this.round = this.options.streams.all();
      this.next = 0;
    }
    const end = Math.min(this.round.length, this.next + most);
    while (this.next < end) this.review(this.round[this.next++] as OpenStream, now);
  }

  private review(stream: OpenStream, now: EpochMs): void {
    const { line, policy, streams } = this.options;
    if (streams.byId(stream.verdict.decisionId) !== stream) return;
    const current = policy();
    const verdict = line.review({ ...stream.facts, time: toEpochMs(now) }, current);
    if (verdict.mode === "observe") return;
    const because =
      current.streams.endWithCredential && isPast(stream, now) ? "expired" : endingOf(verdict, current.streams);
    if (because !== undefined) this.end(stream, because, verdict);
  }

  private end(stream: OpenStream, because: string, verdict: Verdict | undefined): void {
    stream.end(because);
    this.options.streams.detach(stream);
    this.options.onEnd({ stream, because, verdict });
  }
}

/** Why a stream with this verdict of now is to end, if it is. */
function endingOf({ decision }: Verdict, policy: StreamPolicy): string | undefined {
  switch (decision.kind) {
    case "deny":
    case "terminate":
      return decision.because;
    case "challenge":
      // Nobody can be challenged in the middle of a stream; whoever opens it again is.
      return policy.endOnChallenge ? "challenge" : undefined;
    case "allow":
      return undefined;
  }
}

/** Whether the credential that opened the stream has ended: the token's `exp`, else the certificate's `notAfter`. */
function isPast({ facts: { presented } }: OpenStream, now: EpochMs): boolean {
  const { token, certificate } = presented;
  const end = token.kind === "verified" ? token.expiresAt : certificate?.notAfter;
  return end !== undefined && now >= end;
}
