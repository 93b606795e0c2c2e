/** A sample service behind a real Envoy on a shipped configuration, with a sidecar process beside it. */

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import { type SidecarProcess, startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { findEnvoy } from "../../scripts/find-envoy.ts";
import { createIssuer, type Issued, type Issuer } from "../../scripts/pki.ts";
import { type Bootstrap, type RunningEnvoy, startEnvoy } from "../../scripts/run-envoy.ts";
import { type EchoService, startEcho } from "../../scripts/services/echo.ts";
import { type InventoryService, startInventory } from "../../scripts/services/inventory.ts";
import { type OrdersService, startOrders } from "../../scripts/services/orders.ts";
import type { Caller } from "./clients.ts";
import { type CertDir, makeCertDir } from "./envoy.ts";

export type Spec = Readonly<Record<string, unknown>>;

export interface GuardedOptions<Service> {
  /** Path of a shipped Envoy configuration. */
  readonly config: string;
  readonly service: (port: number) => Promise<Service>;
  /** The sidecar takes its policy from elsewhere, as its flags say. */
  readonly unpolicied?: boolean;
  /** The policy's `spec`. */
  readonly spec?: Spec;
  readonly flags?: readonly string[];
  /** Flags that name files; told the folder for them. */
  readonly flagsIn?: (folder: string) => readonly string[];
  readonly change?: (bootstrap: Bootstrap) => void;
  /** Writes what the policy names besides `jwks.json`; told the policy's folder. */
  readonly prepare?: (folder: string) => void;
  /** `iss` of the tokens; the one that the shipped JWT configuration names by default. */
  readonly issuer?: string;
}

export interface GuardedService<Service> {
  readonly envoy: RunningEnvoy;
  readonly sidecar: SidecarProcess;
  readonly service: Service;
  readonly certs: CertDir;
  readonly issuer: Issuer;
  readonly folder: string;
  readonly policyPath: string;
  /** How to call it: with a certificate of `name`, or without one. */
  caller(name?: string, more?: Partial<Caller>): Promise<Caller>;
  writePolicy(spec: Spec, revision: string): Promise<void>;
  /** Writes a policy and waits until it is in force. */
  setPolicy(spec: Spec): Promise<void>;
  /** The sidecar's own log so far. */
  log(): Promise<string>;
  /** Entries of the access log, from the one number `since` on, once there are `count` that fit. */
  entries(count: number, fits?: (entry: Entry) => boolean): Promise<readonly Entry[]>;
  stop(): Promise<void>;
}

export type Entry = Readonly<Record<string, unknown>>;
export type { EchoService, InventoryService, OrdersService };
export { startEcho, startInventory, startOrders };

const TRIES_MAX = 400;
const PAUSE_MS = 25;

export async function startGuarded<Service extends { readonly port: number; close(): Promise<void> }>(
  options: GuardedOptions<Service>,
): Promise<GuardedService<Service>> {
  const closers: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const close of closers.splice(0).reverse()) await close();
  };
  try {
    const { path: envoyPath } = await findEnvoy({ install: true });
    const folder = await mkdtemp(join(tmpdir(), "sallyport-test-"));
    closers.push(() => rm(folder, { recursive: true, force: true }));
    const issuer = await createIssuer(options.issuer ?? "https://issuer.example");
    const certs = await makeCertDir(issuer);
    closers.push(() => certs.remove());
    await writeFile(join(folder, "jwks.json"), JSON.stringify(issuer.jwks));
    options.prepare?.(folder);
    const policyPath = join(folder, "policy.yaml");
    const writePolicy = (spec: Spec, revision: string): Promise<void> =>
      writeFile(
        policyPath,
        stringify({ apiVersion: "sallyport.dev/v1", kind: "Policy", metadata: { name: "test", revision }, spec }),
      );
    await writePolicy(options.spec ?? {}, "one");
    const flags = [...(options.flags ?? []), ...(options.flagsIn?.(folder) ?? [])];
    const sidecar = await startSidecarProcess({
      name: "sidecar",
      folder,
      policy: options.unpolicied === true ? undefined : policyPath,
      flags,
    });
    closers.push(() => sidecar.stop());
    const service = await options.service(0);
    closers.push(() => service.close());
    const envoy = await startEnvoy({
      config: options.config,
      envoy: envoyPath,
      edits: {
        certDir: certs.path,
        upstreamPort: service.port,
        checkAddress: sidecar.extAuthz,
        streamsAddress: sidecar.streams,
        checkTimeout: "5s",
        change: options.change,
      },
    });
    closers.push(() => envoy.stop());
    let revisions = 0;
    return {
      envoy,
      sidecar,
      service,
      certs,
      issuer,
      folder,
      policyPath,
      caller: async (name, more) => ({
        port: envoy.port,
        caPem: certs.pki.caPem,
        certificate: name === undefined ? undefined : ((await certs.caller(name)) as Issued),
        ...more,
      }),
      writePolicy,
      setPolicy: async (spec) => {
        const revision = `set-${++revisions}`;
        await writePolicy(spec, revision);
        await eventually(async () => ((await readiness(sidecar)).policy_revision === revision ? true : undefined));
      },
      log: () => readFile(sidecar.log, "utf8"),
      entries: (count, fits = () => true) =>
        eventually(async () => {
          const found = (await envoy.accessLog()).filter((entry) => isEnd(entry) && fits(entry));
          return found.length >= count ? found : undefined;
        }),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function isEnd({ type }: Entry): boolean {
  return type !== "TcpConnectionStart" && !String(type).endsWith("Periodic");
}

/** Asks until there is an answer; 10 s at most. */
export async function eventually<Answer>(ask: () => Promise<Answer | undefined>): Promise<Answer> {
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  throw new Error("waited 10 s in vain");
}

/** What `/readyz` says. */
export async function readiness({ health }: SidecarProcess): Promise<Readonly<Record<string, unknown>>> {
  return (await (await fetch(`http://${health}/readyz`)).json()) as Record<string, unknown>;
}

/** Value of one metric of a sidecar, all its labels summed; `labels` narrows it. */
export async function metric(sidecar: SidecarProcess, name: string, labels = ""): Promise<number> {
  const text = await (await fetch(`http://${sidecar.health}/metrics`)).text();
  let sum = 0;
  for (const line of text.split("\n")) {
    if (line.startsWith(name) && /^[ {]/.test(line.slice(name.length)) && line.includes(labels)) {
      sum += Number(line.slice(line.lastIndexOf(" ")));
    }
  }
  return sum;
}
