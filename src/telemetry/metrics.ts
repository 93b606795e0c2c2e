/** Prometheus metrics; names end in their unit, labels have small fixed sets of values. */

import type { Protocol, RequestFacts } from "../model/facts.ts";
import type { LineStats } from "../model/line.ts";
import type { DecisionKind, Verdict } from "../model/verdict.ts";
import { BucketCounts } from "./bucket-counts.ts";
import { Counter, collectProcessMetrics, Gauge, Registry } from "./prometheus.ts";

/** Fine around the usual thresholds. */
const SCORE_BUCKETS = [
  1, 5, 10, 15, 20, 24, 26, 28, 30, 32, 35, 40, 45, 48, 50, 52, 55, 60, 65, 68, 70, 72, 80, 90, 99, 100,
];
const LATENCY_BUCKETS = [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5];

/** Reasons that are told apart; rules and signals have names of their own and count as `other`. */
const ENDINGS = ["lock", "expired", "score", "challenge", "challenges unanswered"];

interface LabelledChecks {
  readonly decision: DecisionKind;
  readonly enforced: DecisionKind;
  readonly protocol: Protocol;
  checks: number;
}

export class Metrics {
  readonly registry = new Registry();
  /** Checks not yet shown, in the order in which their labels were first met; that order is the page's. */
  private readonly unshown: LabelledChecks[] = [];
  private readonly scores: BucketCounts;
  private readonly latency: BucketCounts;
  private readonly answered: Counter;
  private readonly conditionErrors: Counter;
  readonly checkErrors: Counter;
  readonly outcomes: Counter<"stage">;
  readonly snapshots: Counter<"result">;
  readonly keyFetchErrors: Counter;
  readonly unlogged: Counter;
  readonly shadowChecks: Counter;
  readonly shadowErrors: Counter;
  readonly shadowDifferences: Counter<"active" | "candidate">;
  private readonly streamsEnded: Counter<"because">;
  readonly shed: Counter<"how">;
  readonly connectionsRefused: Counter<"reason">;
  checksTotal = 0;
  /** Check calls answered since the start, by what was decided. */
  readonly decisions: Record<DecisionKind, number> = { allow: 0, challenge: 0, deny: 0, terminate: 0 };

  constructor(stats: () => LineStats, openStreams: () => number) {
    const registers = [this.registry];
    collectProcessMetrics(this.registry, "sallyport_");
    const { unshown } = this;
    new Counter({
      name: "sallyport_checks_total",
      help: "Check calls answered, by what was decided and what was carried out.",
      labelNames: ["decision", "enforced", "protocol"],
      registers,
      collect() {
        for (const labelled of unshown) {
          const { decision, enforced, protocol } = labelled;
          if (labelled.checks > 0) this.inc({ decision, enforced, protocol }, labelled.checks);
          labelled.checks = 0;
        }
      },
    });
    this.scores = new BucketCounts(
      { name: "sallyport_score_points", help: "Scores, 0 to 100.", buckets: SCORE_BUCKETS },
      this.registry,
    );
    this.latency = new BucketCounts(
      {
        name: "sallyport_check_duration_seconds",
        help: "Time from reading a Check call to its answer, inside this process.",
        buckets: LATENCY_BUCKETS,
      },
      this.registry,
    );
    this.answered = counter(
      "sallyport_challenges_answered_total",
      "Challenges answered with a valid proof.",
      registers,
    );
    this.conditionErrors = counter(
      "sallyport_condition_errors_total",
      "Conditions of rules that could not be evaluated; the rule's onError decided.",
      registers,
    );
    this.checkErrors = counter(
      "sallyport_check_errors_total",
      "Check calls that failed; Envoy's failure mode decided.",
      registers,
    );
    this.outcomes = new Counter({
      name: "sallyport_outcomes_total",
      help: "Access-log entries taken in.",
      labelNames: ["stage"],
      registers,
    });
    this.snapshots = new Counter({
      name: "sallyport_snapshots_total",
      help: "Snapshots of what was learned, by result.",
      labelNames: ["result"],
      registers,
    });
    this.keyFetchErrors = counter("sallyport_key_fetch_errors_total", "Failed fetches of issuers' keys.", registers);
    this.unlogged = counter(
      "sallyport_decisions_unlogged_total",
      "Decisions missing from the decision log because it could not be written fast enough, or at all.",
      registers,
    );
    this.shadowChecks = counter(
      "sallyport_shadow_checks_total",
      "Requests that the candidate policy was asked about.",
      registers,
    );
    this.shadowErrors = counter(
      "sallyport_shadow_errors_total",
      "Requests that the candidate policy failed to judge; they were decided as without it.",
      registers,
    );
    this.shadowDifferences = new Counter({
      name: "sallyport_shadow_differences_total",
      help: "Requests that the candidate policy would have decided otherwise, by both decisions.",
      labelNames: ["active", "candidate"],
      registers,
    });
    this.shed = new Counter({
      name: "sallyport_shed_checks_total",
      help: "Check calls not judged in full for want of time: by what the session stood at, unavailable, or too late.",
      labelNames: ["how"],
      registers,
    });
    this.connectionsRefused = new Counter({
      name: "sallyport_connections_refused_total",
      help: "Connections for Check calls that were ended for what they did, by why.",
      labelNames: ["reason"],
      registers,
    });
    this.streamsEnded = new Counter({
      name: "sallyport_streams_ended_total",
      help: "Open streams that were ended, by why.",
      labelNames: ["because"],
      registers,
    });
    gauge("sallyport_principals", "Principals with a baseline.", () => stats().principals, registers);
    gauge("sallyport_sessions", "Sessions remembered.", () => stats().sessions, registers);
    gauge("sallyport_open_streams", "Streams held open at Envoy, to be ended when need be.", openStreams, registers);
    gauge("sallyport_locks", "Locks in the table.", () => stats().locks, registers);
    gauge(
      "sallyport_evicted_principals",
      "Principals forgotten because memory is bounded.",
      () => stats().evictedPrincipals,
      registers,
    );
    gauge(
      "sallyport_evicted_sessions",
      "Sessions forgotten because memory is bounded.",
      () => stats().evictedSessions,
      registers,
    );
  }

  /**
   * Shows how the locks known here stand to the fleet's.
   * @param silentSeconds since the control plane was last heard; `undefined`: not since the start
   */
  lockView(view: () => string, silentSeconds: () => number | undefined): void {
    const registers = [this.registry];
    new Gauge({
      name: "sallyport_fleet_locks_stale",
      help: "1 while the control plane has been silent for longer than locks-stale-after.",
      registers,
      collect() {
        this.set(view() === "stale" ? 1 : 0);
      },
    });
    new Gauge({
      name: "sallyport_fleet_locks_heard_seconds",
      help: "Seconds since the control plane last confirmed the fleet's locks; -1: not since the start.",
      registers,
      collect() {
        this.set(silentSeconds() ?? -1);
      },
    });
  }

  workloadView(view: () => string, pods: () => number, confirmedSeconds: () => number | undefined): void {
    const gauge = (name: string, help: string, read: () => number): void => {
      new Gauge({
        name,
        help,
        registers: [this.registry],
        collect() {
          this.set(read());
        },
      });
    };
    gauge("sallyport_pods", "Pods that the control plane told of.", pods);
    gauge("sallyport_pods_stale", "1 while what is known of pods may be out of date, and addresses say nothing.", () =>
      view() === "stale" ? 1 : 0,
    );
    gauge(
      "sallyport_pods_confirmed_seconds",
      "Seconds since what is known of pods was complete; -1: it never was.",
      () => confirmedSeconds() ?? -1,
    );
  }

  /** @param because `lock`, `expired`, `score`, `challenge`, or what else decided */
  streamEnded(because: string): void {
    this.streamsEnded.inc({ because: ENDINGS.includes(because) ? because : "other" });
  }

  verdict(facts: RequestFacts, verdict: Verdict, latencyUs: number): void {
    this.checksTotal++;
    this.decisions[verdict.decision.kind]++;
    this.countCheck(verdict.decision.kind, verdict.enforced, facts.protocol);
    this.scores.observe(verdict.score);
    this.latency.observe(latencyUs / 1e6);
    if (verdict.answered) this.answered.inc();
    if (verdict.conditionErrors !== undefined) this.conditionErrors.inc(verdict.conditionErrors.length);
  }

  /** The library hashes labels at every count: here a handful are compared, and the library is told when it is asked. */
  private countCheck(decision: DecisionKind, enforced: DecisionKind, protocol: Protocol): void {
    for (const labelled of this.unshown) {
      if (labelled.decision !== decision || labelled.enforced !== enforced || labelled.protocol !== protocol) continue;
      labelled.checks++;
      return;
    }
    this.unshown.push({ decision, enforced, protocol, checks: 1 });
  }
}

function counter(name: string, help: string, registers: Registry[]): Counter {
  return new Counter({ name, help, registers });
}

function gauge(name: string, help: string, read: () => number, registers: Registry[]): void {
  new Gauge({
    name,
    help,
    registers,
    collect() {
      this.set(read());
    },
  });
}
