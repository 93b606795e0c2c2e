import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import t, { type Test } from "tap";
import { createPki } from "../../scripts/pki.ts";
import type { JsonObject } from "../../src/injector/injection.ts";
import { readKeyPair } from "../../src/webhook/key-pair.ts";
import { type Reply, WebhookListener } from "../../src/webhook/listener.ts";
import { parseReview, writeReview, writeStatus } from "../../src/webhook/review.ts";
import { type Cluster, clusterNeeded, type Ran, startCluster, until } from "./cluster.ts";
import { startProxy } from "./proxy.ts";
import { at, installed, RELEASE, runWebhook, SYSTEM, secretFiles, serviceAddress, type Webhook } from "./release.ts";

const SETS = ["webhook.service.port=9443"];
/** Pods of the rolling restart, should it not come to an end. */
const CREATED_MAX = 20_000;
const NAMES = { cert: "tls.crt", key: "tls.key" };

/** Asks the API server to take a Pod of this name. */
async function create(cluster: Cluster, name: string): Promise<Ran> {
  const containers = [{ name: "app", image: "registry.example/orders:1", ports: [{ containerPort: 8080 }] }];
  const pod = { apiVersion: "v1", kind: "Pod", metadata: { name, namespace: "shop" }, spec: { containers } };
  return cluster.kubectl(["create", "-f", "-"], JSON.stringify(pod));
}

let names = 0;
const fresh = (name: string): string => `${name}-${++names}`;

/** The Pod as it was stored. */
const stored = (cluster: Cluster, name: string): Promise<JsonObject> => cluster.get("pod", name, "-n", "shop");

function isInjected(pod: JsonObject): boolean {
  return at(pod, "metadata", "annotations", "sallyport.dev/status") !== undefined;
}

async function upgraded(t: Test, cluster: Cluster, sets: readonly string[]): Promise<void> {
  const { code, err } = await installed(cluster, [...SETS, ...sets]);
  t.equal(code, 0, err);
}

/** API servers hear of changed webhooks by a watch: the first Pod may be a moment ahead of it. */
async function settled(what: string, ask: () => Promise<boolean>): Promise<void> {
  await until(ask, what);
}

const RELEASED = ["-l", `app.kubernetes.io/instance=${RELEASE}`];

/** The one MutatingWebhookConfiguration of the release. */
async function configuration(cluster: Cluster): Promise<JsonObject> {
  const { items } = await cluster.get("mutatingwebhookconfigurations", ...RELEASED);
  return (items as readonly JsonObject[])[0] ?? {};
}

async function caBundle(cluster: Cluster): Promise<string> {
  const bundle = String(at(await configuration(cluster), "webhooks", 0, "clientConfig", "caBundle"));
  return Buffer.from(bundle, "base64").toString();
}

/** Something else in the webhook's place, with its certificate. */
async function impostor(t: Test, cluster: Cluster, review: (body: Buffer) => Reply): Promise<() => Promise<void>> {
  const files = await secretFiles(cluster);
  const listener = new WebhookListener({
    address: await serviceAddress(cluster),
    pair: readKeyPair(Buffer.from(files["tls.crt"] ?? ""), Buffer.from(files["tls.key"] ?? ""), NAMES),
    review,
    onTurned: () => {},
    onHandshakeFailure: () => {},
  });
  await listener.listen();
  const close = (): Promise<void> => listener.close(0);
  t.teardown(close);
  return close;
}

t.test("an operator's way with the chart", clusterNeeded(), async (parent) => {
  const t = parent as unknown as Test;
  const cluster = await startCluster(t);
  await cluster.apply({
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name: "shop", labels: { "sallyport.dev/injection": "enabled" } },
  });
  await until(async () => (await cluster.kubectl(["get", "sa", "default", "-n", "shop"])).code === 0, "the namespace");
  await upgraded(t, cluster, []);
  let webhook: Webhook;

  await t.test("while nothing listens, failurePolicy Fail refuses Pods and says why", async (t) => {
    await settled("the webhook to be called", async () => (await create(cluster, "early")).code !== 0);
    const { err } = await create(cluster, "refused");
    t.match(err, /failed calling webhook "inject\.sallyport\.dev".*connection refused/);
  });

  await t.test(
    "while nothing listens, failurePolicy Ignore lets Pods start without a sidecar, and the audit log has it",
    async (t) => {
      await upgraded(t, cluster, ["webhook.failurePolicy=Ignore"]);
      await settled("the new policy", async () => (await create(cluster, "ignored")).code === 0);
      t.notOk(isInjected(await stored(cluster, "ignored")));
      const open = (await cluster.audit()).filter(({ annotations }) =>
        Object.keys((annotations ?? {}) as object).some((name) => name.startsWith("failed-open.mutation.webhook")),
      );
      t.ok(open.length > 0);
      await upgraded(t, cluster, []);
      await settled("the policy before", async () => (await create(cluster, fresh("closed"))).code !== 0);
    },
  );

  await t.test("what the API server makes of answers that are none of ours", async (t) => {
    const answers = [
      {
        name: "a Status with 500",
        reply: { status: 500, body: writeStatus(500, "InternalError", "sallyport: a fault") },
        shown: /failed to call webhook: sallyport: a fault/,
      },
      {
        name: "a Status with 400",
        reply: { status: 400, body: writeStatus(400, "BadRequest", "sallyport: no review") },
        shown: /failed to call webhook: sallyport: no review/,
      },
      { name: "an answer that is no JSON", reply: { status: 200, body: "hello" }, shown: /failed to call webhook/ },
      {
        name: "another review's uid",
        reply: {
          status: 200,
          body: writeReview({ uid: "another", allowed: true, warnings: [], auditAnnotations: {} }),
        },
        shown: /received invalid webhook response: expected response\.uid/,
      },
    ];
    for (const { name, reply, shown } of answers) {
      const close = await impostor(t, cluster, () => reply);
      t.match((await create(cluster, "odd")).err, shown, name);
      await close();
    }
  });

  await t.test("one that accepts and never answers costs its time-out and no more", async (t) => {
    await upgraded(t, cluster, ["webhook.timeoutSeconds=1"]);
    const [host, port] = (await serviceAddress(cluster)).split(":");
    const silent = createServer().listen(Number(port), host);
    await once(silent, "listening");
    t.teardown(() => silent.close());
    const sockets: Socket[] = [];
    silent.on("connection", (socket) => sockets.push(socket));
    await settled("the new time-out", async () =>
      /\?timeout=1s": (?:context deadline exceeded|net\/http: TLS handshake timeout)/.test(
        (await create(cluster, fresh("late"))).err,
      ),
    );
    t.ok(sockets.length > 0);
    for (const socket of sockets) socket.destroy();
    await upgraded(t, cluster, []);
  });

  await t.test("a patch that does not apply refuses the Pod even under Ignore", async (t) => {
    await upgraded(t, cluster, ["webhook.failurePolicy=Ignore"]);
    await settled("the new policy", async () => (await create(cluster, fresh("open"))).code === 0);
    const close = await impostor(t, cluster, (body) => {
      const parsed = parseReview(body);
      const uid = parsed.ok ? parsed.request.uid : "";
      const patch = JSON.stringify([{ op: "remove", path: "/spec/nothing" }]);
      return { status: 200, body: writeReview({ uid, allowed: true, patch, warnings: [], auditAnnotations: {} }) };
    });
    t.not((await create(cluster, "unpatchable")).code, 0);
    await close();
    await upgraded(t, cluster, []);
  });

  await t.test("once the webhook runs, Pods are injected", async (t) => {
    webhook = await runWebhook(parent as unknown as Test, cluster);
    t.equal((await create(cluster, "first")).code, 0);
    t.ok(isInjected(await stored(cluster, "first")));
  });

  await t.test("an upgrade of what is injected counts without a restart of the webhook", async (t) => {
    await upgraded(t, cluster, ["injector.mode=observe"]);
    await webhook.remount();
    await settled("the new configuration", async () => webhook.log().split('"event":"config.read"').length > 2);
    t.equal((await create(cluster, "observed")).code, 0);
    t.match(JSON.stringify(await stored(cluster, "observed")), /--mode=observe/);
    t.equal(webhook.child.exitCode, null);
    t.match(JSON.stringify(await stored(cluster, "first")), /--mode=policy/, "what runs stays as it is");
  });

  await t.test("an upgrade keeps the certificate, and renews it when asked, with no Pod refused between", async (t) => {
    const before = await secretFiles(cluster);
    await upgraded(t, cluster, ["injector.mode=observe"]);
    t.same(await secretFiles(cluster), before);
    const authorities = (await caBundle(cluster)).split("BEGIN CERTIFICATE").length;
    await upgraded(t, cluster, ["injector.mode=observe", "webhook.certificate.renew=once"]);
    t.not((await secretFiles(cluster))["tls.crt"], before["tls.crt"]);
    t.ok(
      (await caBundle(cluster)).split("BEGIN CERTIFICATE").length > authorities,
      "the authority before is still believed",
    );
    t.equal((await create(cluster, "old-pair")).code, 0, "a replica that has not seen the new pair yet");
    await webhook.remount();
    await settled("the new pair", async () => webhook.log().split('"event":"tls.read"').length > 2);
    t.equal((await create(cluster, "new-pair")).code, 0);
    t.ok(isInjected(await stored(cluster, "new-pair")));
  });

  await t.test("a caBundle of another authority is told on both sides", async (t) => {
    const { caPem } = await createPki("strangers");
    const caBundle = Buffer.from(caPem).toString("base64");
    const patch = [{ op: "replace", path: "/webhooks/0/clientConfig/caBundle", value: caBundle }];
    const kind = ["mutatingwebhookconfiguration", String(at(await configuration(cluster), "metadata", "name"))];
    await cluster.must(["patch", ...kind, "--type=json", "-p", JSON.stringify(patch)]);
    let said = "";
    await settled("the new bundle", async () => {
      const { code, err } = await create(cluster, fresh("distrusted"));
      said = err;
      return code !== 0;
    });
    t.match(said, /x509: certificate signed by unknown authority/);
    await settled("the log", async () => webhook.log().includes('"event":"tls.distrusted"'));
    const metrics = await (await fetch(`http://${webhook.health}/metrics`)).text();
    t.match(metrics, /sallyport_webhook_tls_handshake_failures_total\{reason="distrusted"\} [1-9]/);
    await upgraded(t, cluster, ["injector.mode=observe", "webhook.certificate.renew=once"]);
    await settled("the right bundle", async () => (await create(cluster, fresh("trusted"))).code === 0);
  });

  await t.test("a rollback brings back the first release, its certificate too", async (t) => {
    const { code, err } = await cluster.helm(["rollback", RELEASE, "1", "--namespace", SYSTEM]);
    t.equal(code, 0, err);
    await webhook.remount();
    await settled("the first release's Pods", async () => {
      const name = fresh("rolled-back");
      if ((await create(cluster, name)).code !== 0) return false;
      return JSON.stringify(await stored(cluster, name)).includes("--mode=policy");
    });
    t.equal(webhook.child.exitCode, null);
  });

  await t.test("a webhook that goes away is missed at once, and one that comes back is found", async (t) => {
    t.equal(await webhook.stop(), 0);
    t.match((await create(cluster, "missed")).err, /failed calling webhook/);
    webhook = await runWebhook(parent as unknown as Test, cluster);
    t.equal((await create(cluster, "found")).code, 0);
  });

  await t.test("a rolling restart of two replicas refuses no Pod, however many are created meanwhile", async (t) => {
    await webhook.stop();
    const proxy = await startProxy(t, await serviceAddress(cluster));
    const replica = () => runWebhook(t, cluster, { address: "127.0.0.1:0", drainDelay: "1s" });
    proxy.replicas.push(await replica(), await replica());
    const create = async (): Promise<boolean> => {
      const containers = [{ name: "app", image: "registry.example/orders:1", ports: [{ containerPort: 8080 }] }];
      const pod = { apiVersion: "v1", kind: "Pod", metadata: { generateName: "rolling-" }, spec: { containers } };
      const { status, body } = await cluster.post("/api/v1/namespaces/shop/pods?dryRun=All", pod);
      return status === 201 && isInjected(body);
    };
    await settled("both replicas", create);
    let isOver = false;
    let created = 0;
    let refused = 0;
    const creating = Array.from({ length: 3 }, async () => {
      while (!isOver && created < CREATED_MAX) {
        if (await create()) created++;
        else refused++;
      }
    });
    for (let restarted = 0; restarted < 2; restarted++) {
      proxy.replicas.push(await replica());
      const from = created;
      await settled("Pods with the newcomer", async () => created > from + 20);
      t.equal(await proxy.replicas.shift()?.stop(), 0);
    }
    isOver = true;
    await Promise.all(creating);
    t.equal(refused, 0);
    t.ok(created > 40);
    for (const { log } of proxy.replicas) t.match(log(), /"event":"pod\.injected"/, "each has a part in it");
    for (const one of proxy.replicas) await one.stop();
  });

  await t.test("uninstalled, nothing of the chart is left and Pods are admitted as they are", async (t) => {
    const { code, err } = await cluster.helm(["uninstall", RELEASE, "--namespace", SYSTEM]);
    t.equal(code, 0, err);
    await settled("the webhook to be forgotten", async () => {
      const name = fresh("free");
      return (await create(cluster, name)).code === 0 && !isInjected(await stored(cluster, name));
    });
    const kinds = "mutatingwebhookconfigurations,clusterroles,clusterrolebindings";
    t.match((await cluster.kubectl(["get", kinds, ...RELEASED])).err, /No resources found/);
    const left = "deployments,services,secrets,configmaps,serviceaccounts,poddisruptionbudgets,networkpolicies";
    t.match((await cluster.kubectl(["get", left, "-n", SYSTEM, ...RELEASED])).err, /No resources found/);
    t.ok(isInjected(await stored(cluster, "found")), "what runs stays as it is");
  });
});
