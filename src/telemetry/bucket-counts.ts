/** A histogram without labels that costs next to nothing to count: the library's looks labels up at every observation. */

import type { MetricValueWithName, Registry } from "prom-client";

interface BucketCountsOptions {
  readonly name: string;
  readonly help: string;
  /** Upper bounds, inclusive, ascending. */
  readonly buckets: readonly number[];
}

export class BucketCounts {
  private readonly options: BucketCountsOptions;
  /** Of each bucket alone; the last one is what lies beyond all. */
  private readonly counts: Float64Array;
  private sum = 0;

  constructor(options: BucketCountsOptions, registry: Registry) {
    this.options = options;
    this.counts = new Float64Array(options.buckets.length + 1);
    // The library asks no more of a metric than its name and what it shows.
    registry.registerMetric({ name: options.name, get: async () => this.shown() } as never);
  }

  observe(value: number): void {
    const { buckets } = this.options;
    let at = 0;
    while (at < buckets.length && value > (buckets[at] as number)) at++;
    this.counts[at] = (this.counts[at] as number) + 1;
    this.sum += value;
  }

  /** In the form in which the library's own metrics tell theirs. */
  private shown() {
    const { name, help, buckets } = this.options;
    let below = 0;
    const values: MetricValueWithName<"le">[] = [...buckets, "+Inf"].map((le, index) => {
      below += this.counts[index] as number;
      return { metricName: `${name}_bucket`, labels: { le }, value: below };
    });
    values.push({ metricName: `${name}_sum`, labels: {}, value: this.sum });
    values.push({ metricName: `${name}_count`, labels: {}, value: below });
    return { name, help, type: "histogram", aggregator: "sum", values };
  }
}
