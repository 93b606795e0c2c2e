/** Pushes a stream's events to its receiver (RFC 8935), in order, until each is taken or given up. */

import { backoffMs, pause } from "./backoff.ts";
import type { TransmitConfig } from "./config.ts";
import { call, parseJson, whyFailed } from "./http.ts";
import type { Outbox, Stream, Undelivered } from "./outbox.ts";
import { record, text } from "./subjects.ts";
import { type Surroundings, tellError } from "./surroundings.ts";

/** So often is a token offered again that its receiver refused: keys and clocks may still come right. */
export const REFUSALS_MAX = 5;
const BYTES_MAX = 64 * 1024;

export interface PusherOptions {
  readonly stream: string;
  readonly config: TransmitConfig;
  readonly outbox: Outbox;
  readonly surroundings: Surroundings;
  readonly sign: (event: Undelivered, stream: Stream) => Promise<string>;
  /** Told of events that will not be delivered, and why. */
  readonly onGivenUp: (stream: Stream, event: Undelivered, why: string) => void;
}

export class Pusher {
  /** Failures in a row, for status. */
  failures = 0;
  private readonly options: PusherOptions;
  private readonly closing = new AbortController();
  private woken: (() => void) | undefined;
  private refusals = 0;
  private running: Promise<void> = Promise.resolve();

  constructor(options: PusherOptions) {
    this.options = options;
  }

  start(): void {
    this.running = this.run();
  }

  /** There may be something to do. */
  wake(): void {
    this.woken?.();
  }

  async close(): Promise<void> {
    this.closing.abort();
    this.woken?.();
    await this.running;
  }

  private async run(): Promise<void> {
    const { outbox, config, surroundings } = this.options;
    const { signal } = this.closing;
    while (!signal.aborted) {
      const stream = outbox.stream(this.options.stream);
      const event = stream?.status === "enabled" ? outbox.undelivered(stream.id).next().value : undefined;
      if (stream === undefined || event === undefined || stream.delivery.method !== "push") {
        await new Promise<void>((resolve) => {
          this.woken = resolve;
        });
        continue;
      }
      let retryAfterMs: number | undefined;
      try {
        retryAfterMs = await this.deliver(stream, event);
      } catch (error) {
        if (signal.aborted) return;
        // Keeps the event: it is offered again.
        tellError(surroundings.telling, "shared_signals.delivery_trouble", error, { receiver: stream.receiver });
        retryAfterMs = 0;
      }
      if (retryAfterMs === undefined) {
        this.failures = 0;
        continue;
      }
      const backoff = backoffMs(++this.failures, config.retryMinMs, config.retryMaxMs, surroundings.random);
      await pause(Math.min(config.retryMaxMs, Math.max(retryAfterMs, backoff)), signal);
    }
  }

  /** @returns after which time to try again at the earliest; `undefined`: the event is settled */
  private async deliver(stream: Stream, event: Undelivered): Promise<number | undefined> {
    const { outbox, surroundings } = this.options;
    const said = await this.offer(stream, event);
    if (said.kind === "taken") {
      this.refusals = 0;
      // A stop between these two lines delivers it a second time, under the same jti.
      await outbox.settle(stream.id, [event.jti]);
      surroundings.telling.count("sent", { receiver: stream.receiver, outcome: "delivered", event: event.kind });
      return undefined;
    }
    surroundings.telling.log(
      "warn",
      "shared_signals.delivery_failed",
      { receiver: stream.receiver, event: event.kind, jti: event.jti, failures: this.failures + 1 },
      said.why,
    );
    if (said.kind === "refused" && ++this.refusals >= REFUSALS_MAX) {
      this.refusals = 0;
      await outbox.settle(stream.id, [event.jti]);
      this.options.onGivenUp(stream, event, said.why);
      return undefined;
    }
    return said.retryAfterMs;
  }

  private async offer(stream: Stream, event: Undelivered): Promise<Said> {
    const { config, surroundings, sign } = this.options;
    const { delivery } = stream;
    if (delivery.method !== "push") return { kind: "failed", why: "the stream is polled", retryAfterMs: 0 };
    const token = await sign(event, stream);
    try {
      const answer = await call(surroundings.fetch, delivery.url, {
        method: "POST",
        headers: {
          "content-type": "application/secevent+jwt",
          accept: "application/json",
          ...(delivery.authorization === undefined ? {} : { authorization: delivery.authorization }),
        },
        body: token,
        timeoutMs: config.timeoutMs,
        bytesMax: BYTES_MAX,
        signal: this.closing.signal,
      });
      if (answer.status >= 200 && answer.status < 300) return { kind: "taken" };
      if (answer.status === 400) return { kind: "refused", why: refusalOf(answer.text), retryAfterMs: 0 };
      return {
        kind: "failed",
        why: `expected status 202, got ${answer.status}`,
        retryAfterMs: answer.retryAfterMs ?? 0,
      };
    } catch (error) {
      if (this.closing.signal.aborted) throw error;
      return { kind: "failed", why: whyFailed(error), retryAfterMs: 0 };
    }
  }
}

type Said =
  | { readonly kind: "taken" }
  /** The receiver says that it will never take it. */
  | { readonly kind: "refused"; readonly why: string; readonly retryAfterMs: number }
  | { readonly kind: "failed"; readonly why: string; readonly retryAfterMs: number };

function refusalOf(body: string): string {
  const { err, description } = record(parseJson(body)) ?? {};
  return `refused: ${text(err, 64) ?? "no reason"}${text(description, 256) === undefined ? "" : `: ${description}`}`;
}
