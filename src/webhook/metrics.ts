/** What Prometheus hears of the webhook; labels have small fixed sets of values. */

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Outcome } from "./answer.ts";
import type { Turned } from "./listener.ts";

/** Fine where reviews usually are, coarse towards a webhook's longest time-out. */
const SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1];

export interface WebhookGauges {
  /** Seconds since the Unix epoch. */
  readonly certificateExpirySeconds: () => number;
  readonly nativeSidecars: () => boolean;
  readonly versionKnown: () => boolean;
}

/** `invalid`: no review could be read; `failed`: a fault of ours. */
export type ReviewResult = Outcome | "invalid" | "failed";

const RESULTS: readonly ReviewResult[] = ["injected", "unchanged", "refused", "invalid", "failed"];
const RELOADS = ["read", "refused"] as const;

export class WebhookMetrics {
  readonly registry = new Registry();
  readonly reviews: Counter<"result" | "dry_run">;
  readonly reviewSeconds: Histogram;
  readonly turned: Counter<"reason">;
  readonly handshakeFailures: Counter<"reason">;
  readonly certificateReloads: Counter<"result">;
  readonly configReloads: Counter<"result">;

  constructor(gauges: WebhookGauges) {
    const registers = [this.registry];
    collectDefaultMetrics({ register: this.registry, prefix: "sallyport_webhook_" });
    const counter = <Label extends string>(name: string, help: string, labelNames: Label[]) =>
      new Counter<Label>({ name: `sallyport_webhook_${name}`, help, labelNames, registers });
    this.reviews = counter("reviews_total", "Admission reviews, by what became of them.", ["result", "dry_run"]);
    this.turned = counter("turned_away_requests_total", "Requests whose review was not read, by reason.", [
      "reason",
    ] satisfies ["reason"]);
    this.handshakeFailures = counter(
      "tls_handshake_failures_total",
      "TLS handshakes that failed; distrusted: the caller did not accept the certificate, as with a wrong caBundle.",
      ["reason"],
    );
    this.certificateReloads = counter("certificate_reloads_total", "Changes of certificate and key, by result.", [
      "result",
    ]);
    this.configReloads = counter("config_reloads_total", "Changes of the injector's configuration, by result.", [
      "result",
    ]);
    this.reviewSeconds = new Histogram({
      name: "sallyport_webhook_review_seconds",
      help: "From a whole review to its answer.",
      buckets: SECONDS,
      registers,
    });
    const gauge = (name: string, help: string, read: () => number): void => {
      new Gauge({
        name: `sallyport_webhook_${name}`,
        help,
        registers,
        collect() {
          this.set(read());
        },
      });
    };
    gauge(
      "certificate_expiry_timestamp_seconds",
      "When the certificate chain in use ends.",
      gauges.certificateExpirySeconds,
    );
    gauge("native_sidecars", "1 while native sidecars are injected where a Pod does not say otherwise.", () =>
      gauges.nativeSidecars() ? 1 : 0,
    );
    gauge("cluster_version_known", "1 once the API server's version was heard, where it is asked for.", () =>
      gauges.versionKnown() ? 1 : 0,
    );
    // Counters are there from the start, so that the first failure is an increase.
    for (const result of RESULTS) this.reviews.inc({ result, dry_run: "false" }, 0);
    for (const result of RELOADS) {
      this.certificateReloads.inc({ result }, 0);
      this.configReloads.inc({ result }, 0);
    }
    for (const reason of ["distrusted", "other"]) this.handshakeFailures.inc({ reason }, 0);
  }

  countTurned(reason: Turned): void {
    this.turned.inc({ reason });
  }
}
