/** Control planes as processes, with keys, tokens and certificates made for the test. */

import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Test } from "tap";
import { createPki, type Pki } from "../../scripts/pki.ts";
import { readBundle } from "../../src/bundle/bundle-file.ts";
import { controlSource } from "../../src/bundle/sync/control-source.ts";
import {
  type ControlSourceOptions,
  type OfferResult,
  type SourceListener,
  systemClock,
} from "../../src/bundle/sync/source.ts";
import { verifyBundle } from "../../src/bundle/verify.ts";
import type { BundleFacts } from "../../src/model/bundle.ts";
import { OperatingError } from "../../src/model/errors.ts";
import { type Made, makeBundle, makeSigner, type Signer } from "../bundle/sync/bundles.ts";
import { command, type Ran } from "../support/command.ts";

const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
const START_MS_MAX = 20_000;

export const TOKENS = {
  sidecar: "sidecar-token-0123456789",
  operator: "operator-token-0123456789",
  viewer: "viewer-token-0123456789",
} as const;

export interface Control {
  readonly url: string;
  readonly health: string;
  readonly child: ChildProcess;
  /** What it has said so far. */
  log(): string;
  /** `sallyport fleet ...` as an operator. */
  fleet(...args: string[]): Promise<Ran>;
  stop(): Promise<number | null>;
  kill(): Promise<void>;
}

export interface Scene {
  readonly folder: string;
  readonly signer: Signer;
  readonly pki: Pki;
  /** Writes a signed bundle and returns its path. */
  bundle(made: Made, signer?: Signer): Promise<string>;
  control(flags?: readonly string[], options?: { readonly tls?: boolean; readonly port?: number }): Promise<Control>;
  file(name: string, content: string | Uint8Array): Promise<string>;
}

export async function makeScene(t: Test): Promise<Scene> {
  const folder = await mkdtemp(join(tmpdir(), "sallyport-control-"));
  const started: Control[] = [];
  t.teardown(async () => {
    await Promise.all(started.map((control) => control.kill()));
    await rm(folder, { recursive: true, force: true });
  });
  const signer = makeSigner();
  const pki = await createPki();
  const file = async (name: string, content: string | Uint8Array): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, content, { mode: 0o600 });
    return path;
  };
  const keys = await file("keys.json", signer.keyFile);
  const tokens = await file(
    "tokens.yaml",
    `tokens:\n${Object.entries(TOKENS)
      .map(([role, token]) => `  - { name: ${role}, sha256: ${sha256(token)}, roles: [${role}] }`)
      .join("\n")}\n`,
  );
  await file("operator.token", TOKENS.operator);
  await file("viewer.token", TOKENS.viewer);
  await file("sidecar.token", TOKENS.sidecar);
  await file("ca.pem", pki.caPem);
  const server = await pki.issue({ dns: ["localhost"], ips: ["127.0.0.1"], spiffeId: "spiffe://shop.example/control" });
  const cert = await file("server.pem", server.certPem);
  const key = await file("server.key", server.keyPem);
  return {
    folder,
    signer,
    pki,
    file,
    bundle: async (made, by = signer) =>
      file(`${made.name ?? "shop"}-${made.revision}.bundle`, await makeBundle(by, made)),
    control: async (flags = [], { tls = false, port = 0 } = {}) => {
      const args = [
        ...["--address", `127.0.0.1:${port}`, "--health-address", "127.0.0.1:0", "--heartbeat", "500ms"],
        ...["--bundle-keys", keys, "--tokens", tokens, "--drain-timeout", "500ms"],
        ...(tls ? ["--tls-cert", cert, "--tls-key", key] : []),
        ...flags,
      ];
      const control = await startControl(folder, args, tls);
      started.push(control);
      return control;
    },
  };
}

async function startControl(folder: string, args: readonly string[], tls: boolean): Promise<Control> {
  const child = spawn(process.execPath, [MAIN, "control", ...args], { stdio: ["ignore", "ignore", "pipe"] });
  const exited = once(child, "exit") as Promise<[number | null]>;
  const onExit = (): void => void child.kill("SIGKILL");
  process.once("exit", onExit);
  let said = "";
  const started = await new Promise<Record<string, string>>((resolve, reject) => {
    const impatience = setTimeout(() => reject(new Error(`control did not start:\n${said}`)), START_MS_MAX);
    child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      const line = said.split("\n").find((candidate) => candidate.includes('"event":"started"'));
      if (line === undefined) return;
      clearTimeout(impatience);
      resolve(JSON.parse(line) as Record<string, string>);
    });
    child.once("exit", (code) => {
      clearTimeout(impatience);
      reject(new Error(`control ended with ${code}:\n${said}`));
    });
  });
  const url = `${tls ? "https" : "http"}://${started.control}`;
  const end = async (signal: NodeJS.Signals): Promise<number | null> => {
    process.off("exit", onExit);
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    return (await exited)[0];
  };
  return {
    url,
    health: started.health!,
    child,
    log: () => said,
    fleet: (...rest) =>
      command([
        "fleet",
        ...rest,
        ...["--control", url, "--token-file", join(folder, "operator.token")],
        ...(tls ? ["--ca", join(folder, "ca.pem")] : []),
      ]),
    stop: () => end("SIGTERM"),
    kill: async () => void (await end("SIGKILL")),
  };
}

/** A sidecar's client with a keeper that verifies what it is offered. */
export interface Client {
  readonly offers: Uint8Array[];
  readonly errors: OperatingError[];
  confirmed: number;
  facts: BundleFacts | undefined;
  close(): void;
}

export function startClient(
  t: Test,
  scene: Scene,
  address: string,
  options: Partial<ControlSourceOptions> = {},
): Client {
  let held: Uint8Array | undefined;
  let trust = scene.signer.trust;
  let problem: { code: string; message: string } | undefined;
  const client: Client = { offers: [], errors: [], confirmed: 0, facts: undefined, close: () => source.close() };
  const listener: SourceListener = {
    offer: async (origin): Promise<OfferResult> => {
      if (origin.kind !== "bytes") throw new Error("expected bytes");
      client.offers.push(origin.bytes);
      try {
        const verified = await verifyBundle(readBundle(origin.bytes, origin.label), trust, Date.now());
        ({ trust } = verified);
        held = origin.bytes;
        client.facts = verified.facts;
        problem = undefined;
        return { kind: "in_force", bundle: verified.facts, files: [] };
      } catch (error) {
        if (!(error instanceof OperatingError)) throw error;
        problem = { code: error.code, message: error.message };
        return { kind: "refused", error, files: [] };
      }
    },
    confirmed: () => {
      client.confirmed++;
    },
    failed: (error) => void client.errors.push(error),
  };
  const source = controlSource({
    address,
    sidecarId: "one",
    labels: {},
    version: "test",
    tokenFile: join(scene.folder, "sidecar.token"),
    certFile: undefined,
    keyFile: undefined,
    caFile: undefined,
    bytesMax: 64 * 1024 * 1024,
    pollMs: 60_000,
    held: async () => held,
    clock: systemClock,
    onOrders: { orders: () => {}, heard: () => {}, told: () => {} },
    report: () => ({
      policyName: "p",
      policyRevision: client.facts === undefined ? "shipped" : `${client.facts.name}:${client.facts.revision}`,
      bundle: client.facts,
      freshness: "fresh",
      mode: "enforce",
      problem,
      checks: 7,
      decisions: { allow: 5, challenge: 1, deny: 1, terminate: 0 },
      scoreBands: [{ score: 30, promised: 0.001, observed: 0.002, requests: 2 }],
      riskEvents: [],
    }),
    ...options,
  });
  source.start(listener);
  t.teardown(() => source.close());
  return client;
}

export function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
