/** Usage: tsx test/bench/kill.ts [--streams N]   Time from an order to end streams to their end at real clients. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { LocalService } from "../../src/gen/sallyport/local/v1/local_pb.ts";
import { grpcClient } from "../support/clients.ts";
import { eventually, metric, startGuarded } from "../support/guarded.ts";
import {
  answerOverHttp1,
  answerOverHttp2,
  grpcAnswers,
  grpcBoth,
  http2Session,
  rawTcp,
  type Stream,
  uploadOverHttp2,
  webSocket,
} from "../support/streams.ts";

const FLAG = process.argv.indexOf("--streams");
const STREAMS = FLAG < 0 ? 1_000 : Number(process.argv[FLAG + 1]);
const HELD = { rules: [{ name: "held", watch: true }] };
const PER_CONNECTION = 50;
/** Rarely enough that carrying the streams leaves the two cores room: what is measured is their end. */
const TICK_MS = 5_000;

type Guarded = Awaited<ReturnType<typeof startGuarded>>;
type Opener = (guarded: Guarded, name: string) => Promise<() => Promise<Stream>>;

const kinds: readonly (readonly [name: string, config: string, service: string, open: Opener])[] = [
  ["server-sent events, HTTP/1.1", "envoy/http-mtls.yaml", "orders", perCaller((caller) => answerOverHttp1(caller))],
  ["server-sent events, HTTP/2", "envoy/http-mtls.yaml", "orders", perSession((session) => answerOverHttp2(session))],
  ["uploads, HTTP/2", "envoy/http-mtls.yaml", "orders", perSession((session) => uploadOverHttp2(session))],
  ["WebSocket", "envoy/http-mtls.yaml", "orders", perCaller((caller) => webSocket(caller))],
  ["gRPC, server streaming", "envoy/grpc.yaml", "inventory", perGrpc((client) => grpcAnswers(client))],
  ["gRPC, both ways", "envoy/grpc.yaml", "inventory", perGrpc((client) => grpcBoth(client))],
  ["raw TCP", "envoy/tcp-held.yaml", "echo", perCaller((caller) => rawTcp(caller))],
];

/** In a process of its own, so that its work for the streams that end does not hold up their clients. */
async function serviceProcess(kind: string): Promise<{ readonly port: number; close(): Promise<void> }> {
  const child = spawn(
    process.execPath,
    ["--import=tsx", fileURLToPath(new URL("service.ts", import.meta.url)), kind, String(TICK_MS)],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  const [said] = (await once(child.stdout, "data")) as [Buffer];
  return { port: Number(said.toString("utf8")), close: async () => void child.kill() };
}

function perCaller(open: (caller: Awaited<ReturnType<Guarded["caller"]>>) => Promise<Stream>): Opener {
  return async (guarded, name) => {
    const caller = await guarded.caller(name);
    return () => open(caller);
  };
}

function perSession(open: (session: Awaited<ReturnType<typeof http2Session>>) => Promise<Stream>): Opener {
  return async (guarded, name) => {
    const caller = await guarded.caller(name);
    let session = await http2Session(caller);
    let used = 0;
    return async () => {
      if (++used % PER_CONNECTION === 0) session = await http2Session(caller);
      return open(session);
    };
  };
}

function perGrpc(open: (client: ReturnType<typeof grpcClient>) => Promise<Stream>): Opener {
  return async (guarded, name) => {
    const caller = await guarded.caller(name);
    let client = grpcClient(caller);
    let used = 0;
    return async () => {
      if (++used % PER_CONNECTION === 0) client = grpcClient(caller);
      return open(client);
    };
  };
}

/** Callers that are ended one after another, and the streams of each; all other streams are one caller's. */
const ONES = 10;
const STREAMS_OF_ONE = 10;
const CROWD = "crowd";

console.log(`${STREAMS} streams open; milliseconds from the decision to the client's end`);
console.log("| streams | one caller's 10: p50 | p99 | last | all others' at once: p50 | p99 | last |");
console.log("| --- | --- | --- | --- | --- | --- | --- |");
for (const [name, config, service, opener] of kinds) {
  const guarded = (await startGuarded({ config, service: () => serviceProcess(service), spec: HELD })) as Guarded;
  try {
    const streams = new Map<string, Stream[]>();
    const ones = Array.from({ length: ONES }, (_, n) => `one-${n}`);
    for (const caller of [...ones, CROWD]) {
      const open = await opener(guarded, caller);
      const count = caller === CROWD ? STREAMS - ONES * STREAMS_OF_ONE : STREAMS_OF_ONE;
      const opened: Stream[] = [];
      for (let n = 0; n < count; n++) opened.push(await open());
      streams.set(caller, opened);
    }
    await eventually(async () =>
      (await metric(guarded.sidecar, "sallyport_open_streams")) >= STREAMS ? true : undefined,
    );
    const end = (caller: string): Promise<readonly number[]> => endAll(guarded, caller, streams.get(caller) ?? []);
    const single: number[] = [];
    for (const one of ones) single.push(...(await end(one)));
    const figures = [single, await end(CROWD)].flatMap((times) => [0.5, 0.99, 1].map((share) => at(times, share)));
    console.log(`| ${[name, ...figures].join(" | ")} |`);
  } finally {
    await guarded.stop();
  }
}
process.exit(0);

/** Locks a caller; tells for each of its streams when its client knew. */
async function endAll(guarded: Guarded, caller: string, streams: readonly Stream[]): Promise<readonly number[]> {
  const client = createClient(
    LocalService,
    createConnectTransport({
      httpVersion: "1.1",
      baseUrl: "http://localhost",
      nodeOptions: { socketPath: guarded.sidecar.apiSocket },
    }),
  );
  const answered = client.addLock({ lock: { principal: `spiffe://shop.example/${caller}`, reason: "benchmark" } });
  const overMs = await Promise.all(streams.map(({ over }) => over));
  const { lock } = await answered;
  // The sidecar's clock is this machine's.
  const decidedMs = Number(lock?.setAt?.seconds) * 1_000 + (lock?.setAt?.nanos ?? 0) / 1e6 - performance.timeOrigin;
  return overMs.map((ms) => ms - decidedMs).sort((a, b) => a - b);
}

function at(times: readonly number[], share: number): string {
  const sorted = [...times].sort((a, b) => a - b);
  return (sorted[Math.ceil(share * sorted.length) - 1] ?? 0).toFixed(1);
}
