/** What pods may choose for themselves in a cluster whose platform team leaves them little. */

import { readFile } from "node:fs/promises";
import t from "tap";
import type { JsonObject } from "../../src/injector/injection.ts";
import { clusterNeeded, startCluster, until } from "./cluster.ts";
import { installed, runWebhook } from "./release.ts";

/** As anybody could write it. */
const NOTE = (containers: readonly string[]): string =>
  JSON.stringify({
    version: 1,
    config: "0",
    ...{ initContainers: containers, containers: [], volumes: [], imagePullSecrets: [], annotations: [], made: [] },
    annotationsWere: {},
  });

const APP = { name: "app", image: "registry.example/orders:1", ports: [{ containerPort: 8080 }] };

const podOf = (name: string, metadata: JsonObject = {}, spec: JsonObject = {}): JsonObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, namespace: "shop", ...metadata },
  spec: { containers: [APP], ...spec },
});

/** The policy that docs/injector.md shows. */
async function documentedPolicy(): Promise<string> {
  const page = await readFile(new URL("../../docs/injector.md", import.meta.url), "utf8");
  const policy = /```yaml\n(apiVersion: admissionregistration\.k8s\.io\/v1\n[\s\S]+?)```/.exec(page)?.[1];
  if (policy === undefined) throw new Error("docs/injector.md has no ValidatingAdmissionPolicy any more");
  return policy;
}

t.test(
  "pods choose what is left to them, and nothing passes for a sidecar that is none",
  clusterNeeded(),
  async (t) => {
    const cluster = await startCluster(t);
    const release = await installed(cluster, ["injector.overrides={app-port}"]);
    t.equal(release.code, 0, release.err);
    await cluster.apply({
      apiVersion: "v1",
      kind: "Namespace",
      metadata: { name: "shop", labels: { "sallyport.dev/injection": "enabled" } },
    });
    await cluster.apply({ apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "default", namespace: "shop" } });
    await runWebhook(t, cluster);
    const create = async (pod: JsonObject) => await cluster.kubectl(["apply", "-f", "-"], JSON.stringify(pod));
    const imposter = podOf(
      "imposter",
      { annotations: { "sallyport.dev/status": NOTE(["sallyport"]) } },
      { initContainers: [{ name: "sallyport", image: "registry.example/nothing:1", restartPolicy: "Always" }] },
    );

    t.match(await create(podOf("plain", { annotations: { "sallyport.dev/app-port": "8080" } })), { code: 0 });
    for (const { pod, says } of [
      {
        pod: podOf("observed", { annotations: { "sallyport.dev/mode": "observe" } }),
        says: "annotation sallyport.dev/mode: the injector's configuration does not leave that to pods (overrides)",
      },
      {
        pod: podOf("out", { labels: { "sallyport.dev/inject": "false" } }),
        says: 'its label sallyport.dev/inject is "false", which the injector\'s configuration does not leave to pods',
      },
      {
        pod: podOf("noted", { annotations: { "sallyport.dev/status": NOTE([]) } }),
        says: "annotation sallyport.dev/status: expected what the injector wrote, got something else",
      },
      {
        pod: podOf("passed", { annotations: { "sallyport.dev/status": NOTE(["app"]) } }),
        says: "annotation sallyport.dev/status: expected what the injector wrote, got something else",
      },
    ]) {
      const { code, err } = await create(pod);
      t.not(code, 0);
      t.ok(err.includes(says), err);
    }

    // What the webhook cannot tell from its own work, the API server can be told to.
    await cluster.must(["apply", "-f", "-"], await documentedPolicy());
    const refusal = "pods of this namespace run beside Sallyport, and by its own image";
    await until(async () => {
      const { err } = await cluster.kubectl(["apply", "--dry-run=server", "-f", "-"], JSON.stringify(imposter));
      return err.includes(refusal);
    }, "the policy");
    t.match(await create(imposter), { err: refusal });
    t.match(await create(podOf("after")), { code: 0 }, "what is injected passes");
  },
);
