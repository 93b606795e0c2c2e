/** The demo's small world: an authority, a token issuer, three services behind Envoys, and a sidecar beside each. */

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import { findEnvoy } from "../find-envoy.ts";
import { createIssuer, createPki, type Issuer, type Pki } from "../pki.ts";
import { type Bootstrap, type RunningEnvoy, startEnvoy } from "../run-envoy.ts";
import { startEcho } from "../services/echo.ts";
import { startInventory } from "../services/inventory.ts";
import { startOrders } from "../services/orders.ts";
import { type SidecarProcess, startSidecarProcess } from "./sidecar.ts";

export const DOMAIN = "shop.example";
export const ISSUER = "https://issuer.shop.example";

/** Addresses of this machine that stand for pods and strangers. */
export const ADDRESSES = {
  web: "127.0.0.11",
  webDeployed: "127.0.0.12",
  billing: "127.0.0.21",
  billingMoved: "127.0.0.22",
  reports: "127.0.0.31",
  ledger: "127.0.0.41",
  payouts: "127.0.0.51",
  payoutsMoved: "127.0.0.52",
  thief: "127.0.0.66",
  listed: "127.0.0.77",
  blocked: "127.0.0.99",
} as const;

/** A service with its Envoy and its sidecar. */
export interface Guarded {
  readonly name: string;
  readonly envoy: RunningEnvoy;
  readonly sidecar: SidecarProcess;
}

export interface World {
  readonly folder: string;
  readonly pki: Pki;
  readonly issuer: Issuer;
  readonly orders: Guarded;
  readonly inventory: Guarded;
  readonly ledger: Guarded;
  /** Writes the policy of all three sidecars; they notice by themselves. */
  setPolicy(changes: Readonly<Record<string, unknown>>): Promise<string>;
  stop(): Promise<void>;
}

/** @param recorded whether the sidecars write recordings into the folder, as `NAME.recording` */
export async function createWorld(say: (line: string) => void, recorded = false): Promise<World> {
  await assertAddresses();
  const closers: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const close of closers.splice(0).reverse()) await close();
  };
  try {
    const { path: envoy, version, from } = await findEnvoy({ install: true });
    say(`Envoy ${version} (${from})`);
    const folder = await mkdtemp(join(tmpdir(), "sallyport-demo-"));
    closers.push(() => rm(folder, { recursive: true, force: true }));
    const [pki, issuer] = await Promise.all([createPki(), createIssuer(ISSUER)]);
    const certDir = join(folder, "certs");
    await mkdir(certDir);
    const server = await pki.issue({
      spiffeId: `spiffe://${DOMAIN}/ns/shop/sa/services`,
      dns: ["localhost"],
      ips: ["127.0.0.1"],
    });
    await Promise.all([
      writeFile(join(certDir, "ca.crt"), pki.caPem),
      writeFile(join(certDir, "server.crt"), server.certPem),
      writeFile(join(certDir, "server.key"), server.keyPem, { mode: 0o600 }),
      writeFile(join(folder, "jwks.json"), JSON.stringify(issuer.jwks)),
      writeFile(join(folder, "blocked.txt"), `${ADDRESSES.blocked}/32 # seen in an incident\n`),
      writeFile(join(folder, "listed.txt"), `${ADDRESSES.listed}/32 14 # an open proxy\n`),
    ]);
    const policy = join(folder, "policy.yaml");
    let revision = 0;
    const setPolicy = async (changes: Readonly<Record<string, unknown>>): Promise<string> => {
      const name = `demo-${++revision}`;
      await writeFile(policy, policyText(name, changes));
      return name;
    };
    await setPolicy({});

    const guard = async (
      name: string,
      config: string,
      upstreamPort: number,
      change?: (bootstrap: Bootstrap) => void,
    ) => {
      const flags = recorded ? ["--recording", join(folder, `${name}.recording`)] : [];
      const sidecar = await startSidecarProcess({ name, folder, policy, flags });
      closers.push(() => sidecar.stop());
      const running = await startEnvoy({
        config,
        envoy,
        edits: {
          certDir,
          upstreamPort,
          checkAddress: sidecar.extAuthz,
          streamsAddress: sidecar.streams,
          checkTimeout: "5s",
          change,
        },
      });
      closers.push(() => running.stop());
      return { name, envoy: running, sidecar };
    };
    const [orders, inventory, ledger] = await Promise.all([startOrders(0), startInventory(0), startEcho(0)]);
    for (const service of [orders, inventory, ledger]) closers.push(() => service.close());
    const guarded = await Promise.all([
      // Partners without a certificate of ours call the orders with a bearer token.
      guard("orders", "envoy/http-mtls.yaml", orders.port, allowWithoutCertificate),
      guard("inventory", "envoy/grpc.yaml", inventory.port),
      guard("ledger", "envoy/tcp.yaml", ledger.port),
    ]);
    return { folder, pki, issuer, orders: guarded[0], inventory: guarded[1], ledger: guarded[2], setPolicy, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function policyText(revision: string, changes: Readonly<Record<string, unknown>>): string {
  return stringify({
    apiVersion: "sallyport.dev/v1",
    kind: "Policy",
    metadata: { name: "demo", revision },
    spec: {
      mode: "enforce",
      identity: {
        trustedSpiffe: [`spiffe://${DOMAIN}/ns/**`],
        issuers: [{ issuer: ISSUER, audiences: ["sallyport"], jwks: { file: "jwks.json" } }],
      },
      lists: {
        addresses: [
          { name: "operators-blocklist", action: "block", reason: "blocked by the operator", file: "blocked.txt" },
          { name: "open-proxies", action: "score", bits: 14, reason: "an open proxy", file: "listed.txt" },
        ],
      },
      posture: { forbid: [{ name: "must be compliant", fact: "compliant", in: ["false"] }] },
      ...changes,
    },
  });
}

/** Envoy asks for a certificate wherever it is to match its names; the policy's `trustedSpiffe` does that here. */
function allowWithoutCertificate(bootstrap: Bootstrap): void {
  const [listener] = bootstrap.static_resources.listeners as unknown as { filter_chains: TlsChain[] }[];
  for (const { transport_socket } of listener?.filter_chains ?? []) {
    transport_socket.typed_config.require_client_certificate = false;
    delete transport_socket.typed_config.common_tls_context.validation_context.match_typed_subject_alt_names;
  }
}

interface TlsChain {
  readonly transport_socket: {
    readonly typed_config: {
      require_client_certificate: boolean;
      readonly common_tls_context: { readonly validation_context: { match_typed_subject_alt_names?: unknown } };
    };
  };
}

/** Linux answers on all of 127.0.0.0/8; macOS only after the addresses were added. */
async function assertAddresses(): Promise<void> {
  for (const address of Object.values(ADDRESSES)) {
    await new Promise<void>((resolve, reject) => {
      const server = createServer();
      server.once("error", () =>
        reject(
          new Error(
            `this machine does not answer on ${address}. On macOS add the demo's loopback addresses first:\n${Object.values(
              ADDRESSES,
            )
              .map((one) => `  sudo ifconfig lo0 alias ${one}`)
              .join("\n")}`,
          ),
        ),
      );
      server.listen(0, address, () => server.close(() => resolve()));
    });
  }
}
