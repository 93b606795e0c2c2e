/** A process that sends checks, as fast as they are answered or at a steady rate, whenever it is told to. */

import { connect } from "node:http2";
import { quantile } from "./figures.ts";
import { H2Connection, type Outcome } from "./h2-connection.ts";
import { checkTemplates, LogBatch, requestIdOf, type Template } from "./messages.ts";

const CONNECTIONS = 4;
/** As Envoy does, by size or time. */
const LOG_BATCH = 50;
const TEMPLATES_MIN = 2_000;
/** Beyond so many, routes differ no more: memory counts. */
const TEMPLATES_MAX = 100_000;
const UNDER_WAY_MAX = 4_096;
const LAST_ANSWER_MS_MAX = 3_000;

/** What is asked of this process. */
export interface LoadOrder {
  readonly address: string;
  /** Where access logs go; `undefined`: nowhere. */
  readonly streams: string | undefined;
  readonly callers: number;
  readonly seconds: number;
  /** Checks under way at any time, or checks that fall due in each second whatever became of those before. */
  readonly pace: { readonly underWay: number } | { readonly perSecond: number };
}

export interface LoadResult {
  readonly sent: number;
  /** Not answered with gRPC status OK, in time. */
  readonly failed: number;
  /** Answered, but not with leave to go on. */
  readonly refused: number;
  readonly seconds: number;
  /** Of this process. As fast as possible: near all of `seconds` means that the generator was the limit. */
  readonly loadCpuUs: number;
  /** From when a check was due to its answer; steady rates only. */
  readonly latencyUs: Latency | undefined;
  /** From when a check was due until it was sent, 99 %: what of `latencyUs` is the generator's or the window's. */
  readonly lateUs: number | undefined;
}

export interface Latency {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

let known: { readonly callers: number; readonly templates: readonly Template[] } | undefined;
/** Over all orders, so that no request id comes twice. */
let number = 0;

// Beside the probe's own questions, which are texts.
process.on("message", (order: LoadOrder | string) => {
  if (typeof order === "string") return;
  void run(order).then((result) => process.send?.(result));
});
process.channel?.ref();
console.log("ready");

async function templatesFor(callers: number): Promise<readonly Template[]> {
  if (known?.callers !== callers) {
    const count = Math.min(Math.max(callers * 4, TEMPLATES_MIN), Math.max(callers, TEMPLATES_MAX));
    known = { callers, templates: await checkTemplates(callers, count) };
  }
  return known.templates;
}

async function run({ address, streams, callers, seconds, pace }: LoadOrder): Promise<LoadResult> {
  const templates = await templatesFor(callers);
  const log = streams === undefined ? undefined : openLog(streams);
  const counts: Record<Outcome, number> = { allowed: 0, refused: 0, failed: 0 };
  let answered: (own: number, at: H2Connection) => void = () => {};
  const connections: H2Connection[] = [];
  for (let lane = 0; lane < CONNECTIONS; lane++) {
    const connection = await H2Connection.open(address, (own, outcome, answer) => {
      counts[outcome]++;
      if (outcome !== "failed") log?.add(own, answer);
      answered(own, connection);
    });
    connections.push(connection);
  }
  const send = (connection: H2Connection): number => {
    const own = number++;
    connection.send(own, templates[own % templates.length] as Template, requestIdOf(own));
    return own;
  };
  const cpuBefore = process.cpuUsage();
  const begin = performance.now();
  let sent = 0;
  let latenciesUs: number[] | undefined;
  let latesUs: number[] | undefined;
  await new Promise<void>((done) => {
    const until = begin + seconds * 1_000;
    if ("underWay" in pace) {
      answered = (_own, connection) => {
        const total = counts.allowed + counts.refused + counts.failed;
        // A connection that is closed answers at once: no more is sent over it.
        if (performance.now() < until && counts.failed <= sent / 2) {
          sent++;
          send(connection);
        } else if (total === sent) done();
      };
      sent = pace.underWay;
      for (let i = 0; i < pace.underWay; i++) send(connections[i % CONNECTIONS] as H2Connection);
      for (const connection of connections) connection.flush();
    } else {
      const { perSecond } = pace;
      const first = number;
      const count = Math.round(perSecond * seconds);
      const dueOf = (i: number): number => begin + (i * 1_000) / perSecond;
      const latencies: number[] = [];
      const lates: number[] = [];
      latenciesUs = latencies;
      latesUs = lates;
      answered = (own) => latencies.push((performance.now() - dueOf(own - first)) * 1_000);
      const tick = (): void => {
        const now = performance.now();
        const all = counts.allowed + counts.refused + counts.failed;
        while (sent < count && dueOf(sent) <= now && sent - all < UNDER_WAY_MAX) {
          lates.push((now - dueOf(sent)) * 1_000);
          send(connections[sent % CONNECTIONS] as H2Connection);
          sent++;
        }
        for (const connection of connections) connection.flush();
        if (all >= count || now > until + LAST_ANSWER_MS_MAX) done();
        // Timers are a millisecond late; this core has nothing else to do.
        else setImmediate(tick);
      };
      tick();
    }
  });
  const elapsed = (performance.now() - begin) / 1_000;
  const { user, system } = process.cpuUsage(cpuBefore);
  const { refused } = counts;
  const total = "perSecond" in pace ? Math.round(pace.perSecond * seconds) : sent;
  const failed = total - counts.allowed - refused;
  answered = () => {};
  for (const connection of connections) connection.close();
  await log?.close();
  const at = (share: number): number => quantile(latenciesUs ?? [], share);
  return {
    ...{ sent: total, failed, refused, seconds: elapsed, loadCpuUs: user + system },
    latencyUs: latenciesUs === undefined ? undefined : { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1) },
    lateUs: latesUs === undefined ? undefined : quantile(latesUs, 0.99),
  };
}

/** Envoy's one long stream of access logs. */
function openLog(address: string): { add(number: number, answer: Buffer): void; close(): Promise<void> } {
  const session = connect(`http://${address}`);
  const stream = session.request({
    ":method": "POST",
    ":path": "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
    te: "trailers",
    "content-type": "application/grpc",
    "grpc-timeout": "3600S",
    "user-agent": "envoy",
  });
  const batch = new LogBatch(LOG_BATCH);
  return {
    add: (own, answer) => {
      const full = batch.add(own, answer);
      if (full !== undefined) stream.write(full);
    },
    close: () =>
      new Promise((resolve) => {
        const cut = setTimeout(() => stream.destroy(), LAST_ANSWER_MS_MAX);
        stream.resume().on("close", () => {
          clearTimeout(cut);
          session.destroy();
          resolve();
        });
        stream.on("error", () => {}); // it ends either way
        stream.end();
      }),
  };
}
