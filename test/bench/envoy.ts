/** Latency of requests through a real Envoy: without a check, with a bare server's, with the sidecar's. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findEnvoy } from "../../scripts/find-envoy.ts";
import { type Bootstrap, startEnvoy } from "../../scripts/run-envoy.ts";
import { startOrders } from "../../scripts/services/orders.ts";
import { type NodeClient, nodeClient } from "../support/clients.ts";
import { makeCertDir } from "../support/envoy.ts";
import { median, printTable, quantile, rounded } from "./figures.ts";
import { type ExtAuthzServer, startBare, startSidecar } from "./servers.ts";

const CONFIG = "envoy/http-mtls.yaml";
const EXT_AUTHZ = "envoy.filters.http.ext_authz";

export interface EnvoyFigures {
  readonly name: string;
  /** Microseconds from request to the end of its answer. */
  readonly medianUs: number;
  readonly p99Us: number;
  /** Median over that without a check, median of the rounds. */
  readonly ratio: number;
}

/**
 * One caller, one request at a time, Envoys in turn.
 * @returns `undefined` where there is no Envoy; nothing is installed
 */
export async function measureEnvoy(rounds: number, requests: number): Promise<readonly EnvoyFigures[] | undefined> {
  const envoy = await findEnvoy({ install: false }).catch((error: Error) => {
    console.log(`latency through Envoy: left out, ${error.message.split("\n")[0]}\n`); // the rest was measured
    return undefined;
  });
  if (envoy === undefined) return undefined;
  const closers: (() => Promise<unknown>)[] = [];
  try {
    const certs = await makeCertDir();
    closers.push(() => certs.remove());
    const state = await mkdtemp(join(tmpdir(), "sallyport-bench-state-"));
    closers.push(() => rm(state, { recursive: true, force: true }));
    const service = await startOrders(0);
    closers.push(() => service.close());
    const certificate = await certs.caller("billing");
    const servers: readonly (readonly [string, ExtAuthzServer | undefined])[] = [
      ["Envoy without a check", undefined],
      ["Envoy with allow-all, bytes unread", await startBare([])],
      ["Envoy with sallyport serve", await startSidecar(state)],
    ];
    for (const [, server] of servers) if (server !== undefined) closers.push(() => server.stop());
    const targets: { name: string; client: NodeClient; latencies: number[][] }[] = [];
    for (const [name, server] of servers) {
      const running = await startEnvoy({
        config: CONFIG,
        envoy: envoy.path,
        edits: {
          certDir: certs.path,
          upstreamPort: service.port,
          ...(server === undefined ? { change: withoutCheck } : { checkAddress: server.extAuthz }),
          ...(server?.streams === undefined ? {} : { streamsAddress: server.streams }),
        },
      });
      closers.push(() => running.stop());
      const client = nodeClient({ port: running.port, caPem: certs.pki.caPem, certificate });
      closers.push(async () => client.close());
      targets.push({ name, client, latencies: [] });
    }
    for (const { client } of targets) await latenciesUs(client, requests);
    for (let round = 0; round < rounds; round++) {
      for (const { client, latencies } of targets) latencies.push(await latenciesUs(client, requests));
    }
    const without = targets[0]?.latencies.map(median) ?? [];
    const figures = targets.map(({ name, latencies }) => ({
      name,
      medianUs: rounded(median(latencies.map(median))),
      p99Us: rounded(median(latencies.map((round) => quantile(round, 0.99)))),
      ratio: rounded(median(latencies.map((round, i) => median(round) / (without[i] ?? Number.NaN))), 2),
    }));
    printTable(
      [`latency, us (Envoy ${envoy.version})`, "median", "99 %", "against none"],
      figures.map(({ name, medianUs, p99Us, ratio }) => [name, medianUs, p99Us, ratio.toFixed(2)]),
    );
    return figures;
  } finally {
    for (const close of closers.reverse()) await close();
  }
}

async function latenciesUs(client: NodeClient, requests: number): Promise<number[]> {
  const latencies: number[] = [];
  for (let i = 0; i < requests; i++) {
    const before = performance.now();
    const { status } = await client.send({ path: i % 2 === 0 ? "/orders" : `/orders/${1 + (i % 3)}` });
    latencies.push((performance.now() - before) * 1_000);
    if (status !== 200) throw new Error(`expected status 200 through Envoy, got ${status}`);
  }
  return latencies;
}

/** The shipped configuration, but that nobody is asked. */
function withoutCheck(bootstrap: Bootstrap): void {
  const filters = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return;
    for (const [key, part] of Object.entries(value)) {
      if (key === "http_filters" && Array.isArray(part)) {
        const at = part.findIndex(({ name }) => name === EXT_AUTHZ);
        if (at >= 0) part.splice(at, 1);
      } else filters(part);
    }
  };
  filters(bootstrap.static_resources.listeners);
}
