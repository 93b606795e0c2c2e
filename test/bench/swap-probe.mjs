/** Preloaded into the sidecar: tells over the IPC channel how late its event loop ran, and its greatest resident memory. */

import { monitorEventLoopDelay } from "node:perf_hooks";

const delay = monitorEventLoopDelay({ resolution: 1 });
delay.enable();

process.on("message", (question) => {
  if (question !== "delay") return;
  // The histogram counts from one timer to the next: a millisecond is no delay.
  const ms = (ns) => Math.max(0, ns / 1e6 - 1);
  process.send({
    p99Ms: ms(delay.percentile(99)),
    maxMs: ms(delay.max),
    rss: process.memoryUsage.rss(),
    rssPeak: process.resourceUsage().maxRSS * 1_024,
  });
  delay.reset();
});
process.channel?.unref();
