/** A process that sends checks as fast as they are answered, whenever it is told to; started by `servers.ts`. */

import { type ClientHttp2Session, connect } from "node:http2";
import { allows, checkTemplates, LogBatch, numbered, type Template } from "./messages.ts";

const CONNECTIONS = 4;
/** As Envoy does, by size or time. */
const LOG_BATCH = 50;
const TEMPLATES_MIN = 2_000;

/** What is asked of this process. */
export interface LoadOrder {
  readonly address: string;
  /** Where access logs go; `undefined`: nowhere. */
  readonly streams: string | undefined;
  readonly callers: number;
  readonly seconds: number;
  /** Checks under way at any time. */
  readonly underWay: number;
}

export interface LoadResult {
  readonly sent: number;
  /** Not answered with gRPC status OK. */
  readonly failed: number;
  /** Answered, but not with leave to go on. */
  readonly refused: number;
  readonly seconds: number;
  /** Of this process: near 100 % of `seconds` means that the generator was the limit. */
  readonly loadCpuUs: number;
}

const HEADERS = {
  ":method": "POST",
  ":path": "/envoy.service.auth.v3.Authorization/Check",
  te: "trailers",
  "content-type": "application/grpc",
  "grpc-timeout": "5000m",
  "user-agent": "envoy",
};

const known = new Map<number, readonly Template[]>();
/** Over all orders, so that no request id comes twice. */
let number = 0;

// Beside the probe's own questions, which are texts.
process.on("message", (order: LoadOrder | string) => {
  if (typeof order === "string") return;
  void run(order).then((result) => process.send?.(result));
});
process.channel?.ref();
console.log("ready");

async function run({ address, streams, callers, seconds, underWay }: LoadOrder): Promise<LoadResult> {
  const templates = known.get(callers) ?? (await checkTemplates(callers, Math.max(callers * 4, TEMPLATES_MIN)));
  known.set(callers, templates);
  const sessions = Array.from({ length: CONNECTIONS }, () => connect(`http://${address}`));
  const log = streams === undefined ? undefined : openLog(streams);
  const cpuBefore = process.cpuUsage();
  const begin = performance.now();
  const until = begin + seconds * 1_000;
  let sent = 0;
  let failed = 0;
  let refused = 0;
  await Promise.all(
    Array.from({ length: underWay }, async (_, lane) => {
      const session = sessions[lane % CONNECTIONS] as ClientHttp2Session;
      while (performance.now() < until) {
        sent++;
        const own = number++;
        const answer = await call(session, numbered(templates[own % templates.length] as Template, own));
        if (answer === undefined) failed++;
        else {
          if (!allows(answer)) refused++;
          log?.add(own, answer);
        }
      }
    }),
  );
  const elapsed = (performance.now() - begin) / 1_000;
  const { user, system } = process.cpuUsage(cpuBefore);
  await log?.close();
  for (const session of sessions) session.close();
  return { sent, failed, refused, seconds: elapsed, loadCpuUs: user + system };
}

/** The framed answer; `undefined` when the call failed. */
function call(session: ClientHttp2Session, message: Buffer): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const stream = session.request(HEADERS);
    let answer: Buffer | undefined;
    let ok = false;
    stream.on("data", (part: Buffer) => {
      answer = answer === undefined ? part : Buffer.concat([answer, part]);
    });
    stream.on("trailers", (trailers) => {
      ok = Number(trailers["grpc-status"]) === 0;
    });
    stream.on("error", () => {}); // counted as failed when it closes
    stream.on("close", () => resolve(ok ? answer : undefined));
    stream.end(message);
  });
}

/** Envoy's one long stream of access logs. */
function openLog(address: string): { add(number: number, answer: Buffer): void; close(): Promise<void> } {
  const session = connect(`http://${address}`);
  const stream = session.request({
    ...HEADERS,
    ":path": "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
    "grpc-timeout": "3600S",
  });
  const batch = new LogBatch(LOG_BATCH);
  return {
    add: (own, answer) => {
      const full = batch.add(own, answer);
      if (full !== undefined) stream.write(full);
    },
    close: () =>
      new Promise((resolve) => {
        stream.resume().on("close", () => {
          session.close();
          resolve();
        });
        stream.end();
      }),
  };
}
