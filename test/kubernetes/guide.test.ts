/** Follows docs/kubernetes.md command by command, from an empty cluster to enforcement and out again; and the stand-alone example. */

import { execFile, spawn } from "node:child_process";
import { chmod, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t, { type Test } from "tap";
import { findKubeTools } from "../../scripts/find-kube-tools.ts";
import type { JsonObject } from "../../src/injector/injection.ts";
import { type Cluster, clusterNeeded, type Ran, startCluster, stop, until } from "./cluster.ts";
import { at, runWebhook, SYSTEM, type Webhook } from "./release.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const PAGE = join(ROOT, "docs/kubernetes.md");
/** What only a kubelet, or a container that it runs, can answer; and who waits for sidecars that nobody runs. */
const NEEDS_NODES = /rollout status|port-forward|\/proxy\/| (?:logs|exec|test) |fleet status/;
const STANDALONE = join(ROOT, "k8s/examples/standalone/README.md");
const COMMAND_MS_MAX = 60_000;
/** Below 1024 a process needs rights that a test may lack. */
const HIGH_PORT = "--set webhook.service.port=9443";

/** A shell block's commands, or a file of its own name, in the order of the page. */
type Step = { readonly kind: "run"; readonly line: string } | { readonly kind: "file"; name: string; text: string };

function stepsOf(page: string): readonly Step[] {
  return [...page.matchAll(/^```(sh|yaml)\n([\s\S]*?)^```$/gm)].flatMap(([, language, text = ""]): Step[] => {
    if (language === "sh") {
      const lines = text
        .replace(/\\\n\s*/g, " ")
        .split("\n")
        .map((line) => line.replace(/\s+# .*$/, ""));
      return lines.filter((line) => line !== "").map((line) => ({ kind: "run", line }));
    }
    const [, name] = /^# (\S+\.yaml)/.exec(text) ?? [];
    return name === undefined ? [] : [{ kind: "file", name, text }];
  });
}

/** The folder that the page's commands run in: a checkout's charts, and the programs on PATH. */
async function workplace(t: Test, cluster: Cluster) {
  const folder = await mkdtemp(join(tmpdir(), "sallyport-guide-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const programs = join(folder, "bin");
  const { kubectl, helm } = await findKubeTools({ install: false });
  await mkdir(programs);
  await symlink(join(ROOT, "k8s"), join(folder, "k8s"));
  await symlink(kubectl, join(programs, "kubectl"));
  await symlink(helm, join(programs, "helm"));
  const sallyport = join(programs, "sallyport");
  await writeFile(sallyport, `#!/bin/sh\nexec "${process.execPath}" "${join(ROOT, "dist/main.js")}" "$@"\n`);
  await chmod(sallyport, 0o755);
  const environment = {
    PATH: `${programs}:${process.env.PATH}`,
    HOME: folder,
    KUBECONFIG: join(cluster.folder, "admin.kubeconfig"),
  };
  const run = (line: string): Promise<Ran> =>
    new Promise((resolve) => {
      execFile(
        "bash",
        ["--norc", "-euo", "pipefail", "-c", line],
        { cwd: folder, env: environment, timeout: COMMAND_MS_MAX },
        (error, out, err) => resolve({ code: error === null ? 0 : Number(error.code ?? 1), out, err }),
      );
    });
  return { folder, run };
}

/** Runs the control plane's Pod as a process, by its own file. Resolves with its port. */
async function runControl(t: Test, cluster: Cluster, folder: string): Promise<string> {
  const files = join(folder, "control");
  const mounted = async (kind: string, name: string): Promise<void> => {
    const { data } = await cluster.get(kind, name, "-n", SYSTEM);
    for (const [key, value] of Object.entries(data as Record<string, string>)) {
      await writeFile(join(files, key), kind === "secret" ? Buffer.from(value, "base64") : value, { mode: 0o600 });
    }
  };
  await mkdir(files);
  await mounted("secret", "sallyport-control-tls");
  await mounted("secret", "sallyport-tokens");
  await mounted("configmap", "sallyport-bundle-keys");
  await mounted("configmap", "sallyport-control");
  await writeFile(join(files, "token"), await cluster.must(["create", "token", "sallyport-control", "-n", SYSTEM]));
  const text = await readFile(join(files, "control.yaml"), "utf8");
  await writeFile(
    join(files, "control.yaml"),
    text
      .replace(/\/etc\/sallyport\/[a-z-]+\//g, `${files}/`)
      .replace("/var/lib/sallyport-control", join(folder, "channels")),
  );
  const child = spawn(
    process.execPath,
    [
      ...[join(ROOT, "dist/main.js"), "control", `--config=${join(files, "control.yaml")}`, "--address=127.0.0.1:0"],
      ...["--health-address=127.0.0.1:0", `--kubernetes-api=https://127.0.0.1:${cluster.port}`],
      ...[`--kubernetes-token-file=${join(files, "token")}`, `--kubernetes-ca-file=${join(cluster.folder, "ca.crt")}`],
    ],
    { stdio: ["ignore", "ignore", "pipe"], env: {} },
  );
  let log = "";
  child.stderr.setEncoding("utf8");
  child.stderr.on("data", (piece: string) => {
    log += piece;
  });
  t.teardown(() => stop(child));
  process.once("exit", () => child.kill("SIGKILL"));
  const started = (): string | undefined => /"control":"127\.0\.0\.1:(\d+)"/.exec(log)?.[1];
  await until(async () => {
    if (child.exitCode !== null) throw new Error(`the control plane ended: ${log}`);
    return started() !== undefined;
  }, "the control plane");
  return started() as string;
}

const APP: readonly JsonObject[] = [
  {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "orders", namespace: "shop" },
    spec: {
      selector: { matchLabels: { app: "orders" } },
      template: {
        metadata: { labels: { app: "orders" } },
        spec: {
          containers: [{ name: "orders", image: "registry.example/orders:1", ports: [{ containerPort: 8080 }] }],
        },
      },
    },
  },
  {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "orders", namespace: "shop" },
    spec: { selector: { app: "orders" }, ports: [{ port: 80, targetPort: 8080 }] },
  },
];

t.test("the commands of the page on Kubernetes work as they stand there", clusterNeeded(), async (parent) => {
  const t = parent as unknown as Test;
  const cluster = await startCluster(t);
  const { folder, run } = await workplace(t, cluster);
  const page = await readFile(PAGE, "utf8");
  await cluster.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: "shop" } });
  await until(async () => (await cluster.kubectl(["get", "sa", "default", "-n", "shop"])).code === 0, "the namespace");
  await cluster.apply(...APP);

  let webhook: Webhook | undefined;
  let control: string | undefined;
  /** The configuration that the webhook has read last. */
  let seen = "";
  /** Waits until the pods of the last roll-out are so. */
  const rolled = (what: string, isSo: (pod: string) => boolean): Promise<void> =>
    until(async () => {
      const revision = (object: JsonObject): unknown =>
        at(object, "metadata", "annotations", "deployment.kubernetes.io/revision");
      const wanted = revision(await cluster.get("deployment", "orders", "-n", "shop"));
      const sets = (await cluster.get("replicasets", "-n", "shop")).items as readonly JsonObject[];
      const name = at(
        sets.find((set) => revision(set) === wanted),
        "metadata",
        "name",
      );
      const pods = (await cluster.get("pods", "-n", "shop")).items as readonly JsonObject[];
      const last = pods.filter((pod) => at(pod, "metadata", "ownerReferences", 0, "name") === name);
      return last.length > 0 && last.every((pod) => isSo(JSON.stringify(pod)));
    }, what);
  /** What has to be true after commands, by how they begin; each counts at its first time. */
  const CHECKS: { readonly after: RegExp; readonly check: (ran: Ran) => Promise<void> }[] = [
    {
      after: /^kubectl .*sallyport inject/,
      check: async ({ err }) => {
        t.match(err, "Deployment shop/orders: injected");
        t.match(await readFile(join(folder, "injected.yaml"), "utf8"), "--mode=observe", "as the webhook would");
      },
    },
    {
      after: /rollout restart deployment/,
      check: () => rolled("the sidecars", (pod) => pod.includes('"--mode=observe"')),
    },
    {
      after: /patch service orders/,
      check: async () => {
        t.equal(at(await cluster.get("service", "orders", "-n", "shop"), "spec", "ports", 0, "targetPort"), 15_006);
      },
    },
    {
      after: /rollout restart deployment/,
      check: () => rolled("the policy", (pod) => pod.includes('"--policy=/etc/sallyport/policy/policy.yaml"')),
    },
    {
      after: /^sallyport fleet publish/,
      check: async ({ out }) => {
        t.match(out, "published shop:1 to channel default");
      },
    },
    {
      after: /rollout restart deployment/,
      check: () => rolled("the bundles", (pod) => pod.includes('"--control=https:')),
    },
    {
      after: /rollout restart deployment/,
      check: () => rolled("enforcement", (pod) => pod.includes('"--mode=policy"')),
    },
  ];

  const follow = async (line: string): Promise<void> => {
    const changed = line
      .replaceAll("https://localhost:9292", `https://localhost:${control}`)
      .replace(/^helm install .*/, `$& ${HIGH_PORT}`)
      .replace(/^kubectl delete namespace .*/, "$& --wait=false"); // volumes go with a controller that is not there
    const ran = await run(changed);
    t.equal(ran.code, 0, ran.code === 0 ? line : `${line}: ${ran.err}`);
    const found = CHECKS.findIndex(({ after }) => after.test(line));
    if (/^helm install/.test(line)) webhook = await runWebhook(t, cluster);
    if (/^helm (?:upgrade|rollback)/.test(line)) {
      const read = (): number => webhook?.log().split('"event":"config.read"').length ?? 0;
      const { data } = await cluster.get("configmap", "sallyport-injector", "-n", SYSTEM);
      const before = read();
      const isNew = JSON.stringify(data) !== seen;
      seen = JSON.stringify(data);
      await webhook?.remount();
      if (isNew) await until(async () => read() > before, "the webhook to read it");
    }
    if (/-f control\.yaml/.test(line)) control = await runControl(t, cluster, folder);
    if (/^sallyport fleet token/.test(line)) {
      const [entry = ""] = /- \{ name.*\}/.exec(ran.err) ?? [];
      await writeFile(join(folder, "tokens.yaml"), `tokens:\n  ${entry}\n`);
    }
    if (found >= 0) await CHECKS.splice(found, 1)[0]?.check(ran);
  };
  const [forth = "", back = ""] = page.split(/^(?=## Roll back$)/m);
  const followed = async (steps: readonly Step[]): Promise<void> => {
    for (const step of steps) {
      if (step.kind === "file") await writeFile(join(folder, step.name), step.text);
      else if (!NEEDS_NODES.test(step.line)) await follow(step.line);
    }
  };
  await followed(stepsOf(forth));
  t.same(CHECKS, [], "every check had its command");

  const cells = [...back.matchAll(/`(kubectl -n shop patch deployment [^`]+)`/g)].map(([, line = ""]) => line);
  t.equal(cells.length, 2);
  await follow(cells[0] ?? "");
  await rolled("one workload that only observes", (pod) => pod.includes('"--mode=observe"'));
  await follow(cells[1] ?? "");
  await rolled("one workload that is left out", (pod) => !pod.includes('"name":"sallyport"'));
  await follow("helm rollback sallyport -n sallyport-system");
  await followed(stepsOf(back));
  const left = "mutatingwebhookconfigurations,clusterroles,clusterrolebindings";
  t.match((await cluster.kubectl(["get", left, "-l", "app.kubernetes.io/instance=sallyport"])).err, /No resources/);
});

/** cert-manager's kind, as far as the API server has to know it. */
const CERTIFICATES: JsonObject = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "certificates.cert-manager.io" },
  spec: {
    group: "cert-manager.io",
    scope: "Namespaced",
    names: { kind: "Certificate", plural: "certificates" },
    versions: [
      {
        name: "v1",
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
      },
    ],
  },
};

t.test("the commands of the stand-alone example work as they stand there", clusterNeeded(), async (parent) => {
  const t = parent as unknown as Test;
  const cluster = await startCluster(t);
  const { folder, run } = await workplace(t, cluster);
  await cluster.apply(CERTIFICATES);
  await until(async () => (await cluster.kubectl(["get", "certificates.cert-manager.io"])).code === 0, "the kind");
  for (const step of stepsOf(await readFile(STANDALONE, "utf8"))) {
    if (step.kind === "file" || NEEDS_NODES.test(step.line)) continue;
    const { code, out, err } = await run(step.line.replace(/^helm install .*/, `$& ${HIGH_PORT}`));
    t.equal(code, 0, code === 0 ? step.line : `${step.line}: ${err}`);
    if (/^helm install/.test(step.line)) await runWebhook(t, cluster);
    if (/^sallyport inject/.test(step.line))
      t.match(out, "secretName: sallyport-server", "with TLS, as the values say");
  }
  t.match(
    await readFile(join(folder, "injector.yaml"), "utf8"),
    /^apiVersion: sallyport\.dev\/v1\nkind: InjectorConfig\n/,
  );
  const pods = async (): Promise<readonly JsonObject[]> =>
    (await cluster.get("pods", "-n", "shop")).items as readonly JsonObject[];
  await until(async () => (await pods()).length === 2, "the pods");
  for (const pod of await pods()) {
    t.match(JSON.stringify(pod), '"ports":[{"containerPort":15006,"name":"http"', "where the Service's name leads");
    t.match(JSON.stringify(pod), '"secretName":"sallyport-server"');
    t.match(JSON.stringify(pod), '"--mode=observe"');
  }
});
