/** Holds streams at Envoy and ends them: joins the external processor, the memory of open streams, and their overseer. */

import { externalProcessorService } from "../envoy/ext-proc.ts";
import type { GrpcService } from "../envoy/service.ts";
import type { Outcome, RequestFacts } from "../model/facts.ts";
import type { Line } from "../model/line.ts";
import type { Policy } from "../model/policy.ts";
import { MINUTE_MS, SECOND_MS, toEpochMs } from "../model/units.ts";
import type { Verdict } from "../model/verdict.ts";
import { type OpenStream, OpenStreams } from "../streams/open-streams.ts";
import { type Ending, Overseer } from "../streams/overseer.ts";
import type { Logger } from "../telemetry/log.ts";

const STREAMS_MAX = 100_000;
const AWAITED_MAX = 20_000;
const AWAITED_MS = MINUTE_MS / 2;

/** How often and how many streams are judged anew without an event: a hundred thousand take some five minutes. */
const SWEEP_MS = SECOND_MS;
const SWEPT_MAX = 300;

/** Streams that are looked at before others have a turn. */
const ENDED_AT_ONCE = 25;

/** Streams that one log entry names. */
const NAMED_MAX = 20;

export interface HeldStreamsOptions {
  readonly line: Line;
  readonly policy: () => Policy;
  readonly now: () => number;
  readonly log: Logger;
  readonly onEnd: (because: string) => void;
  readonly onError: (error: unknown) => void;
}

export class HeldStreams {
  readonly service: GrpcService;
  private readonly streams = new OpenStreams({
    streamsMax: STREAMS_MAX,
    awaitedMax: AWAITED_MAX,
    awaitedMs: AWAITED_MS,
  });
  private readonly overseer: Overseer;
  private readonly options: HeldStreamsOptions;
  private readonly timer: NodeJS.Timeout;
  private endings: Ending[] = [];
  private locksChanged = false;

  constructor(options: HeldStreamsOptions) {
    this.options = options;
    const { line, policy } = options;
    this.overseer = new Overseer({ streams: this.streams, line, policy, onEnd: (ending) => this.ended(ending) });
    this.service = externalProcessorService(
      {
        attach: (decisionId, end) => {
          const attached = this.streams.attach(decisionId, options.now(), end);
          // A lock may have come between the check and the stream.
          if (attached.kind === "held") this.overseer.opened(attached.stream, this.now());
          return attached;
        },
        detach: (stream) => this.streams.detach(stream),
      },
      options.onError,
    );
    this.timer = setInterval(() => this.overseer.sweep(this.now(), SWEPT_MAX), SWEEP_MS);
    this.timer.unref();
  }

  /** Streams held now. */
  get size(): number {
    return this.streams.size;
  }

  /** Streams that could not be held, because there are too many. */
  get unwatched(): number {
    return this.streams.unwatched;
  }

  /** Envoy will be told to hold the stream of this request. */
  expect(facts: RequestFacts, verdict: Verdict): void {
    this.streams.expect(facts, verdict);
  }

  /** A verdict was given. */
  judged(verdict: Verdict): void {
    if (verdict.decision.kind !== "allow" && this.streams.size > 0) this.overseer.judged(verdict, this.now());
  }

  /** An access log told of a request. */
  reported({ decisionId, stage }: Outcome): void {
    if (stage === "periodic" && decisionId !== undefined) this.overseer.reported(decisionId, this.now());
  }

  /** Locks were added: looked at once for all that come together. */
  locked(): void {
    if (this.locksChanged || this.streams.size === 0) return;
    this.locksChanged = true;
    setImmediate(() => {
      this.locksChanged = false;
      this.endLocked(this.streams.all(), 0);
    });
  }

  /** In slices: what was ended first is on its way to Envoy and the callers while the next is looked at. */
  private endLocked(streams: readonly OpenStream[], from: number): void {
    const to = Math.min(streams.length, from + ENDED_AT_ONCE);
    this.overseer.locked(this.now(), streams.slice(from, to));
    if (to < streams.length) setImmediate(() => this.endLocked(streams, to));
  }

  /** Posture facts were stated. */
  stated(subject: string): void {
    if (this.streams.size > 0) this.overseer.stated(subject, this.now());
  }

  close(): void {
    clearInterval(this.timer);
  }

  private now() {
    return toEpochMs(this.options.now());
  }

  /** Ends first, words later: the next stream is waiting. */
  private ended(ending: Ending): void {
    if (this.endings.length === 0) setImmediate(() => this.tell());
    this.endings.push(ending);
  }

  private tell(): void {
    const endings = this.endings;
    this.endings = [];
    for (const { because } of endings) this.options.onEnd(because);
    for (const { stream, because, verdict } of endings.slice(0, NAMED_MAX)) {
      this.options.log.info(
        {
          event: "stream.ended",
          decision_id: stream.verdict.decisionId,
          principal: stream.verdict.identity.principal.name,
          because,
          score: verdict?.score,
        },
        "an open stream was ended",
      );
    }
    if (endings.length > NAMED_MAX) {
      this.options.log.info({ event: "streams.ended", more: endings.length - NAMED_MAX }, "and others with them");
    }
  }
}
