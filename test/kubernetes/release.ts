/** A release of the chart in a cluster without nodes, and what a kubelet would do for the webhook's Pods. */

import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Test } from "tap";
import type { JsonObject } from "../../src/injector/injection.ts";
import { type Mount, mount } from "../webhook/mount.ts";
import { type Cluster, type Ran, stop, until } from "./cluster.ts";

const CHART = fileURLToPath(new URL("../../k8s/chart", import.meta.url));
const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));

export const RELEASE = "sallyport";
export const SYSTEM = "sallyport-system";
/** Named by the chart after the release. */
export const WEBHOOK = "sallyport-webhook";

/** `helm upgrade --install` with `--set` of each. */
export function installed(cluster: Cluster, sets: readonly string[] = []): Promise<Ran> {
  return cluster.helm([
    ...["upgrade", "--install", RELEASE, CHART, "--namespace", SYSTEM, "--create-namespace", "--history-max", "0"],
    ...sets.flatMap((set) => ["--set", set]),
  ]);
}

export interface ReplicaOptions {
  /** Default: the Service's address and port, where kube-proxy would bring the API server's calls. */
  readonly address?: string;
  /** Default: the end comes at once, without waiting for endpoints to spread. */
  readonly drainDelay?: string;
}

export interface Webhook {
  readonly child: ChildProcess;
  /** `HOST:PORT` where reviews are taken. */
  readonly address: string;
  /** `HOST:PORT` of the health port. */
  readonly health: string;
  log(): string;
  /** Brings the Secret's and the ConfigMap's present contents into the mounted folders, as kubelets do within a minute. */
  remount(): Promise<void>;
  /** Ends it as a kubelet does. Resolves with its exit status. */
  stop(): Promise<number | null>;
}

/** `HOST:PORT` of the webhook's Service. */
export async function serviceAddress(cluster: Cluster): Promise<string> {
  const { spec } = await cluster.get("service", WEBHOOK, "-n", SYSTEM);
  return `${at(spec, "clusterIP")}:${at(spec, "ports", 0, "port")}`;
}

/** Runs a Pod of the webhook's Deployment as a process: its own arguments, its mounted files, its service account's token. */
export async function runWebhook(t: Test, cluster: Cluster, options: ReplicaOptions = {}): Promise<Webhook> {
  const deployment = await cluster.get("deployment", WEBHOOK, "-n", SYSTEM);
  const spec = at(deployment, "spec", "template", "spec") as JsonObject;
  const [container] = spec.containers as readonly JsonObject[];
  const address = options.address ?? (await serviceAddress(cluster));
  const tls = await mount(t, await secretFiles(cluster));
  const injector = await mount(t, await configFiles(cluster));
  const account = await accountFolder(t, cluster, String(spec.serviceAccountName));
  const args = (container!.args as readonly string[]).map((arg) =>
    arg
      .replace("/etc/sallyport/injector", injector.folder)
      .replace("/etc/sallyport/tls", tls.folder)
      .replace(/^--webhook-address=.*/, `--webhook-address=${address}`)
      .replace(/^--health-address=.*/, "--health-address=127.0.0.1:0"),
  );
  const child = spawn(
    process.execPath,
    [MAIN, ...args, `--service-account-dir=${account.folder}`, `--drain-delay=${options.drainDelay ?? "0s"}`],
    {
      stdio: ["ignore", "ignore", "pipe"],
      env: { KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: String(cluster.port) },
    },
  );
  let log = "";
  child.stderr.setEncoding("utf8");
  child.stderr.on("data", (text: string) => {
    log += text;
  });
  t.teardown(() => stop(child));
  await until(async () => {
    if (child.exitCode !== null) throw new Error(`the webhook ended: ${log}`);
    return log.includes('"event":"started"');
  }, "the webhook");
  const started = JSON.parse(log.split("\n").find((line) => line.includes('"event":"started"')) ?? "{}") as {
    readonly webhook: string;
    readonly health: string;
  };
  return {
    child,
    address: started.webhook,
    health: started.health,
    log: () => log,
    remount: async () => {
      await tls.swap(await secretFiles(cluster));
      await injector.swap(await configFiles(cluster));
    },
    stop: async () => {
      await stop(child);
      return child.exitCode;
    },
  };
}

/** What stands at a path of an object; `undefined` where it ends before. */
export function at(object: unknown, ...path: readonly (string | number)[]): unknown {
  let here = object;
  for (const name of path) here = (here as Record<string | number, unknown> | null | undefined)?.[name];
  return here;
}

export async function secretFiles(cluster: Cluster): Promise<Record<string, string>> {
  const { data } = await cluster.get("secret", `${WEBHOOK}-tls`, "-n", SYSTEM);
  const text = (name: string): string => Buffer.from(String(at(data, name)), "base64").toString();
  return { "tls.crt": text("tls.crt"), "tls.key": text("tls.key") };
}

async function configFiles(cluster: Cluster): Promise<Record<string, string>> {
  const { data } = await cluster.get("configmap", `${RELEASE}-injector`, "-n", SYSTEM);
  return { "injector.yaml": String(at(data, "injector.yaml")) };
}

/** What a kubelet mounts of a service account: a token by the TokenRequest API, the API server's authority. */
async function accountFolder(t: Test, cluster: Cluster, name: string): Promise<Mount> {
  const token = (await cluster.must(["create", "token", name, "-n", SYSTEM])).trim();
  return mount(t, { token, "ca.crt": cluster.caPem });
}
