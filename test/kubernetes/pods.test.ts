/** Follows pods of a real API server, with the rights that the documentation asks for and no others. */

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import t from "tap";
import { readWorkloads } from "../../src/bundle/sync/workload-wire.ts";
import { type ApiError, KubernetesApi } from "../../src/control/workloads/api.ts";
import { PodWatch } from "../../src/control/workloads/watch.ts";
import type { JsonObject } from "../../src/injector/injection.ts";
import { clusterNeeded, startCluster, until } from "./cluster.ts";

const DIGEST = `sha256:${"e".repeat(64)}`;

const podOf = (name: string, more: JsonObject = {}): JsonObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, namespace: "shop", labels: { "app.kubernetes.io/name": "orders", secret: "x" } },
  spec: { serviceAccountName: "orders", nodeName: "node-1", containers: [{ name: "main", image: "x" }], ...more },
});

const statusOf = (ip: string, phase = "Running"): string =>
  JSON.stringify({
    status: {
      phase,
      podIP: ip,
      podIPs: [{ ip }],
      hostIP: "192.168.7.1",
      hostIPs: [{ ip: "192.168.7.1" }],
      startTime: "2026-03-02T11:00:00Z",
      containerStatuses: [{ name: "main", image: "x", imageID: `x@${DIGEST}`, ready: true, restartCount: 0 }],
    },
  });

t.test(
  "pods of a real API server are listed, followed and forgotten, with list and watch alone",
  clusterNeeded(),
  async (t) => {
    const cluster = await startCluster(t);
    await cluster.apply(
      { apiVersion: "v1", kind: "Namespace", metadata: { name: "shop" } },
      { apiVersion: "v1", kind: "Namespace", metadata: { name: "sallyport" } },
    );
    await cluster.apply(
      { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "orders", namespace: "shop" } },
      { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "control", namespace: "sallyport" } },
    );
    const tokenFile = join(cluster.folder, "control.token");
    const caFile = join(cluster.folder, "ca.crt");
    await writeFile(tokenFile, await cluster.must(["create", "token", "control", "-n", "sallyport"]), { mode: 0o600 });
    const give = async (name: string, ip: string, phase?: string): Promise<void> => {
      await cluster.must([
        "patch",
        "pod",
        name,
        "-n",
        "shop",
        "--subresource=status",
        "--type=merge",
        "-p",
        statusOf(ip, phase),
      ]);
    };
    await cluster.apply(podOf("one"), podOf("host", { hostNetwork: true }));
    await give("one", "10.0.0.1");
    await give("host", "192.168.7.1");

    const failures: ApiError[] = [];
    const watch = new PodWatch({
      settings: {
        api: `https://127.0.0.1:${cluster.port}`,
        namespaces: [],
        labelSelector: undefined,
        fieldSelector: undefined,
        tokenFile,
        caFile,
        tokenAudience: undefined,
        naming: {
          principal: "spiffe://{trustDomain}/ns/{namespace}/sa/{serviceAccount}",
          trustDomain: "td",
          issuer: undefined,
          labels: ["app.kubernetes.io/name"],
        },
        podsMax: 100,
      },
      epoch: "0123456789abcdef",
      clock: {
        monotonicMs: () => performance.now(),
        random: () => 0,
        sleep: (_, signal) =>
          new Promise((resolve) => {
            setTimeout(resolve, 50);
            signal.addEventListener("abort", () => resolve(), { once: true });
          }),
      },
      onChange: () => {},
      onFailure: (error) => failures.push(error),
      onWell: () => {},
      onList: () => {},
      onLeftOut: () => {},
    });
    t.teardown(() => watch.close());
    watch.start();
    await until(async () => failures.length > 0, "a refusal");
    t.match(failures[0], { status: 403, message: /cannot list resource "pods"/ });
    const role: JsonObject = {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRole",
      metadata: { name: "sallyport-control" },
      rules: [{ apiGroups: [""], resources: ["pods"], verbs: ["list", "watch"] }],
    };
    const binding: JsonObject = {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRoleBinding",
      metadata: { name: "sallyport-control" },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "sallyport-control" },
      subjects: [{ kind: "ServiceAccount", name: "control", namespace: "sallyport" }],
    };
    await cluster.apply(role, binding);
    await until(async () => watch.loaded, "everything to be seen");

    const told = () => {
      watch.feed.flush();
      const pods = new Map<string, { readonly text: string; readonly facts: Readonly<Record<string, string>> }>();
      for (const bytes of watch.feed.since(undefined)) {
        const { kinds, put, removed } = readWorkloads(gunzipSync(bytes), (one) => one);
        for (const uid of removed) pods.delete(uid);
        for (const { uid, kind, addresses, facts, shared } of put) {
          const text = `${facts.pod} ${addresses.join()}${shared ? " shared" : ""} ${kinds[kind]!.principals.join()}`;
          pods.set(uid, { text, facts: { ...kinds[kind]!.facts, ...facts } });
        }
      }
      return [...pods.values()].sort((a, b) => (a.text < b.text ? -1 : 1));
    };
    const texts = (): string =>
      told()
        .map(({ text }) => text)
        .join("; ");
    t.equal(
      texts(),
      "host 192.168.7.1 shared spiffe://td/ns/shop/sa/orders; one 10.0.0.1 spiffe://td/ns/shop/sa/orders",
    );
    t.same(told()[1]?.facts, {
      image_digest: DIGEST,
      "image_digest.main": DIGEST,
      "label.app.kubernetes.io/name": "orders",
      namespace: "shop",
      node: "node-1",
      phase: "Running",
      pod: "one",
      service_account: "orders",
      started_at: "2026-03-02T11:00:00Z",
    });

    await cluster.apply(podOf("two"));
    await give("two", "10.0.0.2");
    await until(async () => texts().includes("two 10.0.0.2 "), "another pod");
    // No kubelet ends it: it keeps its address, and will lose it.
    await cluster.must(["delete", "pod", "two", "-n", "shop", "--wait=false"]);
    await until(async () => texts().includes("two 10.0.0.2 shared"), "the pod to end");
    await cluster.must(["delete", "pod", "two", "-n", "shop", "--force", "--grace-period=0"]);
    await until(async () => !texts().includes("two"), "the pod to be gone");
    await give("one", "10.0.0.1", "Succeeded");
    await until(async () => !texts().includes("one"), "an ended pod to be none");
    t.match(watch.health, { broken: false });
    t.equal(watch.detail, "watching");

    const api = new KubernetesApi({ url: `https://127.0.0.1:${cluster.port}`, tokenFile, caFile });
    const page = (await api.get("/api/v1/pods", { limit: "1" }, AbortSignal.timeout(20_000))) as JsonObject;
    t.match(page, { metadata: { resourceVersion: /^\d+$/ }, items: [{}] });
  },
);
