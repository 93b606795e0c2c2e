/** What the control plane tells of pods, kept in the line's table for as long as it is fresh enough to mean anything. */

import type { WorkloadListener } from "../bundle/sync/source.ts";
import { WORKLOADS_KEPT_MS, WORKLOADS_STALE_MS } from "../check/workload-table.ts";
import type { Line } from "../model/line.ts";
import { toEpochMs } from "../model/units.ts";
import type { WorkloadChange } from "../model/workloads.ts";

/** `none`: nobody told of any. `stale`: addresses name nobody, and facts age. */
export type WorkloadView = "none" | "fresh" | "stale";

export interface FleetWorkloadsOptions {
  readonly line: Pick<Line, "workloads">;
  readonly now: () => number;
  /** Told when the view has changed. */
  readonly onView: (view: WorkloadView, pods: number) => void;
}

export class FleetWorkloads implements WorkloadListener {
  private readonly options: FleetWorkloadsOptions;
  private known = "";
  private confirmedAtMs: number | undefined;
  private missing = false;
  private shown: WorkloadView = "none";

  constructor(options: FleetWorkloadsOptions) {
    this.options = options;
  }

  get state(): string {
    return this.known;
  }

  get pods(): number {
    return this.options.line.workloads.size;
  }

  get view(): WorkloadView {
    if (this.confirmedAtMs === undefined) return "none";
    return this.missing || this.known === "" || this.options.now() - this.confirmedAtMs > WORKLOADS_STALE_MS
      ? "stale"
      : "fresh";
  }

  /** Seconds since what is known was complete; `undefined`: it never was. */
  confirmedSeconds(): number | undefined {
    return this.confirmedAtMs === undefined ? undefined : (this.options.now() - this.confirmedAtMs) / 1_000;
  }

  changed(change: WorkloadChange, state: string): void {
    const { line, now } = this.options;
    line.workloads.change(change, toEpochMs(now()));
    // Half of everything is nothing that could be gone on from.
    if (change.first) this.known = "";
    if (change.last) this.known = state;
  }

  heard(silentMs: number, broken: boolean): void {
    if (this.known === "") return;
    const { line, now } = this.options;
    const at = now() - silentMs;
    line.workloads.confirm(toEpochMs(at));
    if (broken) line.workloads.confirm(undefined);
    this.confirmedAtMs = at;
    this.missing = broken;
    this.look();
  }

  lost(unreadable: boolean): void {
    if (unreadable) this.known = "";
    this.options.line.workloads.confirm(undefined);
    this.missing = true;
    this.look();
  }

  /** Notices what time has done: called now and then. */
  look(): void {
    const { line, now, onView } = this.options;
    if (this.confirmedAtMs !== undefined && now() - this.confirmedAtMs > WORKLOADS_KEPT_MS) {
      line.workloads.clear();
      this.known = "";
      this.confirmedAtMs = undefined;
    }
    const { view } = this;
    if (view === this.shown) return;
    this.shown = view;
    onView(view, this.pods);
  }
}
