/** What Prometheus hears of the control plane; labels have small fixed sets of values. */

import { Counter, collectProcessMetrics, Gauge, Registry } from "../telemetry/prometheus.ts";

export interface ControlGauges {
  readonly watchers: () => number;
  readonly reported: () => number;
  readonly bundles: () => number;
  readonly chunkBytes: () => number;
  readonly storeOk: () => boolean;
  /** `undefined`: no cluster is watched. */
  readonly pods: (() => { readonly known: number; readonly silentMs: number; readonly broken: boolean }) | undefined;
}

export class ControlMetrics {
  readonly registry = new Registry();
  readonly revisionsSent: Counter;
  readonly chunksSent: Counter;
  readonly chunkBytesSent: Counter;
  readonly reports: Counter<"result">;
  readonly changes: Counter<"action" | "result">;
  readonly refusedCalls: Counter<"reason">;
  readonly dropped: Counter<"reason">;
  readonly podLists: Counter;
  readonly podsLeftOut: Counter;
  readonly podFailures: Counter;

  constructor(gauges: ControlGauges) {
    const registers = [this.registry];
    collectProcessMetrics(this.registry, "sallyport_control_");
    const counter = <Label extends string = string>(name: string, help: string, labelNames: Label[] = []) =>
      new Counter<Label>({ name: `sallyport_control_${name}`, help, labelNames, registers });
    this.revisionsSent = counter("revisions_sent_total", "Revisions told to sidecars.");
    this.chunksSent = counter("chunks_sent_total", "Pieces of bundles sent on request.");
    this.chunkBytesSent = counter("chunk_sent_bytes", "Bytes of pieces sent on request, as they travel.");
    this.reports = counter("reports_total", "Status reports, by result.", ["result"]);
    this.changes = counter("changes_total", "Changes of the fleet asked for, by action and result.", [
      "action",
      "result",
    ]);
    this.refusedCalls = counter("refused_calls_total", "Calls turned away, by reason.", ["reason"]);
    this.dropped = counter("dropped_sidecars_total", "Watches ended by this side, by reason.", ["reason"]);
    this.podLists = counter("pod_lists_total", "Times that pods were listed anew.");
    this.podsLeftOut = counter("pods_left_out_total", "Pods not taken since kubernetes-pods-max are known.");
    this.podFailures = counter("kubernetes_failures_total", "Calls of the Kubernetes API that failed.");
    const gauge = (name: string, help: string, read: () => number): void => {
      new Gauge({
        name: `sallyport_control_${name}`,
        help,
        registers,
        collect() {
          this.set(read());
        },
      });
    };
    gauge("watching_sidecars", "Sidecars that watch this process.", gauges.watchers);
    gauge("reported_sidecars", "Sidecars of the fleet that reported within two minutes.", gauges.reported);
    gauge("bundles", "Bundles held in memory.", gauges.bundles);
    gauge("held_chunk_bytes", "Bytes of pieces held in memory.", gauges.chunkBytes);
    gauge("store_reachable", "1 while the store can be read and changed.", () => (gauges.storeOk() ? 1 : 0));
    const { pods } = gauges;
    if (pods === undefined) return;
    gauge("pods", "Pods that sidecars are told of.", () => pods().known);
    gauge("pods_silent_seconds", "Seconds since the Kubernetes API was last heard.", () => pods().silentMs / 1_000);
    gauge("pods_watch_broken", "1 while changes of pods are being missed.", () => (pods().broken ? 1 : 0));
  }
}
