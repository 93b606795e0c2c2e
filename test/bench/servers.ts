/** The servers under measurement, each started on the servers' core: the sidecar, bare ones in two languages, OPA-Envoy. */

import { execFileSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { buildGoAllowAll } from "../../scripts/go-allow-all.ts";
import { beside, type Measured, type Program, SERVER_CORE, startMeasured, startProgram } from "./measured.ts";

export const MAIN: string = beside("../../dist/main.js");
const ANY = "127.0.0.1:0";

/** A server of checks. */
export interface ExtAuthzServer {
  readonly extAuthz: string;
  readonly program: Program;
}

export interface BareServer extends ExtAuthzServer {
  readonly program: Measured;
}

export interface Sidecar extends BareServer {
  readonly streams: string;
  readonly health: string;
}

export interface SidecarOptions {
  readonly stateDirectory: string;
  /** Path of the decision log. */
  readonly decisionLog: string;
  /** Path of a policy; default: the shipped one. */
  readonly policy?: string | undefined;
  /** Default `24h`: a snapshot in the middle of one server's turn would be charged to it alone. */
  readonly snapshotInterval?: string | undefined;
  readonly flags?: readonly string[] | undefined;
}

/** Arguments of `sallyport serve` as it is measured: all listeners but the live page's, learning, a decision log. */
export function serveArguments(options: SidecarOptions): readonly string[] {
  return [
    ...[MAIN, "serve", "--ext-authz-address", ANY, "--streams-address", ANY, "--health-address", ANY],
    ...["--api-address", "off", "--state-dir", options.stateDirectory, "--decision-log", options.decisionLog],
    ...["--snapshot-interval", options.snapshotInterval ?? "24h"],
    ...(options.policy === undefined ? [] : ["--policy", options.policy]),
    ...(options.flags ?? []),
  ];
}

export async function startSidecar(options: SidecarOptions): Promise<Sidecar> {
  const program = await startMeasured(serveArguments(options), SERVER_CORE, saysStarted);
  const addresses = JSON.parse(program.line) as { extAuthz: string; streams: string; health: string };
  return { program, extAuthz: addresses.extAuthz, streams: addresses.streams, health: addresses.health };
}

export function saysStarted(line: string): boolean {
  return line.includes('"event":"started"');
}

/** Flags that choose the library's transport; `undefined` where `serve` has no such setting. */
export function libraryTransportFlags(): readonly string[] | undefined {
  const help = execFileSync(process.execPath, [MAIN, "serve", "--help"], { encoding: "utf8" });
  return help.includes("--ext-authz-transport") ? ["--ext-authz-transport", "grpc-js"] : undefined;
}

/** Answers OK to every check on our own transport, and says its address as `allow-all.ts` does. */
export const OWN_SCRIPT = "allow-all-own.ts";

export async function startBare(kind: "grpc-js" | "grpc-js-decoding" | "http2" | "own"): Promise<BareServer> {
  const script = kind === "own" ? [beside(OWN_SCRIPT)] : [beside("allow-all.ts"), kind];
  const program = await startMeasured(["--import=tsx", ...script], SERVER_CORE, saysAddress);
  return { program, ...(JSON.parse(program.line) as { extAuthz: string }) };
}

/** @throws {Error} when it cannot be built */
export async function startGo(): Promise<ExtAuthzServer & { readonly version: string }> {
  const { path, version } = await buildGoAllowAll();
  const program = await startProgram([path, ANY], { core: SERVER_CORE, ready: saysAddress, env: { GOMAXPROCS: "1" } });
  return { program, version, ...(JSON.parse(program.line) as { extAuthz: string }) };
}

function saysAddress(line: string): boolean {
  return line.includes('"extAuthz"');
}

/** Small, and allows all that the load generators ask for. */
const REGO = `package envoy.authz

import rego.v1

default allow := false

allow if {
	input.attributes.request.http.method == "GET"
	some prefix in ["/orders", "/stock", "/customers/"]
	startswith(input.attributes.request.http.path, prefix)
}
`;

/**
 * OPA with its Envoy plugin, on a policy of one rule, without decision logs.
 * @param path the binary
 * @param folder where the policy is written
 */
export async function startOpa(path: string, folder: string): Promise<ExtAuthzServer> {
  if (!existsSync(path)) throw new Error(`${path} does not exist`);
  const policy = join(folder, "policy.rego");
  writeFileSync(policy, REGO);
  const [grpc, http, diagnostics] = [await freeAddress(), await freeAddress(), await freeAddress()];
  const settings = [
    `plugins.envoy_ext_authz_grpc.addr=${grpc}`,
    "plugins.envoy_ext_authz_grpc.path=envoy/authz/allow",
    "decision_logs.console=false",
  ];
  const command = [path, "run", "--server", "--addr", http, "--diagnostic-addr", diagnostics, "--log-level", "info"];
  const program = await startProgram([...command, ...settings.flatMap((one) => ["--set", one]), policy], {
    core: SERVER_CORE,
    ready: (line) => line.includes("Starting gRPC server"),
    env: { GOMAXPROCS: "1" },
  });
  return { program, extAuthz: grpc };
}

/** OPA does not tell which port the system chose. */
async function freeAddress(): Promise<string> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const address = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return `127.0.0.1:${address.port}`;
}
