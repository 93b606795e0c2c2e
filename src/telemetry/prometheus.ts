/**
 * The parts of the Prometheus library that are used. Its own entry also loads a tracing library, a push gateway and workers'
 * aggregation: 35 ms of a start and 8 MB of every process, for nothing that is asked of it here.
 */

import { createRequire } from "node:module";
import type * as prometheus from "prom-client";

const require = createRequire(import.meta.url);

export type Counter<Label extends string = string> = prometheus.Counter<Label>;
export const Counter = require("prom-client/lib/counter.js") as typeof prometheus.Counter;
export type Gauge<Label extends string = string> = prometheus.Gauge<Label>;
export const Gauge = require("prom-client/lib/gauge.js") as typeof prometheus.Gauge;
export type Histogram<Label extends string = string> = prometheus.Histogram<Label>;
export const Histogram = require("prom-client/lib/histogram.js") as typeof prometheus.Histogram;
export type Registry = prometheus.Registry;
export const Registry = require("prom-client/lib/registry.js") as typeof prometheus.Registry;

type Collect = (registry: Registry, options: { prefix: string; eventLoopMonitoringPrecision: number }) => void;

/** The library's own metrics of a process, in its order, but for the CPU's, which load the tracing library. */
const COLLECTORS = [
  "processStartTime",
  "osMemoryHeap",
  "processOpenFileDescriptors",
  "processMaxFileDescriptors",
  "eventLoopLag",
  "processResources",
  "processHandles",
  "processRequests",
  "heapSizeAndUsed",
  "heapSpacesSizeAndUsed",
  "version",
  "gc",
];

/** How often the event loop's lag is looked at, milliseconds: the library's own choice. */
const LAG_PRECISION_MS = 10;

/**
 * Metrics of this process, as the library's `collectDefaultMetrics` shows them.
 * @param prefix of their names
 */
export function collectProcessMetrics(registry: Registry, prefix: string): void {
  collectCpu(registry, prefix);
  for (const name of COLLECTORS) {
    const collect = require(`prom-client/lib/metrics/${name}.js`) as Collect;
    collect(registry, { prefix, eventLoopMonitoringPrecision: LAG_PRECISION_MS });
  }
}

function collectCpu(registry: Registry, prefix: string): void {
  const registers = [registry];
  let last = process.cpuUsage();
  const user = new Counter({
    name: `${prefix}process_cpu_user_seconds_total`,
    help: "Total user CPU time spent in seconds.",
    registers,
    // The first that is asked tells for all three.
    collect() {
      const { user: userUs, system: systemUs } = process.cpuUsage(last);
      last = { user: last.user + userUs, system: last.system + systemUs };
      user.inc(userUs / 1e6);
      system.inc(systemUs / 1e6);
      total.inc((userUs + systemUs) / 1e6);
    },
  });
  const system = new Counter({
    name: `${prefix}process_cpu_system_seconds_total`,
    help: "Total system CPU time spent in seconds.",
    registers,
  });
  const total = new Counter({
    name: `${prefix}process_cpu_seconds_total`,
    help: "Total user and system CPU time spent in seconds.",
    registers,
  });
}
