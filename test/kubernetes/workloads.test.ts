import { createServer } from "node:http";
import t, { type Test } from "tap";
import { createPki } from "../../scripts/pki.ts";
import { listen } from "../../scripts/services/service.ts";
import type { JsonObject } from "../../src/injector/injection.ts";
import { readKeyPair } from "../../src/webhook/key-pair.ts";
import { WebhookListener } from "../../src/webhook/listener.ts";
import { parseReview, writeReview } from "../../src/webhook/review.ts";
import { eventually } from "../support/guarded.ts";
import { runPod } from "../support/pod.ts";
import { freePort } from "../support/ports.ts";
import { type Cluster, clusterNeeded, startCluster, until } from "./cluster.ts";
import { at, installed, runWebhook, SYSTEM, type Webhook } from "./release.ts";

/** Ports of this machine, as a Pod has no address of its own here; and time for one that does much else. */
const PORTS = { app: await freePort(), inbound: await freePort(), health: await freePort() };
const SETS = [
  "webhook.service.port=9443",
  `injector.healthPort=${PORTS.health}`,
  `injector.envoy.inboundPort=${PORTS.inbound}`,
  `injector.envoy.adminPort=${await freePort()}`,
  `injector.envoy.healthPort=${await freePort()}`,
  "injector.settings.overload-delay=10s",
];
const APP = {
  name: "app",
  image: "registry.example/orders:1",
  ports: [{ containerPort: 8080 }],
};
const template = (name: string, spec: JsonObject = {}): JsonObject => ({
  metadata: { labels: { app: name } },
  spec: { containers: [APP], ...spec },
});
const selector = (name: string): JsonObject => ({ matchLabels: { app: name } });
const meta = (name: string, namespace = "shop"): JsonObject => ({ name, namespace });
const once = { restartPolicy: "Never" };

/** One of each kind, named by it. */
const WORKLOADS: readonly JsonObject[] = [
  { apiVersion: "v1", kind: "Pod", metadata: { ...meta("pod"), labels: { app: "pod" } }, spec: { containers: [APP] } },
  {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: meta("deployment"),
    spec: { replicas: 2, selector: selector("deployment"), template: template("deployment") },
  },
  {
    apiVersion: "apps/v1",
    kind: "ReplicaSet",
    metadata: meta("replicaset"),
    spec: { replicas: 1, selector: selector("replicaset"), template: template("replicaset") },
  },
  {
    apiVersion: "v1",
    kind: "ReplicationController",
    metadata: meta("replicationcontroller"),
    spec: { replicas: 1, selector: { app: "replicationcontroller" }, template: template("replicationcontroller") },
  },
  {
    apiVersion: "apps/v1",
    kind: "StatefulSet",
    metadata: meta("statefulset"),
    spec: {
      replicas: 1,
      serviceName: "statefulset",
      selector: selector("statefulset"),
      template: template("statefulset"),
    },
  },
  {
    apiVersion: "apps/v1",
    kind: "DaemonSet",
    metadata: meta("daemonset"),
    spec: { selector: selector("daemonset"), template: template("daemonset") },
  },
  { apiVersion: "batch/v1", kind: "Job", metadata: meta("job"), spec: { template: template("job", once) } },
  {
    apiVersion: "batch/v1",
    kind: "CronJob",
    metadata: meta("cronjob"),
    spec: { schedule: "0 0 1 1 *", jobTemplate: { spec: { template: template("cronjob", once) } } },
  },
];
const KINDS = [
  { app: "pod", owner: undefined, count: 1 },
  { app: "deployment", owner: "ReplicaSet", count: 2 },
  { app: "replicaset", owner: "ReplicaSet", count: 1 },
  { app: "replicationcontroller", owner: "ReplicationController", count: 1 },
  { app: "statefulset", owner: "StatefulSet", count: 1 },
  { app: "daemonset", owner: "DaemonSet", count: 1 },
  { app: "job", owner: "Job", count: 1 },
  { app: "cronjob", owner: "Job", count: 1 },
];

/** The controllers of DaemonSets make a Pod for each node; no kubelet runs on this one. */
const NODE = {
  apiVersion: "v1",
  kind: "Node",
  metadata: { name: "nowhere", labels: { "kubernetes.io/hostname": "nowhere" } },
};

function namespace(name: string, labels: Readonly<Record<string, string>>): JsonObject {
  return { apiVersion: "v1", kind: "Namespace", metadata: { name, labels: { ...labels } } };
}

async function podsOf(cluster: Cluster, app: string, namespaceName = "shop"): Promise<readonly JsonObject[]> {
  const { items } = await cluster.get("pods", "-n", namespaceName, "-l", `app=${app}`);
  return items as readonly JsonObject[];
}

/** A Pod needs its namespace's default service account, which a controller makes. */
async function usable(cluster: Cluster, name: string): Promise<void> {
  await until(
    async () => (await cluster.kubectl(["get", "sa", "default", "-n", name])).code === 0,
    `namespace ${name}`,
  );
}

function namesOf(pod: JsonObject, list: string): readonly unknown[] {
  return ((at(pod, "spec", list) ?? []) as readonly JsonObject[]).map(({ name }) => name);
}

function isInjected(pod: JsonObject): boolean {
  return at(pod, "metadata", "annotations", "sallyport.dev/status") !== undefined;
}

t.test("in a cluster with the chart installed", clusterNeeded(), async (t) => {
  const cluster = await startCluster(t as unknown as Test);
  const first = await installed(cluster, SETS);
  t.equal(first.code, 0, first.err);
  const webhook: Webhook = await runWebhook(t as unknown as Test, cluster);
  await cluster.apply(
    namespace("shop", { "sallyport.dev/injection": "enabled" }),
    namespace("plain", {}),
    namespace("strict", {
      "sallyport.dev/injection": "enabled",
      "pod-security.kubernetes.io/enforce": "restricted",
      "pod-security.kubernetes.io/enforce-version": "latest",
    }),
    NODE,
  );
  // Put there by the API server until a kubelet reports; DaemonSets keep away from it.
  await cluster.must(["taint", "nodes", "nowhere", "node.kubernetes.io/not-ready-"]);
  for (const name of ["shop", "plain", "strict"]) await usable(cluster, name);

  t.test("the webhook has asked this API server, with its own account, which version it is", async (t) => {
    t.match(webhook.log(), /"event":"version\.heard","version":"v1\.34\.2"/);
  });

  t.test("the Pods of every kind of workload are injected", async (t) => {
    await cluster.apply(...WORKLOADS);
    await cluster.must(["create", "job", "cronjob-now", "--from=cronjob/cronjob", "-n", "shop"]);
    for (const { app, owner, count } of KINDS) {
      t.test(app, async (t) => {
        await until(async () => (await podsOf(cluster, app)).length === count, `the Pods of ${app}`);
        for (const pod of await podsOf(cluster, app)) {
          t.equal(at(pod, "metadata", "ownerReferences", 0, "kind"), owner);
          t.ok(isInjected(pod));
          t.same(namesOf(pod, "initContainers"), ["sallyport", "sallyport-envoy"]);
          t.equal(at(pod, "spec", "initContainers", 0, "restartPolicy"), "Always", "a native sidecar");
          t.same(namesOf(pod, "containers"), ["app"]);
        }
      });
    }
  });

  t.test("nothing is injected where it was not asked for", async (t) => {
    const bare = (name: string, namespaceName: string, labels: JsonObject = {}): JsonObject => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { ...meta(name, namespaceName), labels },
      spec: { containers: [APP] },
    });
    await cluster.apply(bare("unlabelled", "plain"), bare("opted-out", "shop", { "sallyport.dev/inject": "false" }));
    t.notOk(isInjected(await cluster.get("pod", "unlabelled", "-n", "plain")));
    t.notOk(isInjected(await cluster.get("pod", "opted-out", "-n", "shop")));
    await until(
      async () => ((await cluster.get("pods", "-n", SYSTEM)).items as readonly unknown[]).length > 0,
      "the webhook's own Pods",
    );
    await cluster.must(["label", "namespace", SYSTEM, "sallyport.dev/injection=enabled"]);
    await cluster.apply(bare("own", SYSTEM));
    t.notOk(isInjected(await cluster.get("pod", "own", "-n", SYSTEM)), "its own namespace, whatever its label");
  });

  t.test("a Pod on the host's network is refused, and its maker is told why", async (t) => {
    const spec = { containers: [APP], hostNetwork: true };
    const { code, err } = await cluster.kubectl(
      ["create", "-f", "-"],
      JSON.stringify({ apiVersion: "v1", kind: "Pod", metadata: meta("host"), spec }),
    );
    t.not(code, 0);
    t.match(err, /\(Forbidden\)|denied the request: hostNetwork/);
    t.match(err, /admission webhook "inject\.sallyport\.dev" denied the request: hostNetwork/);
    await cluster.apply({
      apiVersion: "apps/v1",
      kind: "DaemonSet",
      metadata: meta("host"),
      spec: { selector: selector("host"), template: template("host", { hostNetwork: true }) },
    });
    const told = async (): Promise<boolean> => {
      const { items } = await cluster.get("events", "-n", "shop", "--field-selector", "reason=FailedCreate");
      return JSON.stringify(items).includes("denied the request: hostNetwork");
    };
    await until(told, "an event of the DaemonSet");
    t.same(await podsOf(cluster, "host"), []);
  });

  t.test("a dry run shows what would be injected and leaves nothing behind", async (t) => {
    const pod = { apiVersion: "v1", kind: "Pod", metadata: meta("dry"), spec: { containers: [APP] } };
    const out = await cluster.must(["create", "--dry-run=server", "-o", "json", "-f", "-"], JSON.stringify(pod));
    t.ok(isInjected(JSON.parse(out) as JsonObject));
    const { code, err } = await cluster.kubectl(["get", "pod", "dry", "-n", "shop"]);
    t.not(code, 0);
    t.match(err, /not found/);
  });

  t.test("a Pod that was injected before is taken as it is", async (t) => {
    const before = await cluster.get("pod", "pod", "-n", "shop");
    const annotations = at(before, "metadata", "annotations") as JsonObject;
    const { nodeName, ...spec } = before.spec as JsonObject & { readonly nodeName?: string };
    const again: JsonObject = { apiVersion: "v1", kind: "Pod", metadata: { ...meta("again"), annotations }, spec };
    await cluster.apply(again);
    const after = await cluster.get("pod", "again", "-n", "shop");
    t.same(namesOf(after, "initContainers"), namesOf(before, "initContainers"));
    t.same(namesOf(after, "volumes").length, namesOf(before, "volumes").length);
    t.equal(nodeName, undefined);
  });

  t.test("where the Restricted profile is enforced, injected Pods are admitted", async (t) => {
    const security = {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ["ALL"] },
      runAsNonRoot: true,
      seccompProfile: { type: "RuntimeDefault" },
    };
    const pod = (name: string, container: JsonObject): JsonObject => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: meta(name, "strict"),
      spec: { containers: [container] },
    });
    const { err } = await cluster.apply(pod("good", { ...APP, securityContext: security }));
    t.notMatch(err, /would violate PodSecurity/);
    const good = await cluster.get("pod", "good", "-n", "strict");
    t.same(namesOf(good, "initContainers"), ["sallyport", "sallyport-envoy"]);
    const bad = await cluster.kubectl(["create", "-f", "-"], JSON.stringify(pod("bad", APP)));
    t.match(bad.err, /violates PodSecurity "restricted/, "the profile is enforced");
    t.match(bad.err, /container "app"/);
    t.notMatch(bad.err, /sallyport"/, "and nothing of it is ours");
  });

  t.test(
    "another webhook that changes the Pod afterwards has ours asked again, and nothing is injected twice",
    async (t) => {
      const pki = await createPki("another");
      const { certPem, keyPem } = await pki.issue({ ips: ["127.0.0.1"] });
      let asked = 0;
      const another = new WebhookListener({
        address: "127.0.0.1:0",
        pair: readKeyPair(Buffer.from(certPem), Buffer.from(keyPem), { cert: "cert", key: "key" }),
        review: (body) => {
          asked++;
          const parsed = parseReview(body);
          if (!parsed.ok) return { status: 400, body: parsed.why };
          const value = { name: "late", image: "registry.example/late:1" };
          const patch = JSON.stringify([{ op: "add", path: "/spec/containers/-", value }]);
          const { uid } = parsed.request;
          return { status: 200, body: writeReview({ uid, allowed: true, patch, warnings: [], auditAnnotations: {} }) };
        },
        onTurned: () => {},
        onHandshakeFailure: () => {},
      });
      await another.listen();
      t.teardown(() => another.close(0));
      const caBundle = Buffer.from(pki.caPem).toString("base64");
      await cluster.apply({
        apiVersion: "admissionregistration.k8s.io/v1",
        kind: "MutatingWebhookConfiguration",
        metadata: { name: "zz-after-ours" },
        webhooks: [
          {
            name: "late.example.com",
            admissionReviewVersions: ["v1"],
            sideEffects: "None",
            clientConfig: { url: `https://${another.boundAddress}/inject`, caBundle },
            rules: [{ apiGroups: [""], apiVersions: ["v1"], resources: ["pods"], operations: ["CREATE"] }],
            objectSelector: { matchLabels: { late: "yes" } },
          },
        ],
      });
      const reviews = (): number => webhook.log().split('"pod":"late-').length - 1;
      let pods = 0;
      let last = "";
      await until(async () => {
        last = `late-${++pods}`;
        const metadata = { ...meta(last), labels: { late: "yes" } };
        await cluster.apply({ apiVersion: "v1", kind: "Pod", metadata, spec: { containers: [APP] } });
        return asked > 0;
      }, "the other webhook to be known");
      const pod = await cluster.get("pod", last, "-n", "shop");
      t.same(namesOf(pod, "containers"), ["app", "late"]);
      t.same(namesOf(pod, "initContainers"), ["sallyport", "sallyport-envoy"]);
      t.ok(reviews() >= 1);
    },
  );

  t.test("what was injected into a Deployment's Pod lets a request through, run by its exact commands", async (t) => {
    const app = { ...APP, ports: [{ containerPort: PORTS.app }] };
    const spec = { replicas: 1, selector: selector("run"), template: template("run", { containers: [app] }) };
    await cluster.apply({ apiVersion: "apps/v1", kind: "Deployment", metadata: meta("run"), spec });
    await until(async () => (await podsOf(cluster, "run")).length === 1, "the Pod");
    const [pod] = await podsOf(cluster, "run");
    const running = await runPod({
      pod: pod!,
      app: async () => {
        const server = createServer((_, response) => response.end("orders"));
        await listen(server, PORTS.app);
        return {
          end: async () => {
            server.close();
            server.closeAllConnections();
          },
        };
      },
    });
    t.teardown(() => running.remove());
    t.same(running.started, ["sallyport", "sallyport-envoy", "app"]);
    const answer = await fetch(`http://127.0.0.1:${PORTS.inbound}/orders/17`);
    t.equal(answer.status, 200);
    t.equal(await answer.text(), "orders");
    const entry = await eventually(async () =>
      running.lines("sallyport-envoy").find(({ path }) => path === "/orders/17"),
    );
    t.match(entry, { code: 200, decision: "allow" });
    await running.end();
    t.same(running.ended, ["app", "sallyport-envoy", "sallyport"]);
  });

  t.test("the audit log says what became of each Pod", async (t) => {
    const entries = await cluster.audit();
    const said = new Set(entries.map(({ annotations }) => at(annotations, "inject.sallyport.dev/injection")));
    t.same([...said].filter((one) => one !== undefined).sort(), ["injected", "refused", "unchanged"]);
  });
});
