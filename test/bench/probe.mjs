/** Preloaded into a server under measurement: tells CPU time and memory over the IPC channel when asked. */

const SETTLE_MS = 300;

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
  }
});
process.channel?.unref();
