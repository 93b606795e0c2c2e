/** As much of a Kubernetes API as Helm's `lookup` asks for: which kinds there are, and Secrets by name. */

import { once } from "node:events";
import { mkdtempSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import { KUBERNETES_VERSION } from "../../scripts/find-helm.ts";
import type { Rendered } from "./helm.ts";

export interface Cluster {
  readonly kubeconfig: string;
  /** By `namespace/name`. */
  readonly secrets: Map<string, Rendered>;
  close(): Promise<void>;
}

const [, MINOR] = KUBERNETES_VERSION.split(".");

/** Kinds that exist here; only Secrets can be had. */
const RESOURCES: Readonly<Record<string, readonly (readonly [kind: string, name: string, namespaced: boolean])[]>> = {
  "/api/v1": [
    ["ConfigMap", "configmaps", true],
    ["Namespace", "namespaces", false],
    ["PersistentVolumeClaim", "persistentvolumeclaims", true],
    ["Pod", "pods", true],
    ["Secret", "secrets", true],
    ["Service", "services", true],
    ["ServiceAccount", "serviceaccounts", true],
  ],
  "/apis/admissionregistration.k8s.io/v1": [["MutatingWebhookConfiguration", "mutatingwebhookconfigurations", false]],
  "/apis/apps/v1": [["Deployment", "deployments", true]],
  "/apis/networking.k8s.io/v1": [["NetworkPolicy", "networkpolicies", true]],
  "/apis/policy/v1": [["PodDisruptionBudget", "poddisruptionbudgets", true]],
  "/apis/rbac.authorization.k8s.io/v1": [
    ["ClusterRole", "clusterroles", false],
    ["ClusterRoleBinding", "clusterrolebindings", false],
  ],
};

function answer(path: string, secrets: ReadonlyMap<string, Rendered>): object | undefined {
  if (path === "/version") return { major: "1", minor: MINOR, gitVersion: KUBERNETES_VERSION };
  if (path === "/api") return { kind: "APIVersions", versions: ["v1"] };
  if (path === "/apis") {
    const groups = Object.keys(RESOURCES).flatMap((place) => {
      const [, name, version] = /^\/apis\/([^/]+)\/(.+)$/.exec(place) ?? [];
      const said = { groupVersion: `${name}/${version}`, version };
      return name === undefined ? [] : [{ name, versions: [said], preferredVersion: said }];
    });
    return { kind: "APIGroupList", apiVersion: "v1", groups };
  }
  const resources = RESOURCES[path];
  if (resources !== undefined) {
    return {
      kind: "APIResourceList",
      groupVersion: path.replace(/^\/apis?\//, ""),
      resources: resources.map(([kind, name, namespaced]) => ({
        kind,
        name,
        namespaced,
        singularName: "",
        verbs: ["get"],
      })),
    };
  }
  const [, namespace, name] = /^\/api\/v1\/namespaces\/([^/]+)\/secrets\/([^/]+)$/.exec(path) ?? [];
  return secrets.get(`${namespace}/${name}`);
}

export async function startCluster(): Promise<Cluster> {
  const secrets = new Map<string, Rendered>();
  const server = createServer((request, response) => {
    const found = answer((request.url ?? "").split("?")[0] as string, secrets);
    const missing = { kind: "Status", apiVersion: "v1", status: "Failure", reason: "NotFound", code: 404 };
    response.writeHead(found === undefined ? 404 : 200, { "content-type": "application/json" });
    response.end(JSON.stringify(found ?? missing));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const kubeconfig = join(mkdtempSync(join(tmpdir(), "sallyport-cluster-")), "kubeconfig");
  writeFileSync(
    kubeconfig,
    stringify({
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name: "test", cluster: { server: `http://127.0.0.1:${port}` } }],
      users: [{ name: "test", user: {} }],
      contexts: [{ name: "test", context: { cluster: "test", user: "test" } }],
      "current-context": "test",
    }),
  );
  return {
    kubeconfig,
    secrets,
    close: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
