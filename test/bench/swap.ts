/** Usage: tsx test/bench/swap.ts [--rounds N] [--seconds N] [--rate N]   What changing policy costs requests; needs dist/. */

import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { printTable, rounded } from "./figures.ts";
import { beside, LOAD_CORE, SERVER_CORE, startMeasured } from "./measured.ts";
import type { SwapOrder, SwapResult } from "./swap-load.ts";
import { REVISIONS, writePolicies } from "./swap-policies.ts";

const RANGES = 200_000;
const SWAP_MS = 2_000;
const MIB = 2 ** 20;

interface Delay {
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly rss: number;
  readonly rssPeak: number;
}

interface Kind {
  readonly name: string;
  readonly swaps: boolean;
  readonly latenciesMs: number[];
  readonly delays: Delay[];
  readonly revisions: Set<string>;
  sent: number;
  failed: number;
  mixed: number;
  swapped: number;
}

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "10" },
    rate: { type: "string", default: "300" },
  },
});
const [rounds, seconds, perSecond] = [Number(values.rounds), Number(values.seconds), Number(values.rate)];
const folder = mkdtempSync(join(tmpdir(), "sallyport-swap-"));
const policies = writePolicies(folder, RANGES);
const path = join(folder, "policy.yaml");

function put(revision: string): void {
  const next = join(folder, "next.yaml");
  writeFileSync(next, policies[revision]!);
  renameSync(next, path);
}

put("none");
const any = "127.0.0.1:0";
const server = await startMeasured(
  [
    ...["--import", new URL("swap-probe.mjs", import.meta.url).href, beside("../../dist/main.js"), "serve"],
    ...["--policy", path, "--ext-authz-address", any, "--streams-address", any, "--health-address", any],
    ...["--api-address", "off"],
  ],
  SERVER_CORE,
  (line) => line.includes('"event":"started"'),
);
const load = await startMeasured(["--import=tsx", beside("swap-load.ts")], LOAD_CORE, (line) => line === "ready");
try {
  const { extAuthz } = JSON.parse(server.line) as { extAuthz: string };
  const order: SwapOrder = { address: extAuthz, seconds, perSecond };
  const kindOf = (name: string, swaps: boolean): Kind => ({
    ...{ name, swaps, latenciesMs: [], delays: [], revisions: new Set<string>() },
    ...{ sent: 0, failed: 0, mixed: 0, swapped: 0 },
  });
  const quiet = kindOf("no swaps", false);
  const swapping = kindOf(`a swap every ${SWAP_MS / 1_000} s`, true);
  await load.ask<SwapResult>({ ...order, seconds: 3 });
  const before = await server.ask<Delay>("delay");
  let turn = 0;
  // In turns, so that whatever else the machine does hits both alike.
  for (let round = 0; round < rounds; round++) {
    for (const kind of [quiet, swapping]) {
      const swaps = kind.swaps
        ? setInterval(() => {
            put(REVISIONS[++turn % REVISIONS.length]!);
            kind.swapped++;
          }, SWAP_MS)
        : undefined;
      const result = await load.ask<SwapResult>(order);
      clearInterval(swaps);
      kind.delays.push(await server.ask<Delay>("delay"));
      for (const latency of result.latenciesMs) kind.latenciesMs.push(latency);
      for (const revision of result.revisions) kind.revisions.add(revision);
      kind.sent += result.sent;
      kind.failed += result.failed;
      kind.mixed += result.mixed;
    }
  }
  printTable(
    [
      "",
      "checks",
      "p50 ms",
      "p99 ms",
      "p99.9 ms",
      "max ms",
      "loop p99 ms",
      "loop max ms",
      "failed",
      "mixed",
      "revisions",
    ],
    [quiet, swapping].map((kind) => {
      const sorted = Float64Array.from(kind.latenciesMs).sort();
      const at = (share: number): number =>
        rounded(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0, 2);
      const loop = (of: (delay: Delay) => number): number => rounded(Math.max(...kind.delays.map(of)), 1);
      return [
        ...[
          kind.name,
          kind.sent,
          at(0.5),
          at(0.99),
          at(0.999),
          at(1),
          loop(({ p99Ms }) => p99Ms),
          loop(({ maxMs }) => maxMs),
        ],
        ...[kind.failed, kind.mixed, kind.revisions.size],
      ];
    }),
  );
  const after = swapping.delays.at(-1)!;
  console.log(
    `${swapping.swapped} swaps; RSS before the first ${Math.round(before.rss / MIB)} MiB, peak ${Math.round(after.rssPeak / MIB)} MiB, after ${Math.round(after.rss / MIB)} MiB`,
  );
  if (quiet.failed + swapping.failed + quiet.mixed + swapping.mixed > 0) process.exitCode = 1;
} finally {
  await load.stop();
  await server.stop();
  rmSync(folder, { recursive: true });
}
