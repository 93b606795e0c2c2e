/** Preloaded into a program under measurement: tells CPU time, memory and event-loop delay over the IPC channel when asked. */

import { monitorEventLoopDelay } from "node:perf_hooks";

const SETTLE_MS = 300;

let delay;

process.on("message", async (question) => {
  if (question === "cpu") {
    const { user, system } = process.cpuUsage();
    process.send({ cpuUs: user + system });
  } else if (question === "memory") {
    const asIs = process.memoryUsage.rss();
    // Twice: what the first pass frees of weak references and buffers, only the second gives back.
    for (let pass = 0; pass < 2; pass++) {
      globalThis.gc?.();
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    }
    const { rss, heapUsed } = process.memoryUsage();
    process.send({ rssAsIs: asIs, rssAfterGc: rss, heapUsed });
  } else if (question === "delay") {
    if (delay === undefined) {
      delay = monitorEventLoopDelay({ resolution: 1 });
      delay.enable();
    }
    // The histogram counts from one timer to the next: a millisecond is no delay.
    const ms = (ns) => Math.max(0, ns / 1e6 - 1);
    process.send({ p50Ms: ms(delay.percentile(50)), p99Ms: ms(delay.percentile(99)), maxMs: ms(delay.max) });
    delay.reset();
  } else if (question === "no delay") {
    delay?.disable();
    delay = undefined;
    process.send({});
  }
});
process.channel?.unref();
