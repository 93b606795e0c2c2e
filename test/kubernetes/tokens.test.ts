/** Has a real API server say whose tokens are shown, with the right that the chart gives and no other. */

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { ServiceAccounts } from "../../src/control/service-accounts.ts";
import { KubernetesApi } from "../../src/control/workloads/api.ts";
import type { JsonObject } from "../../src/injector/injection.ts";
import { clusterNeeded, startCluster } from "./cluster.ts";

const AUDIENCE = "sallyport-control";

t.test("a real API server says whose token is shown, and whose is none", clusterNeeded(), async (t) => {
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
  const api = new KubernetesApi({ url: `https://127.0.0.1:${cluster.port}`, tokenFile, caFile });
  const failures: Error[] = [];
  const accounts = () =>
    new ServiceAccounts({
      audience: AUDIENCE,
      review: (review) => api.create("/apis/authentication.k8s.io/v1/tokenreviews", review),
      now: Date.now,
      onFailure: (error) => failures.push(error as Error),
    });
  const shown = async (...audience: string[]): Promise<string> => {
    const flags = audience.map((one) => `--audience=${one}`);
    return `Bearer ${(await cluster.must(["create", "token", "orders", "-n", "shop", ...flags])).trim()}`;
  };
  const good = await shown(AUDIENCE);
  const unasked = accounts();
  await unasked.prepare(good);
  t.match(unasked.find(good), { ok: false, why: /could not be asked/ });
  t.match(failures, [{ status: 403, message: /tokenreviews.*is forbidden|cannot create resource "tokenreviews"/ }]);
  t.notOk(failures[0]?.message.includes(good.slice(20, 60)));

  const rules: JsonObject[] = [
    { apiGroups: ["authentication.k8s.io"], resources: ["tokenreviews"], verbs: ["create"] },
  ];
  await cluster.apply(
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRole",
      metadata: { name: "sallyport-tokens" },
      rules,
    },
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRoleBinding",
      metadata: { name: "sallyport-tokens" },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "sallyport-tokens" },
      subjects: [{ kind: "ServiceAccount", name: "control", namespace: "sallyport" }],
    },
  );
  const asked = accounts();
  await asked.prepare(good);
  t.match(asked.find(good), { ok: true, account: { namespace: "shop", name: "orders" } });
  const found = asked.find(good);
  t.ok(found?.ok === true && found.account.untilMs > Date.now());

  const elsewhere = await shown("somebody-else");
  await asked.prepare(elsewhere);
  t.match(asked.find(elsewhere), { ok: false, why: /is not for/ }, "it is not shown to the API at all");
  const both = await shown("somebody-else", AUDIENCE);
  await asked.prepare(both);
  t.match(asked.find(both), { ok: true });
  const [head, payload] = good.split(".");
  const forged = `${head}.${payload}.${Buffer.from("no signature").toString("base64url")}`;
  await asked.prepare(forged);
  t.match(asked.find(forged), { ok: false, why: /does not accept/ });
  t.equal(failures.length, 1);
});
