/**
 * Requests through a real Envoy: without a filter, with its own RBAC filter, with each authorizer.
 *
 * Envoy has one worker on the one core; the authorizer and the HTTP client share the other, as a sidecar shares the pod
 * with its service. Callers speak plain HTTP/1.1; ext_authz is set up as in `envoy/http-mtls.yaml`, and Envoy answers
 * what was allowed itself, so that no upstream is measured.
 */

import { findEnvoy } from "../../scripts/find-envoy.ts";
import { type Bootstrap, type RunningEnvoy, startEnvoy } from "../../scripts/run-envoy.ts";
import { type Competitor, type Field, firstLine, NAMES } from "./field.ts";
import { median, rounded } from "./figures.ts";
import type { HttpOrder, HttpResult } from "./http-load.ts";
import { beside, cpuUsOf, LOAD_CORE, pin, SERVER_CORE, startMeasured } from "./measured.ts";
import type { Report } from "./report.ts";
import { percent, type Rounds } from "./throughput.ts";
import { findWrk } from "./wrk.ts";

const CONFIG = "envoy/http-mtls.yaml";
const CONNECTIONS = 32;
const MODERATE_PER_SECOND = 1_000;
const ENVOY_CORE = LOAD_CORE;
const WARM_SECONDS = 1;

export const NO_FILTER = "Envoy, no authorizer";
export const RBAC = "Envoy, RBAC filter";

export interface EnvoyFigures {
  readonly name: string;
  readonly requestsPerSecond: number;
  /** Of the authorizer, for each request. */
  readonly serverCpuUs: number | undefined;
  readonly envoyCpuUs: number;
  readonly envoyBusy: number;
  readonly p50Us: number;
  readonly p99Us: number;
  /** At a steady, moderate rate. */
  readonly moderateP50Us: number;
  readonly moderateP99Us: number;
  readonly moderateP999Us: number;
}

type Client = (order: HttpOrder) => Promise<HttpResult>;

interface Target {
  readonly name: string;
  readonly envoy: RunningEnvoy;
  readonly competitor: Competitor | undefined;
  readonly fast: { result: HttpResult; serverUs: number | undefined; envoyUs: number }[];
  readonly moderate: HttpResult[];
}

/** @returns `undefined` where there is no Envoy; nothing is installed */
export async function measureEnvoy(
  field: Field,
  { rounds, seconds, folder }: Rounds & { readonly folder: string },
  report: Report,
): Promise<readonly EnvoyFigures[] | undefined> {
  report.title("Through Envoy");
  let found: Awaited<ReturnType<typeof findEnvoy>>;
  try {
    found = await findEnvoy({ install: false });
  } catch (error) {
    report.skipped("everything through Envoy", firstLine(error)); // the rest is measured all the same
    return undefined;
  }
  const callers = Math.max(...field.competitors.map((one) => one.callers));
  const competitors = field.competitors.filter((one) => one.callers === callers && one.name !== NAMES.grpcJsDecoding);
  const targets: Target[] = [];
  const wrk = findWrk(folder, SERVER_CORE);
  const load = await startMeasured(["--import=tsx", beside("http-load.ts")], SERVER_CORE, (line) => line === "ready");
  try {
    const add = async (name: string, competitor: Competitor | undefined, change: (b: Bootstrap) => void) => {
      const checkAddress = competitor?.server.extAuthz;
      const streamsAddress = competitor?.streams;
      const edits = { change, checkTimeout: "5s", checkAddress, streamsAddress };
      const envoy = await startEnvoy({ config: CONFIG, envoy: found.path, edits });
      pin(envoy.pid, ENVOY_CORE);
      targets.push({ name, envoy, competitor, fast: [], moderate: [] });
    };
    await add(NO_FILTER, undefined, (bootstrap) => simplify(bootstrap, [], false));
    await add(RBAC, undefined, (bootstrap) => simplify(bootstrap, [RBAC_FILTER], false));
    for (const one of competitors) {
      await add(one.name, one, (bootstrap) => simplify(bootstrap, "ext_authz", one.streams !== undefined));
    }
    const steady: Client = (order) => load.ask<HttpResult>(order);
    for (const one of targets) await measureFast(one, wrk ?? steady, WARM_SECONDS);
    for (const one of targets) one.fast.length = 0;
    for (let round = 0; round < rounds; round++) {
      for (const one of targets) {
        await measureFast(one, wrk ?? steady, seconds);
        one.moderate.push(await ask(one, steady, { seconds, perSecond: MODERATE_PER_SECOND }));
      }
    }
    const figures = targets.map(figuresOf);
    report.table(
      [
        ...[`Envoy ${found.version}`, "requests/s", "server CPU µs", "Envoy CPU µs", "Envoy busy", "p50 ms", "p99 ms"],
        ...[`at ${MODERATE_PER_SECOND.toLocaleString("en-US")}/s: p50 ms`, "p99 ms", "p99.9 ms"],
      ],
      figures.map((one) => [
        ...[one.name, one.requestsPerSecond, one.serverCpuUs ?? "", one.envoyCpuUs, percent(one.envoyBusy)],
        ...[one.p50Us, one.p99Us, one.moderateP50Us, one.moderateP99Us, one.moderateP999Us].map((us) =>
          (us / 1_000).toFixed(2),
        ),
      ]),
    );
    report.say(
      `${CONNECTIONS} connections over plain HTTP/1.1, one Envoy worker on one core, authorizer and HTTP client ` +
        `(${wrk === undefined ? "the benchmark's own; there is no wrk" : "wrk; at the steady rate the benchmark's own"}) ` +
        "on the other; ext_authz as shipped, the answer is Envoy's own.",
    );
    report.figures.envoy = { version: found.version, figures };
    return figures;
  } finally {
    for (const { envoy } of targets) await envoy.stop();
    await load.stop();
  }
}

async function measureFast(target: Target, client: Client, seconds: number): Promise<void> {
  const { envoy, competitor, fast } = target;
  const before = [await competitor?.server.program.cpuUs(), cpuUsOf(envoy.pid)] as const;
  const result = await ask(target, client, { seconds });
  const after = [await competitor?.server.program.cpuUs(), cpuUsOf(envoy.pid)] as const;
  const serverUs = after[0] === undefined || before[0] === undefined ? undefined : after[0] - before[0];
  fast.push({ result, serverUs, envoyUs: after[1] - before[1] });
}

async function ask(
  { name, envoy }: Target,
  client: Client,
  order: Pick<HttpOrder, "seconds" | "perSecond">,
): Promise<HttpResult> {
  const result = await client({ port: envoy.port, connections: CONNECTIONS, ...order });
  if (result.failed > result.sent / 100) throw new Error(`${name}: ${result.failed} of ${result.sent} were not let in`);
  return result;
}

function figuresOf({ name, competitor, fast, moderate }: Target): EnvoyFigures {
  const of = (value: (one: (typeof fast)[number]) => number): number => median(fast.map(value));
  return {
    name,
    requestsPerSecond: rounded(of(({ result }) => result.sent / result.seconds)),
    serverCpuUs:
      competitor === undefined
        ? undefined
        : rounded(
            of(({ result, serverUs }) => (serverUs ?? 0) / result.sent),
            1,
          ),
    envoyCpuUs: rounded(
      of(({ result, envoyUs }) => envoyUs / result.sent),
      1,
    ),
    envoyBusy: rounded(
      of(({ result, envoyUs }) => envoyUs / (result.seconds * 1e6)),
      2,
    ),
    p50Us: rounded(of(({ result }) => result.latencyUs.p50)),
    p99Us: rounded(of(({ result }) => result.latencyUs.p99)),
    moderateP50Us: rounded(median(moderate.map(({ latencyUs }) => latencyUs.p50))),
    moderateP99Us: rounded(median(moderate.map(({ latencyUs }) => latencyUs.p99))),
    moderateP999Us: rounded(median(moderate.map(({ latencyUs }) => latencyUs.p999))),
  };
}

type Json = Record<string, unknown>;

/** The same question as an authorizer is asked, answered by Envoy itself. */
const RBAC_FILTER: Json = {
  name: "envoy.filters.http.rbac",
  typed_config: {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
    rules: {
      action: "ALLOW",
      policies: {
        readers: {
          permissions: [
            {
              and_rules: {
                rules: [
                  { header: { name: ":method", string_match: { exact: "GET" } } },
                  {
                    or_rules: {
                      rules: ["/orders", "/stock", "/customers/"].map((prefix) => ({
                        url_path: { path: { prefix } },
                      })),
                    },
                  },
                ],
              },
            },
          ],
          principals: [{ any: true }],
        },
      },
    },
  },
};

/** Leaves of the shipped configuration what is measured. @param filters before the router, or the shipped ext_authz */
function simplify(bootstrap: Bootstrap, filters: readonly Json[] | "ext_authz", logs: boolean): void {
  const listener = bootstrap.static_resources.listeners[0] as Json;
  delete listener.listener_filters;
  const [chain] = listener.filter_chains as [{ transport_socket?: unknown; filters: [{ typed_config: Json }] }];
  delete chain.transport_socket;
  const manager = chain.filters[0].typed_config;
  const shipped = manager.http_filters as { name: string }[];
  const kept =
    filters === "ext_authz" ? shipped.filter(({ name }) => name === "envoy.filters.http.ext_authz") : filters;
  manager.http_filters = [...kept, ...shipped.slice(-1)];
  manager.access_log = logs
    ? (manager.access_log as { name: string }[]).filter(({ name }) => name.endsWith("grpc"))
    : [];
  // The header is what stands for the certificate's facts; nobody believes it.
  manager.forward_client_cert_details = "ALWAYS_FORWARD_ONLY";
  manager.route_config = {
    virtual_hosts: [
      { name: "service", domains: ["*"], routes: [{ match: { prefix: "/" }, direct_response: { status: 200 } }] },
    ],
  };
}
