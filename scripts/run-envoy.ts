/** Runs Envoy on one of the shipped configurations, with ports and paths of the caller's own. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import { findEnvoy } from "./find-envoy.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const READY_MS_MAX = 20_000;
const LOG_MS_MAX = 10_000;
const STOP_MS_MAX = 5_000;
const POLL_MS = 20;
const ERROR_LINES = 20;

/** What differs from the shipped file; whatever is absent keeps the file's value, except for the two ports. */
export interface Edits {
  /** Default 0: the system chooses, see {@link RunningEnvoy.port}. */
  readonly listenerPort?: number | undefined;
  /** Default `127.0.0.1`. */
  readonly listenerAddress?: string | undefined;
  /** Default 0: the system chooses. */
  readonly adminPort?: number | undefined;
  /** `host:port` of an IP address, or the path of a Unix socket. */
  readonly checkAddress?: string | undefined;
  readonly streamsAddress?: string | undefined;
  readonly upstreamPort?: number | undefined;
  /** Stands for `certs/` in every file name. */
  readonly certDir?: string | undefined;
  /** How long Envoy waits for a check, for machines that do much else meanwhile; for example `5s`. */
  readonly checkTimeout?: string | undefined;
  /** Any other change, made last and in place. */
  readonly change?: ((bootstrap: Bootstrap) => void) | undefined;
}

/** The parts of Envoy's bootstrap that are edited here; the rest is carried along. */
export interface Bootstrap {
  admin: { address: Address };
  static_resources: {
    listeners: { name: string; address: Address; [field: string]: unknown }[];
    clusters: { name: string; load_assignment: LoadAssignment; [field: string]: unknown }[];
  };
  [field: string]: unknown;
}

export type Address =
  | { socket_address: { address: string; port_value: number; [field: string]: unknown } }
  | { pipe: { path: string } };

interface LoadAssignment {
  endpoints: { lb_endpoints: { endpoint: { address: Address } }[] }[];
  [field: string]: unknown;
}

export interface RunningEnvoy {
  /** The first listener's. */
  readonly port: number;
  readonly adminPort: number;
  readonly pid: number;
  /** Envoy's own log. */
  log(): string;
  /** Access log entries so far, oldest first. */
  accessLog(): Promise<Record<string, unknown>[]>;
  /** The first access log entry that fits. Rejects when none came within 10 s. */
  waitForLog(fits: (entry: Record<string, unknown>) => boolean): Promise<Record<string, unknown>>;
  /** Body of a GET, or with `method` a POST, to the admin interface, for example `/stats?filter=ext_authz`. */
  admin(path: string, method?: "GET" | "POST"): Promise<string>;
  /** Ends the process and removes its files. Resolves once it is gone; may be called twice. */
  stop(): Promise<void>;
}

export interface EnvoyOptions {
  /** Path of a shipped file, relative to the repository, for example `envoy/http-mtls.yaml`. */
  readonly config: string;
  readonly edits?: Edits | undefined;
  /** Binary to run; default: what {@link findEnvoy} finds without installing. */
  readonly envoy?: string | undefined;
  /** Log level; default `warning`. */
  readonly logLevel?: string | undefined;
}

/**
 * Starts Envoy and waits until it serves.
 * @throws {Error} with the end of Envoy's log when it refuses the configuration or is not ready within 20 s
 */
export async function startEnvoy(options: EnvoyOptions): Promise<RunningEnvoy> {
  const envoy = options.envoy ?? (await findEnvoy({ install: false })).path;
  const directory = await mkdtemp(join(tmpdir(), "sallyport-envoy-"));
  const path = (name: string): string => join(directory, name);
  await writeFile(path("envoy.json"), JSON.stringify(await readConfig(options.config, options.edits ?? {}), null, 1));
  // Files, not pipes: Envoy must never wait for a reader.
  const stdout = openSync(path("access.log"), "a");
  const stderr = openSync(path("stderr.log"), "a");
  const child = spawn(
    envoy,
    [
      ...["-c", path("envoy.json"), "--admin-address-path", path("admin")],
      ...["--use-dynamic-base-id", "--concurrency", "1", "--file-flush-interval-msec", "50"],
      ...["--log-level", options.logLevel ?? "warning", "--log-path", path("envoy.log")],
    ],
    { cwd: ROOT, stdio: ["ignore", stdout, stderr] },
  );
  closeSync(stdout);
  closeSync(stderr);
  let guard: ChildProcess | undefined;
  const log = (): string => ["stderr.log", "envoy.log"].map((name) => readIfThere(path(name))).join("");
  const stop = async (): Promise<void> => {
    guard?.kill();
    await end(child);
    await rm(directory, { recursive: true, force: true });
  };
  try {
    await once(child, "spawn");
    guard = guardOf(child);
    const adminPort = await readAdminPort(child, path("admin"));
    const admin = async (target: string, method = "GET"): Promise<string> =>
      await (await fetch(`http://127.0.0.1:${adminPort}${target}`, { method })).text();
    await until(READY_MS_MAX, () => serves(child, admin));
    const accessLog = async (): Promise<Record<string, unknown>[]> =>
      entriesOf(await readFile(path("access.log"), "utf8"));
    return {
      port: portOf(await admin("/listeners?format=json")),
      adminPort,
      pid: child.pid!,
      log,
      accessLog,
      waitForLog: (fits) => until(LOG_MS_MAX, async () => (await accessLog()).find(fits)),
      admin,
      stop,
    };
  } catch (error) {
    const end = log().trim().split("\n").slice(-ERROR_LINES).join("\n");
    await stop();
    throw new Error(`${options.config}: ${(error as Error).message}\n${end}`, { cause: error });
  }
}

/** The shipped file with the edits made. Names of files become absolute, so that it runs from anywhere. */
export async function readConfig(config: string, edits: Edits): Promise<Bootstrap> {
  const certDir = edits.certDir;
  const text = await readFile(resolve(ROOT, config), "utf8");
  const bootstrap = parse(text, (key, value: unknown) =>
    key === "filename" && typeof value === "string" && certDir !== undefined
      ? value.replace(/^certs\//, `${resolve(certDir)}/`)
      : value,
  ) as Bootstrap;
  const { listeners } = bootstrap.static_resources;
  bootstrap.admin.address = addressOf(`127.0.0.1:${edits.adminPort ?? 0}`);
  listeners[0]!.address = addressOf(`${edits.listenerAddress ?? "127.0.0.1"}:${edits.listenerPort ?? 0}`);
  if (edits.checkAddress !== undefined) redirect(bootstrap, "sallyport_check", edits.checkAddress);
  if (edits.streamsAddress !== undefined) redirect(bootstrap, "sallyport_streams", edits.streamsAddress);
  if (edits.upstreamPort !== undefined) redirect(bootstrap, "service", `127.0.0.1:${edits.upstreamPort}`);
  if (edits.checkTimeout !== undefined) setCheckTimeout(bootstrap, edits.checkTimeout);
  edits.change?.(bootstrap);
  return bootstrap;
}

/** The limit of all tries together, and of each: `max_interval` bounds a try as well. */
function setCheckTimeout(bootstrap: Bootstrap, timeout: string): void {
  const visit = (node: unknown): void => {
    if (typeof node !== "object" || node === null) return;
    const service = node as { envoy_grpc?: { cluster_name?: string }; timeout?: string; retry_policy?: unknown };
    if (service.envoy_grpc?.cluster_name === "sallyport_check") {
      service.timeout = timeout;
      const { retry_back_off } = (service.retry_policy ?? {}) as { retry_back_off?: { max_interval: string } };
      if (retry_back_off !== undefined) retry_back_off.max_interval = timeout;
    }
    for (const child of Object.values(node)) visit(child);
  };
  visit(bootstrap.static_resources.listeners);
}

function redirect(bootstrap: Bootstrap, cluster: string, address: string): void {
  const found = bootstrap.static_resources.clusters.find(({ name }) => name === cluster);
  if (found === undefined) throw new RangeError(`no cluster is named ${cluster}`);
  found.load_assignment.endpoints = [{ lb_endpoints: [{ endpoint: { address: addressOf(address) } }] }];
}

function addressOf(text: string): Address {
  if (text.startsWith("/")) return { pipe: { path: text } };
  const colon = text.lastIndexOf(":");
  return { socket_address: { address: text.slice(0, colon), port_value: Number(text.slice(colon + 1)) } };
}

function portOf(listeners: string): number {
  const { listener_statuses } = JSON.parse(listeners) as {
    listener_statuses: { local_address: { socket_address: { port_value: number } } }[];
  };
  return listener_statuses[0]!.local_address.socket_address.port_value;
}

/** Lines that are whole; the last one may still be on its way. */
function entriesOf(text: string): Record<string, unknown>[] {
  return text
    .split("\n")
    .slice(0, -1)
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

async function readAdminPort(child: ChildProcess, path: string): Promise<number> {
  return await until(READY_MS_MAX, async () => {
    refuseExited(child);
    return Number(/:(\d+)$/.exec(readIfThere(path).trim())?.[1]) || undefined;
  });
}

async function serves(child: ChildProcess, admin: (path: string) => Promise<string>): Promise<true | undefined> {
  refuseExited(child);
  return (await admin("/ready").catch(() => "")).startsWith("LIVE") ? true : undefined; // not yet: asked again
}

function refuseExited(child: ChildProcess): void {
  const { exitCode, signalCode } = child;
  if (exitCode !== null || signalCode !== null) throw new Error(`Envoy ended with ${exitCode ?? signalCode}`);
}

/** Ends Envoy when this process dies without having stopped it, killed or not: its end of the pipe closes then. */
function guardOf(child: ChildProcess): ChildProcess {
  const guard = spawn("sh", ["-c", 'read _; kill -9 "$1"', "sh", String(child.pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  guard.on("error", () => {}); // without a shell Envoy may outlive us; nothing else is lost
  guard.unref();
  (guard.stdin as Socket | null)?.unref();
  return guard;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const gone = once(child, "exit");
  child.kill("SIGTERM");
  const impatience = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
  await gone;
  clearTimeout(impatience);
}

/** Asks again and again until there is an answer. */
async function until<T>(msMax: number, ask: () => Promise<T | undefined>): Promise<T> {
  const deadline = performance.now() + msMax;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (performance.now() > deadline) throw new Error(`waited ${msMax} ms in vain`);
    await pause(POLL_MS);
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // not written yet
  }
}
