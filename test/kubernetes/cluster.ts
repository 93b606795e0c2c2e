/**
 * A Kubernetes of one's own on loopback: etcd, the real API server and the real controllers, for a test and gone with it.
 *
 * There are no nodes, so no Pod runs: what is read back is what the API server admitted and stored. Services have addresses
 * out of 127.43.0.0/16, every one of which is this machine: a process that listens on a Service's address is reached by
 * the API server as a Pod behind kube-proxy would be, by the same `clientConfig.service`.
 */

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { request } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";
import { stringify } from "yaml";
import { findKubeTools, type KubeTool } from "../../scripts/find-kube-tools.ts";
import { createPki } from "../../scripts/pki.ts";
import type { JsonObject } from "../../src/injector/injection.ts";
import { freePort } from "../support/ports.ts";
import { skipUnless } from "../support/skip.ts";

const SERVICE_RANGE = "127.43.0.0/16";
const READY_MS_MAX = 60_000;
const COMMAND_MS_MAX = 60_000;
const STOP_MS_MAX = 10_000;
const PAUSE_MS = 50;
/** The workloads' controllers, and those that make namespaces usable and remove what is left behind. */
const CONTROLLERS = [
  "serviceaccount-controller",
  "root-ca-certificate-publisher-controller",
  "namespace-controller",
  "garbage-collector-controller",
  "deployment-controller",
  "replicaset-controller",
  "replicationcontroller-controller",
  "statefulset-controller",
  "daemonset-controller",
  "job-controller",
  "cronjob-controller",
  "clusterrole-aggregation-controller",
];

/**
 * Options for tests that need a cluster: they run where `SALLYPORT_KUBE_TESTS=1` (`npm run test:kubernetes`), as the first
 * build of the API server takes minutes. Where that is set, what is missing fails.
 */
export function clusterNeeded(): { readonly skip?: string } {
  const wanted = process.env.SALLYPORT_KUBE_TESTS === "1";
  return skipUnless(wanted, "a real kube-apiserver is only started by `npm run test:kubernetes`", {
    obtainable: false,
  });
}

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface Cluster {
  readonly folder: string;
  /** Of the API server. */
  readonly port: number;
  readonly caPem: string;
  /** `kubectl` as an administrator; `input` goes to its standard input. */
  kubectl(args: readonly string[], input?: string): Promise<Ran>;
  /** As `kubectl`; throws unless it ends well. */
  must(args: readonly string[], input?: string): Promise<string>;
  helm(args: readonly string[]): Promise<Ran>;
  /** Creates or changes objects as an administrator. @throws {Error} with what the API server said */
  apply(...objects: readonly JsonObject[]): Promise<Ran>;
  /** Reads objects as JSON. */
  get(...args: readonly string[]): Promise<JsonObject>;
  /** Posts to the API as it is, without kubectl's own checks. */
  post(path: string, object: JsonObject): Promise<{ readonly status: number; readonly body: JsonObject }>;
  /** What the API server wrote to its audit log of an admission webhook's annotations. */
  audit(): Promise<readonly JsonObject[]>;
}

/** Starts a cluster that ends with the test. */
export async function startCluster(t: Test): Promise<Cluster> {
  const tools = await findKubeTools({ install: false });
  const folder = await mkdtemp(join(tmpdir(), "sallyport-kube-"));
  const processes: ChildProcess[] = [];
  t.teardown(async () => {
    for (const child of processes.reverse()) await stop(child);
    await rm(folder, { recursive: true, force: true });
  });
  const start = (tool: KubeTool, args: readonly string[]): ChildProcess => {
    const log = openSync(join(folder, `${tool}.log`), "a");
    const child = spawn(tools[tool], args, { stdio: ["ignore", log, log], env: { PATH: process.env.PATH } });
    closeSync(log);
    processes.push(child);
    return child;
  };
  const [etcdPort, peerPort, port] = [await freePort(), await freePort(), await freePort()];
  const etcd = `http://127.0.0.1:${etcdPort}`;
  start("etcd", [
    ...["--data-dir", join(folder, "etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd],
    ...["--listen-peer-urls", `http://127.0.0.1:${peerPort}`, "--initial-advertise-peer-urls"],
    ...[`http://127.0.0.1:${peerPort}`, "--initial-cluster", `default=http://127.0.0.1:${peerPort}`],
  ]);
  const { caPem, tokens } = await writeFiles(folder, port);
  const server = start("kube-apiserver", [
    `--etcd-servers=${etcd}`,
    "--bind-address=127.0.0.1",
    `--secure-port=${port}`,
    `--service-cluster-ip-range=${SERVICE_RANGE}`,
    // The API server's own address is a loopback one, which no Endpoints may have.
    "--endpoint-reconciler-type=none",
    `--tls-cert-file=${join(folder, "server.crt")}`,
    `--tls-private-key-file=${join(folder, "server.key")}`,
    `--token-auth-file=${join(folder, "tokens.csv")}`,
    "--authorization-mode=RBAC",
    "--anonymous-auth=true",
    `--service-account-issuer=https://127.0.0.1:${port}`,
    `--service-account-key-file=${join(folder, "account.pub")}`,
    `--service-account-signing-key-file=${join(folder, "account.key")}`,
    `--audit-policy-file=${join(folder, "audit.yaml")}`,
    `--audit-log-path=${join(folder, "audit.log")}`,
    "--audit-log-mode=blocking-strict",
  ]);
  const kubeconfig = join(folder, "admin.kubeconfig");
  const environment = { PATH: process.env.PATH ?? "", HOME: folder, KUBECONFIG: kubeconfig };
  const ran = (tool: "kubectl" | "helm", args: readonly string[], input?: string): Promise<Ran> =>
    new Promise((resolve) => {
      const child = execFile(
        tools[tool],
        [...args],
        { env: environment, timeout: COMMAND_MS_MAX, maxBuffer: 64 * 1024 * 1024 },
        (error, out, err) => resolve({ code: error === null ? 0 : Number(error.code ?? 1), out, err }),
      );
      child.stdin?.on("error", () => {}); // it ended before it read all
      child.stdin?.end(input ?? "");
    });
  const kubectl: Cluster["kubectl"] = (args, input) => ran("kubectl", args, input);
  const must: Cluster["must"] = async (args, input) => {
    const { code, out, err } = await kubectl(args, input);
    if (code !== 0) throw new Error(`kubectl ${args.join(" ")}: ${err || out}`);
    return out;
  };
  const post = (path: string, object: JsonObject) =>
    postJson({ port, path, body: JSON.stringify(object), caPem, token: tokens.admin });
  await until(async () => {
    if (server.exitCode !== null) throw new Error(`kube-apiserver ended: ${await tail(folder, "kube-apiserver")}`);
    return (await kubectl(["get", "--raw", "/readyz"])).code === 0;
  }, "the API server");
  start("kube-controller-manager", [
    `--kubeconfig=${join(folder, "controllers.kubeconfig")}`,
    `--authentication-kubeconfig=${join(folder, "controllers.kubeconfig")}`,
    `--authorization-kubeconfig=${join(folder, "controllers.kubeconfig")}`,
    "--bind-address=127.0.0.1",
    `--secure-port=${await freePort()}`,
    "--use-service-account-credentials=true",
    `--service-account-private-key-file=${join(folder, "account.key")}`,
    `--root-ca-file=${join(folder, "ca.crt")}`,
    "--leader-elect=false",
    `--controllers=${CONTROLLERS.join(",")}`,
  ]);
  await until(async () => (await kubectl(["get", "serviceaccount", "default"])).code === 0, "the controllers");
  return {
    folder,
    port,
    caPem,
    kubectl,
    must,
    post,
    helm: (args) => ran("helm", args),
    apply: async (...objects) => {
      const list = { apiVersion: "v1", kind: "List", items: objects };
      const applied = await kubectl(["apply", "-f", "-"], JSON.stringify(list));
      if (applied.code !== 0) throw new Error(applied.err);
      return applied;
    },
    get: async (...args) => JSON.parse(await must(["get", ...args, "-o", "json"])) as JsonObject,
    audit: async () => {
      const text = await readFile(join(folder, "audit.log"), "utf8");
      return text
        .split("\n")
        .filter((line) => line.endsWith("}"))
        .map((line) => JSON.parse(line) as JsonObject);
    },
  };
}

/** Waits until `ask` is true; 60 s at most. */
export async function until(ask: () => Promise<boolean>, what: string): Promise<void> {
  const end = Date.now() + READY_MS_MAX;
  while (!(await ask())) {
    if (Date.now() > end) throw new Error(`waited a minute in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGTERM");
  const cut = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
  await ended;
  clearTimeout(cut);
}

async function tail(folder: string, tool: string): Promise<string> {
  return (await readFile(join(folder, `${tool}.log`), "utf8")).split("\n").slice(-5).join("\n");
}

/** Certificates, tokens and configurations of the cluster. */
async function writeFiles(
  folder: string,
  port: number,
): Promise<{ readonly caPem: string; readonly tokens: { readonly admin: string } }> {
  const pki = await createPki("cluster");
  const server = await pki.issue({ ips: ["127.0.0.1", "127.43.0.1"], dns: ["kubernetes.default.svc"] });
  const account = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const tokens = { admin: randomBytes(16).toString("hex"), controllers: randomBytes(16).toString("hex") };
  const users = [
    `${tokens.admin},admin,admin,"system:masters"`,
    `${tokens.controllers},system:kube-controller-manager,controllers,"system:authenticated"`,
  ];
  const config = (token: string): string =>
    stringify({
      apiVersion: "v1",
      kind: "Config",
      clusters: [
        {
          name: "test",
          cluster: {
            server: `https://127.0.0.1:${port}`,
            "certificate-authority-data": Buffer.from(pki.caPem).toString("base64"),
          },
        },
      ],
      users: [{ name: "test", user: { token } }],
      contexts: [{ name: "test", context: { cluster: "test", user: "test" } }],
      "current-context": "test",
    });
  const audit = {
    apiVersion: "audit.k8s.io/v1",
    kind: "Policy",
    omitStages: ["RequestReceived"],
    rules: [
      { level: "Metadata", verbs: ["create"], resources: [{ group: "", resources: ["pods"] }] },
      { level: "None" },
    ],
  };
  const files = {
    "ca.crt": pki.caPem,
    "server.crt": server.certPem,
    "server.key": server.keyPem,
    "account.key": account.privateKey.export({ type: "sec1", format: "pem" }) as string,
    "account.pub": account.publicKey.export({ type: "spki", format: "pem" }) as string,
    "tokens.csv": `${users.join("\n")}\n`,
    "admin.kubeconfig": config(tokens.admin),
    "controllers.kubeconfig": config(tokens.controllers),
    "audit.yaml": stringify(audit),
  };
  await mkdir(folder, { recursive: true });
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text, { mode: 0o600 });
  return { caPem: pki.caPem, tokens };
}

function postJson(asked: {
  readonly port: number;
  readonly path: string;
  readonly body: string;
  readonly caPem: string;
  readonly token: string;
}): Promise<{ readonly status: number; readonly body: JsonObject }> {
  const { port, path, body, caPem, token } = asked;
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
    const call = request(
      { host: "127.0.0.1", port, path, method: "POST", ca: caPem, agent: false, headers },
      (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (piece: string) => {
          text += piece;
        });
        response.on("error", reject);
        response.on("end", () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) as JsonObject }));
      },
    );
    call.on("error", reject);
    call.end(body);
  });
}
