/** Usage: tsx test/bench/hold-cost.ts [--seconds N] [--rounds N]   What the hold filter costs requests that are not held, and those that are. */

import { readFileSync } from "node:fs";
import type { Bootstrap } from "../../scripts/run-envoy.ts";
import { nodeClient } from "../support/clients.ts";
import { startGuarded, startOrders } from "../support/guarded.ts";
import { median, printTable, rounded } from "./figures.ts";

const CONNECTIONS = 4;
const TICKS_PER_SECOND = 100;

function numberOf(flag: string, otherwise: number): number {
  const at = process.argv.indexOf(flag);
  return at < 0 ? otherwise : Number(process.argv[at + 1]);
}

const SECONDS = numberOf("--seconds", 4);
const ROUNDS = numberOf("--rounds", 5);

/** Takes the filter out, as an operator would who holds nothing. */
function withoutHolding(bootstrap: Bootstrap): void {
  const listeners = JSON.stringify(bootstrap.static_resources.listeners);
  bootstrap.static_resources.listeners = JSON.parse(listeners, (key, value) =>
    key === "http_filters" && Array.isArray(value)
      ? value.filter(({ name }: { name: string }) => name !== "sallyport.watch")
      : value,
  );
}

const held = { rules: [{ name: "held", watch: true }] };
const none = { streams: { hold: "none" } };
const kinds = [
  { name: "without the filter", guarded: await start(none, withoutHolding) },
  { name: "with it, not held", guarded: await start(none) },
  { name: "held", guarded: await start(held) },
];

function start(spec: Record<string, unknown>, change?: (bootstrap: Bootstrap) => void) {
  return startGuarded({ config: "envoy/http-mtls.yaml", service: startOrders, spec, ...(change ? { change } : {}) });
}

/** Seconds of processor time so far (proc(5), `stat`, fields 14 and 15). */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

const results = new Map(
  kinds.map(({ name }) => [name, { envoy: [] as number[], sidecar: [] as number[], p50: [] as number[] }]),
);
for (let round = 0; round < ROUNDS; round++) {
  for (const { name, guarded } of kinds) {
    const caller = await guarded.caller("web");
    const clients = Array.from({ length: CONNECTIONS }, () => nodeClient(caller));
    const before = [cpuSeconds(guarded.envoy.pid), cpuSeconds(guarded.sidecar.pid)];
    const until = performance.now() + SECONDS * 1_000;
    const latencies: number[] = [];
    await Promise.all(
      clients.map(async (client) => {
        while (performance.now() < until) {
          const sentMs = performance.now();
          await client.send({ path: "/orders" });
          latencies.push(performance.now() - sentMs);
        }
      }),
    );
    for (const client of clients) client.close();
    const into = results.get(name)!;
    const micros = (pid: number, since: number): number => ((cpuSeconds(pid) - since) * 1e6) / latencies.length;
    into.envoy.push(micros(guarded.envoy.pid, before[0]!));
    into.sidecar.push(micros(guarded.sidecar.pid, before[1]!));
    into.p50.push(median(latencies));
  }
}
printTable(
  ["", "Envoy, µs of CPU per request", "Sallyport, µs", "p50 ms"],
  [...results].map(([name, { envoy, sidecar, p50 }]) => [
    name,
    rounded(median(envoy)),
    rounded(median(sidecar)),
    rounded(median(p50), 2),
  ]),
);
for (const { guarded } of kinds) await guarded.stop();
process.exit(0);
