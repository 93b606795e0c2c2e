/** The thread on which policies are prepared: takes one load at a time, and answers with what can be taken over whole. */

import { setPriority } from "node:os";
import { parentPort } from "node:worker_threads";
import { type LoadOptions, type PolicyOrigin, prepareOrigin } from "./load.ts";
import { transferable } from "./prepare.ts";

/** What the thread is sent. */
export type LoadOrder =
  /** The next bytes of a bundle: it comes in parts, for none of them to keep the sender long. */
  | { readonly kind: "part"; readonly bytes: Uint8Array }
  /** `origin.bytes` is what the parts before it make up. */
  | { readonly kind: "load"; readonly origin: PolicyOrigin; readonly options: LoadOptions };

/** Below requests, and still a third of a share of a busy core: a load must come to its end. */
const NICE = 5;

const port = parentPort;
// On Linux this is about the calling thread alone: where cores are few, requests go first.
if (port !== null && process.platform === "linux") {
  try {
    setPriority(0, NICE);
  } catch {
    // Fails open: a sandbox may forbid it, and a policy loaded in haste is better than none.
  }
}
let parts: Uint8Array[] = [];

port?.on("message", (order: LoadOrder) => {
  if (order.kind === "part") {
    parts.push(order.bytes);
    return;
  }
  const { origin, options } = order;
  const whole: PolicyOrigin = origin.kind === "bytes" ? { ...origin, bytes: Buffer.concat(parts) } : origin;
  parts = [];
  // What is thrown here is a bug; it ends the thread, and whoever waits is told of a refused load.
  void prepareOrigin(whole, options).then((result) => port.postMessage(result, [...transferable(result)]));
});
