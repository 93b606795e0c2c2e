/** All servers of one run, started together and measured in turn. */

import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import type { LoadOrder, LoadResult } from "./load.ts";
import { beside, LOAD_CORE, type Measured, startMeasured } from "./measured.ts";
import type { Report } from "./report.ts";
import {
  type ExtAuthzServer,
  libraryTransportFlags,
  OWN_SCRIPT,
  type Sidecar,
  startBare,
  startGo,
  startOpa,
  startSidecar,
} from "./servers.ts";

/** What each competitor is called in tables, figures and marks. */
export const NAMES = {
  go: "Go allow-all (grpc-go)",
  opa: "OPA-Envoy, small policy",
  grpcJs: "allow-all on grpc-js, bytes unread",
  grpcJsDecoding: "allow-all on grpc-js, decoding",
  http2: "allow-all on node:http2, bytes unread",
  own: "allow-all on our transport",
} as const;

/** Whether there is a bare server on our own transport to be measured. */
export const OWN_TRANSPORT: boolean = existsSync(beside(OWN_SCRIPT));

export interface Competitor {
  readonly name: string;
  readonly server: ExtAuthzServer;
  /** Where access logs go. */
  readonly streams: string | undefined;
  /** Of how many callers it is asked. */
  readonly callers: number;
}

export interface Field {
  readonly competitors: readonly Competitor[];
  readonly goVersion: string | undefined;
  /** Sidecars by their number of principals, on the default transport. */
  readonly sidecars: ReadonlyMap<number, Sidecar>;
  stop(): Promise<void>;
}

export interface FieldOptions {
  /** Learned states, by number of principals; the last one is what everything else is measured at. */
  readonly states: readonly { readonly principals: number; readonly directory: string }[];
  readonly folder: string;
  readonly opaEnvoy: string | undefined;
}

export function sidecarName(principals: number): string {
  return `sallyport serve, ${principals.toLocaleString("en-US")} principals`;
}

export async function startField({ states, folder, opaEnvoy }: FieldOptions, report: Report): Promise<Field> {
  const competitors: Competitor[] = [];
  const sidecars = new Map<number, Sidecar>();
  const many = states.at(-1) as FieldOptions["states"][number];
  const add = (name: string, server: ExtAuthzServer, streams?: string, callers = many.principals): void => {
    competitors.push({ name, server, streams, callers });
  };
  const stop = async (): Promise<void> => {
    for (const server of new Set(competitors.map((one) => one.server))) await server.program.stop();
  };
  let goVersion: string | undefined;
  try {
    try {
      const go = await startGo();
      goVersion = go.version;
      add(NAMES.go, go);
    } catch (error) {
      report.skipped(NAMES.go, firstLine(error)); // no Go, or no modules: the rest was asked for all the same
    }
    if (opaEnvoy === undefined) report.skipped(NAMES.opa, "Name its binary with `--opa-envoy PATH`.");
    else add(NAMES.opa, await startOpa(opaEnvoy, folder));
    add(NAMES.grpcJs, await startBare("grpc-js"));
    add(NAMES.grpcJsDecoding, await startBare("grpc-js-decoding"));
    add(NAMES.http2, await startBare("http2"));
    if (OWN_TRANSPORT) add(NAMES.own, await startBare("own"));
    else report.skipped(NAMES.own, `There is no \`test/bench/${OWN_SCRIPT}\`.`);
    for (const { principals, directory } of states) {
      const sidecar = await startSidecar(await sidecarFiles(folder, directory));
      sidecars.set(principals, sidecar);
      add(sidecarName(principals), sidecar, undefined, principals);
      if (principals === many.principals) {
        add(`${sidecarName(principals)}, access log`, sidecar, sidecar.streams, principals);
      }
    }
    const flags = libraryTransportFlags();
    if (flags === undefined) {
      report.skipped(
        "sallyport serve on grpc-js",
        "`serve` has no `--ext-authz-transport`: the rows above are grpc-js.",
      );
    } else {
      const files = await sidecarFiles(folder, many.directory);
      add(`${sidecarName(many.principals)}, grpc-js`, await startSidecar({ ...files, flags }));
    }
    return { competitors, goVersion, sidecars, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Files of one sidecar's own: a copy of a state, and a decision log. */
export async function sidecarFiles(
  folder: string,
  state: string | undefined,
): Promise<{ readonly stateDirectory: string; readonly decisionLog: string }> {
  const own = await mkdtemp(join(folder, "sidecar-"));
  const stateDirectory = join(own, "state");
  if (state === undefined) await mkdir(stateDirectory);
  else await cp(state, stateDirectory, { recursive: true });
  return { stateDirectory, decisionLog: join(own, "decisions.log") };
}

export function startLoad(): Promise<Measured> {
  return startMeasured(["--import=tsx", beside("load.ts")], LOAD_CORE, (line) => line === "ready");
}

/** One turn, and the CPU that the server took for it. */
export async function turn(
  load: Measured,
  { server, streams, callers }: Omit<Competitor, "name">,
  seconds: number,
  pace: LoadOrder["pace"],
): Promise<LoadResult & { readonly serverCpuUs: number }> {
  const before = await server.program.cpuUs();
  const order: LoadOrder = { address: server.extAuthz, streams, callers, seconds, pace };
  const result = await load.ask<LoadResult>(order);
  return { ...result, serverCpuUs: (await server.program.cpuUs()) - before };
}

export function firstLine(error: unknown): string {
  return (error as Error).message.split("\n")[0] ?? "";
}
