/** Metrics of how policy comes in, and of what is in force. */

import type { PolicyFreshness } from "../model/bundle.ts";
import { Counter, Gauge, Histogram, type Registry } from "./prometheus.ts";

/** Where a load came from: a source, the disk at the start, or the candidate in shadow. */
export type LoadSource = "file" | "url" | "control" | "disk" | "shadow";
export type LoadOutcome = "accepted" | "refused" | "unchanged";

/** What is in force, as gauges show it. */
export interface PolicyGauges {
  readonly loadedAtMs: number;
  /** Of the bundle; `undefined`: unsigned. */
  readonly revision: number | undefined;
  readonly expiresAtMs: number | undefined;
  readonly confirmedAtMs: number | undefined;
  readonly freshness: PolicyFreshness;
}

const STATES: readonly PolicyFreshness[] = ["fresh", "stale", "expired"];
const LOAD_BUCKETS = [0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

export class PolicyMetrics {
  private readonly loads: Counter<"result" | "source">;
  private readonly duration: Histogram;
  private readonly refusals: Counter<"code">;
  private readonly failures: Counter<"source">;
  private readonly writes: Counter<"result">;

  constructor(registry: Registry) {
    const registers = [registry];
    this.loads = new Counter({
      name: "sallyport_policy_loads_total",
      help: "Policies read, by result and where from; a refused one leaves the last good one in force.",
      labelNames: ["result", "source"],
      registers,
    });
    this.duration = new Histogram({
      name: "sallyport_policy_load_duration_seconds",
      help: "Time from an offered policy to its being in force, unchanged or refused.",
      buckets: LOAD_BUCKETS,
      registers,
    });
    this.refusals = new Counter({
      name: "sallyport_policy_refusals_total",
      help: "Policies refused, by stable code.",
      labelNames: ["code"],
      registers,
    });
    this.failures = new Counter({
      name: "sallyport_policy_source_failures_total",
      help: "Times that a source of policy did not answer as it should.",
      labelNames: ["source"],
      registers,
    });
    this.writes = new Counter({
      name: "sallyport_policy_state_writes_total",
      help: "Writes of the last good bundle and its trust to the state folder, by result.",
      labelNames: ["result"],
      registers,
    });
  }

  /** Shows what is in force; asked at every scrape. */
  show(registry: Registry, read: () => PolicyGauges): void {
    const registers = [registry];
    const gauge = (name: string, help: string, value: (gauges: PolicyGauges) => number): void => {
      new Gauge({
        name,
        help,
        registers,
        collect() {
          this.set(value(read()));
        },
      });
    };
    const seconds = (ms: number | undefined): number => (ms ?? 0) / 1000;
    gauge("sallyport_policy_loaded_timestamp_seconds", "When the policy in force was loaded.", ({ loadedAtMs }) =>
      seconds(loadedAtMs),
    );
    gauge("sallyport_policy_revision", "Revision of the bundle in force; 0 without one.", (now) => now.revision ?? 0);
    gauge(
      "sallyport_policy_expires_timestamp_seconds",
      "When the bundle in force is past its time; 0 without one.",
      ({ expiresAtMs }) => seconds(expiresAtMs),
    );
    gauge(
      "sallyport_policy_confirmed_timestamp_seconds",
      "When the source last confirmed the policy in force; 0 when it has not since the start.",
      ({ confirmedAtMs }) => seconds(confirmedAtMs),
    );
    new Gauge({
      name: "sallyport_policy_freshness",
      help: "1 for the freshness of the policy in force, 0 for the others.",
      labelNames: ["state"],
      registers,
      collect() {
        const { freshness } = read();
        for (const state of STATES) this.set({ state }, state === freshness ? 1 : 0);
      },
    });
  }

  /** What one keeper counts. */
  of(source: LoadSource) {
    return {
      loaded: (result: LoadOutcome, seconds: number): void => {
        this.loads.inc({ result, source });
        this.duration.observe(seconds);
      },
      refused: (code: string): void => this.refusals.inc({ code }),
      failed: (_code: string): void => this.failures.inc({ source }),
      state: (result: "written" | "failed"): void => this.writes.inc({ result }),
    };
  }
}
