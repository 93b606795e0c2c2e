/** Fetches tokens from a transmitter (RFC 8936): waits for them, takes them, and acknowledges with the next call. */

import { backoffMs, pause } from "./backoff.ts";
import type { PollConfig } from "./config.ts";
import { call, parseJson, whyFailed } from "./http.ts";
import type { Intake } from "./intake.ts";
import type { SetFault } from "./set.ts";
import { record } from "./subjects.ts";
import type { Surroundings } from "./surroundings.ts";
import { SET_CHARS_MAX } from "./verify.ts";

/** What is acknowledged at the end is sent within this time, or acknowledged again after the restart. */
const LAST_ACK_MS = 2_000;

export interface PollerOptions {
  readonly transmitter: string;
  readonly config: PollConfig;
  readonly intake: Intake;
  readonly surroundings: Surroundings;
  readonly token: () => string | undefined;
}

export class Poller {
  private readonly options: PollerOptions;
  private readonly closing = new AbortController();
  private endpoint: string | undefined;
  private known: (() => void) | undefined;
  private acks: string[] = [];
  private readonly faults = new Map<string, SetFault>();
  private running: Promise<void> = Promise.resolve();

  constructor(options: PollerOptions) {
    this.options = options;
    this.endpoint = options.config.endpoint;
  }

  start(): void {
    this.running = this.run();
  }

  /** The transmitter said where to poll. */
  setEndpoint(url: string): void {
    this.endpoint = this.options.config.endpoint ?? url;
    this.known?.();
  }

  async close(): Promise<void> {
    this.closing.abort();
    this.known?.();
    await this.running;
    if (this.endpoint === undefined || (this.acks.length === 0 && this.faults.size === 0)) return;
    try {
      await this.post(
        this.endpoint,
        { maxEvents: 0, returnImmediately: true },
        LAST_ACK_MS,
        new AbortController().signal,
      );
    } catch {
      // Fails to a repetition: what was taken comes again after the restart, and is acknowledged then.
    }
  }

  private async run(): Promise<void> {
    const { config, surroundings, transmitter } = this.options;
    const { signal } = this.closing;
    let failures = 0;
    while (!signal.aborted) {
      const { endpoint } = this;
      if (endpoint === undefined) {
        await new Promise<void>((resolve) => {
          this.known = resolve;
        });
        continue;
      }
      let waitMs = 0;
      const askedAtMs = surroundings.now();
      try {
        const came = await this.pollOnce(endpoint);
        // Tokens that could not be taken now would come again at once.
        failures = came === "unsettled" ? failures + 1 : 0;
        // A transmitter that does not hold an empty call open is not asked without end.
        if (came === "nothing" && surroundings.now() - askedAtMs < config.retryMinMs)
          await pause(config.retryMinMs, signal);
      } catch (error) {
        if (signal.aborted) return;
        // Keeps trying; what was taken stays to be acknowledged.
        failures++;
        waitMs = error instanceof Refusal ? (error.retryAfterMs ?? 0) : 0;
        surroundings.telling.log(
          "warn",
          "shared_signals.poll_failed",
          { transmitter, failures },
          `poll of ${endpoint}: ${whyFailed(error)}`,
        );
      }
      if (failures === 0) continue;
      const { retryMinMs, retryMaxMs } = config;
      const backoff = backoffMs(failures, retryMinMs, retryMaxMs, surroundings.random);
      await pause(Math.min(retryMaxMs, Math.max(waitMs, backoff)), signal);
    }
  }

  private async pollOnce(endpoint: string): Promise<"nothing" | "settled" | "unsettled"> {
    const { config, intake } = this.options;
    // What waits to be acknowledged goes now; nobody holds it back for what may come.
    const returnImmediately = this.acks.length > 0 || this.faults.size > 0;
    const request = { maxEvents: config.maxEvents, returnImmediately };
    const sets = await this.post(endpoint, request, config.timeoutMs, this.closing.signal);
    const came = Object.entries(sets).slice(0, config.maxEvents);
    if (came.length === 0) return returnImmediately ? "settled" : "nothing";
    let settled = true;
    for (const [jti, token] of came) {
      if (this.closing.signal.aborted) break;
      if (typeof token !== "string") {
        this.faults.set(jti, { err: "invalid_request", description: "expected a token as text" });
        continue;
      }
      const taken = await intake.take(token);
      if (taken.kind === "not_now") settled = false;
      else if (taken.kind === "refused") this.faults.set(jti, taken.fault);
      else if (taken.jti === jti) this.acks.push(jti);
      else
        this.faults.set(jti, { err: "invalid_request", description: "the token has another jti than its name here" });
    }
    return settled ? "settled" : "unsettled";
  }

  private async post(
    endpoint: string,
    request: { readonly maxEvents: number; readonly returnImmediately: boolean },
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<Readonly<Record<string, unknown>>> {
    const acks = [...this.acks];
    const faults = [...this.faults];
    const token = this.options.token();
    const answer = await call(this.options.surroundings.fetch, endpoint, {
      method: "POST",
      headers: {
        accept: "application/json",
        "content-type": "application/json",
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify({
        ...request,
        ...(acks.length === 0 ? {} : { ack: acks }),
        ...(faults.length === 0 ? {} : { setErrs: Object.fromEntries(faults) }),
      }),
      timeoutMs,
      bytesMax: (this.options.config.maxEvents + 1) * (SET_CHARS_MAX + 1_024),
      signal,
    });
    if (answer.status !== 200) throw new Refusal(answer.status, answer.retryAfterMs);
    const body = record(parseJson(answer.text));
    const sets = record(body?.sets ?? {});
    if (body === undefined || sets === undefined) throw new Error("expected JSON with sets");
    // Only now is it known that the transmitter heard of these.
    this.acks = this.acks.filter((jti) => !acks.includes(jti));
    for (const [jti] of faults) this.faults.delete(jti);
    return sets;
  }
}

class Refusal extends Error {
  readonly retryAfterMs: number | undefined;
  constructor(status: number, retryAfterMs: number | undefined) {
    super(`expected status 200, got ${status}`);
    this.retryAfterMs = retryAfterMs;
  }
}
