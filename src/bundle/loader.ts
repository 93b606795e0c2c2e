/** Loads policies on a thread of its own, so that requests do not wait while lists are read. */

import { resolve } from "node:path";
import { Worker } from "node:worker_threads";
import { SECOND_MS } from "../model/units.ts";
import type { LoadOptions, LoadResult, NotLoaded, PolicyOrigin, PreparedLoad } from "./load.ts";
import type { LoadOrder } from "./load-worker.ts";
import { fileProblem } from "./problem.ts";
import { shippedNetworks } from "./shipped-networks.ts";

export interface LoaderOptions {
  /** Longest that a load may take, milliseconds; then it is refused. Default one minute. */
  readonly timeoutMs?: number;
  /** How long the thread is kept for the next load, milliseconds. Default five seconds. */
  readonly idleMs?: number;
  /** Most memory for the thread's objects, MiB; packed data and bytes of files, bounded by their own sizes, come on top. */
  readonly heapMbMax?: number;
}

const TIMEOUT_MS = 60 * SECOND_MS;
const IDLE_MS = 5 * SECOND_MS;
const HEAP_MB_MAX = 1_024;
/** Bytes that are copied to the thread at once: a fraction of a millisecond. */
const PART_BYTES = 1024 * 1024;

/**
 * Takes one load after another. The thread is started for the first and ended when there has been none for a while: a
 * sidecar whose policy does not change pays nothing for it. Neither a load that never ends nor one that ends the thread
 * does more than be refused.
 */
export class PolicyLoader {
  private readonly timeoutMs: number;
  private readonly idleMs: number;
  private readonly heapMbMax: number;
  private readonly networks = shippedNetworks();
  private worker: Worker | undefined;
  private idle: NodeJS.Timeout | undefined;
  private running: Promise<unknown> = Promise.resolve();
  private closed = false;
  /** Ends the load under way. */
  private abandon: ((why: string) => void) | undefined;

  constructor(options: LoaderOptions = {}) {
    this.timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    this.idleMs = options.idleMs ?? IDLE_MS;
    this.heapMbMax = options.heapMbMax ?? HEAP_MB_MAX;
  }

  /** The same as `loadPolicy` and `loadBytes`; never rejects for bad input, nor when the thread fails. */
  load(origin: PolicyOrigin, options: LoadOptions = {}): Promise<LoadResult> {
    const next = this.running.then(() => this.loadNext(origin, options));
    this.running = next.catch(() => undefined); // told to whoever asked for that load
    return next;
  }

  /** Brings the thread up ahead of the first load, which will not be long in coming. */
  warm(): void {
    if (this.worker !== undefined || this.closed) return;
    this.start();
    this.rest();
  }

  /** Ends the thread; loads under way are refused. */
  async close(): Promise<void> {
    this.closed = true;
    this.abandon?.("a program that is ending");
    await this.end();
  }

  private async loadNext(origin: PolicyOrigin, options: LoadOptions): Promise<LoadResult> {
    if (this.closed) return refusal(origin, "a program that is ending");
    clearTimeout(this.idle);
    const result = await this.prepare(origin, options);
    this.rest();
    if (!result.ok) return result;
    const { prepared, ...rest } = result;
    const { finishPolicy } = await import("./paced.ts"); // not before: a start brings up the thread first of all
    return { ...rest, policy: await finishPolicy(prepared, this.networks) };
  }

  /** Keeps the thread for a while; it keeps nothing else running. */
  private rest(): void {
    if (this.worker === undefined) return;
    this.idle = setTimeout(() => void this.end(), this.idleMs);
    this.idle.unref();
    this.worker.unref();
  }

  private async prepare(origin: PolicyOrigin, options: LoadOptions): Promise<PreparedLoad> {
    const worker = this.worker ?? this.start();
    worker.ref();
    let settle: (result: PreparedLoad) => void = () => undefined;
    const answered = new Promise<PreparedLoad>((resolve) => {
      settle = resolve;
    });
    const refuse = (why: string): void => settle(refusal(origin, why));
    // Keeps the last good policy: whatever ends the thread is a load that did not come about.
    const onError = (error: Error): void => refuse(`a thread that failed: ${nameOf(error)}`);
    const onExit = (): void => refuse("a thread that ended");
    const timer = setTimeout(() => refuse("one that does not"), this.timeoutMs);
    this.abandon = refuse;
    worker.on("message", settle).on("error", onError).on("exit", onExit);
    await send(worker, origin, options, () => this.worker === worker);
    const result = await answered;
    clearTimeout(timer);
    this.abandon = undefined;
    worker.off("message", settle).off("exit", onExit).off("error", onError);
    if (!result.ok && result.digest === "") await this.end();
    return result;
  }

  private start(): Worker {
    const limits = { resourceLimits: { maxOldGenerationSizeMb: this.heapMbMax } };
    const worker = import.meta.url.endsWith(".ts") ? startFromSources(limits) : startBuilt(limits);
    // Told to whoever waits for a load; between loads, an end of the thread only means that the next one starts another.
    worker
      .on("error", () => undefined)
      .on("exit", () => {
        if (this.worker === worker) this.worker = undefined;
      });
    this.worker = worker;
    return worker;
  }

  private async end(): Promise<void> {
    clearTimeout(this.idle);
    const { worker } = this;
    this.worker = undefined;
    await worker?.terminate();
  }
}

type Limits = { readonly resourceLimits: { readonly maxOldGenerationSizeMb: number } };

function startBuilt(limits: Limits): Worker {
  return new Worker(new URL("./load-worker.js", import.meta.url), { ...limits, execArgv: [] });
}

/** Whoever runs the sources has `tsx` at hand, which does not reach into threads by itself. */
function startFromSources(limits: Limits): Worker {
  const tsx = JSON.stringify(import.meta.resolve("tsx/esm/api"));
  const entry = JSON.stringify(new URL("./load-worker.ts", import.meta.url).href);
  const code = `import(${tsx}).then(({ register }) => { register(); return import(${entry}); });`;
  return new Worker(code, { ...limits, eval: true, execArgv: [] });
}

async function send(
  worker: Worker,
  origin: PolicyOrigin,
  options: LoadOptions,
  isWanted: () => boolean,
): Promise<void> {
  const post = (order: LoadOrder, transfer: readonly ArrayBuffer[] = []): void =>
    worker.postMessage(order, [...transfer]);
  if (origin.kind === "path") {
    post({ kind: "load", origin, options });
    return;
  }
  for (let at = 0; at < origin.bytes.byteLength && isWanted(); at += PART_BYTES) {
    const bytes = Uint8Array.from(origin.bytes.subarray(at, at + PART_BYTES));
    post({ kind: "part", bytes }, [bytes.buffer]);
    await new Promise(setImmediate);
  }
  post({ kind: "load", origin: { ...origin, bytes: new Uint8Array() }, options });
}

function refusal(origin: PolicyOrigin, got: string): NotLoaded {
  const label = origin.kind === "path" ? origin.path : origin.label;
  return {
    ok: false,
    code: "ERR_POLICY_INVALID",
    problems: [fileProblem(label, "a load that comes to its end", got)],
    files: origin.kind === "path" ? [resolve(origin.path)] : [],
    digest: "",
  };
}

/** Of a thread that ran out of memory: `ERR_WORKER_OUT_OF_MEMORY`. */
function nameOf(error: Error): string {
  return "code" in error ? String(error.code) : error.name;
}
