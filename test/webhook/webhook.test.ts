import { once } from "node:events";
import { createServer } from "node:https";
import { connect } from "node:tls";
import t, { type Test } from "tap";
import { createPki } from "../../scripts/pki.ts";
import { listen } from "../../scripts/services/service.ts";
import type { JsonObject, JsonPatchOperation } from "../../src/injector/injection.ts";
import { applyPatch } from "../../src/injector/patch.ts";
import { startWebhook } from "../../src/server/webhook.ts";
import { createLog, type Logger } from "../../src/telemetry/log.ts";
import type { KubernetesVersion } from "../../src/webhook/cluster-version.ts";
import { command } from "../support/command.ts";
import { eventually } from "../support/guarded.ts";
import { mount } from "./mount.ts";
import { type Answer, post, SERVICE, startProcess, type WebhookProcess } from "./process.ts";
import { OWNERS, podOf, reviewOf, UID } from "./reviews.ts";

function configText(more = ""): string {
  return `apiVersion: sallyport.dev/v1
kind: InjectorConfig
image: { repository: registry.example/sallyport, tag: "1.2.3" }
nativeSidecars: always
${more}`;
}

/** The Pod that the API server would make of an answer. */
function patched(pod: JsonObject, { body }: Answer): JsonObject {
  const { response } = body as { readonly response: { readonly patchType: string; readonly patch: string } };
  if (response.patchType !== "JSONPatch") throw new Error(`patchType ${response.patchType}`);
  const operations = JSON.parse(Buffer.from(response.patch, "base64").toString()) as readonly JsonPatchOperation[];
  return applyPatch(pod, operations);
}

function namesOf(pod: JsonObject, list: "containers" | "initContainers" | "volumes"): readonly string[] {
  const spec = pod.spec as Record<string, readonly { readonly name: string }[] | undefined>;
  return (spec[list] ?? []).map(({ name }) => name);
}

function annotationsOf(pod: JsonObject): Readonly<Record<string, string>> {
  return (pod.metadata as { readonly annotations?: Record<string, string> }).annotations ?? {};
}

const shared = await startProcess(t as unknown as Test, { config: configText() });

for (const owner of OWNERS) {
  t.test(`a Pod of ${owner} is injected over TLS, and asked about again it stays as it is`, async (t) => {
    const pod = podOf(owner);
    const answer = await shared.review(reviewOf({ object: pod }));
    t.match(answer, {
      status: 200,
      body: {
        apiVersion: "admission.k8s.io/v1",
        kind: "AdmissionReview",
        response: { uid: UID, allowed: true, auditAnnotations: { injection: "injected", config: /^[0-9a-f]{16}$/ } },
      },
    });
    const injected = patched(pod, answer);
    t.same(namesOf(injected, "initContainers"), ["sallyport", "sallyport-envoy"]);
    t.same(namesOf(injected, "containers"), ["app"]);
    t.ok(annotationsOf(injected)["sallyport.dev/status"]);
    const again = await shared.review(reviewOf({ object: injected }));
    t.match(again.body, { response: { allowed: true, auditAnnotations: { injection: "unchanged" } } });
    t.notOk("patch" in (again.body.response as object));
  });
}

t.test("a dry run gets the same answer and is counted apart", async (t) => {
  const real = await shared.review(reviewOf({}));
  const dry = await shared.review(reviewOf({ dryRun: true }));
  t.same(dry.body, real.body);
  t.ok((await shared.metric('sallyport_webhook_reviews_total{result="injected",dry_run="true"}')) >= 1);
});

t.test("a Pod on the host's network is refused with the reason", async (t) => {
  const { status, body } = await shared.review(reviewOf({ object: podOf("DaemonSet", { hostNetwork: true }) }));
  t.equal(status, 200);
  t.match(body, {
    response: {
      uid: UID,
      allowed: false,
      status: { code: 403, reason: "Forbidden", message: /hostNetwork.*sallyport\.dev\/inject: "false"/ },
    },
  });
});

t.test("what is no review is answered with 400 and a Status, and counted", async (t) => {
  const before = await shared.metric('sallyport_webhook_reviews_total{result="invalid",dry_run="false"}');
  const { status, body } = await shared.review({ ...reviewOf({}), apiVersion: "admission.k8s.io/v1beta1" });
  t.equal(status, 400);
  t.match(body, { kind: "Status", code: 400, message: /sallyport: AdmissionReview: apiVersion: expected/ });
  t.equal(await shared.metric('sallyport_webhook_reviews_total{result="invalid",dry_run="false"}'), before + 1);
  await shared.review({ kind: "Pod" });
  t.equal(shared.log().split('"event":"review.invalid"').length, 2, "told once a minute");
});

t.test("each injected Pod is a line in the log with namespace, name and owner, without its contents", async (t) => {
  await shared.review(reviewOf({ object: podOf("Job"), uid: "0b1f9f1e-logged", namespace: "tills" }));
  const line = await eventually(async () =>
    shared
      .log()
      .split("\n")
      .find((one) => one.includes("0b1f9f1e-logged")),
  );
  t.match(JSON.parse(line), {
    event: "pod.injected",
    namespace: "tills",
    pod: "orders-7d4b9c-*",
    owner: "Job/orders-7d4b9c",
    dry_run: false,
    level: "info",
  });
  t.notMatch(shared.log(), /hunter2/);
});

t.test("it is ready, and says by what", async (t) => {
  t.match(await shared.ready(), {
    status: 200,
    body: { ready: true, state: "serving", certificate: "valid", native_sidecars: "true", config: /^[0-9a-f]{16}$/ },
  });
  const expiry = await shared.metric("sallyport_webhook_certificate_expiry_timestamp_seconds");
  t.equal(new Date(expiry * 1_000).toISOString(), (await shared.ready()).body.certificate_not_after);
  t.equal(await shared.metric("sallyport_webhook_native_sidecars"), 1);
});

t.test("a new Secret is met by new connections; one that cannot be used leaves the last good pair", async (t) => {
  const webhook = await startProcess(t, { config: configText() });
  const next = await webhook.pair();
  await webhook.tls.swap(next.files);
  await eventually(async () => ((await webhook.review(reviewOf({}))).fingerprint === next.sha256 ? true : undefined));
  const foreign = await webhook.pair();
  await webhook.tls.swap({ ...foreign.files, "tls.key": (await webhook.pair()).files["tls.key"] ?? "" });
  await eventually(async () => (webhook.log().includes('"event":"tls.refused"') ? true : undefined));
  t.match(await webhook.review(reviewOf({})), { status: 200, fingerprint: next.sha256 });
  t.equal(await webhook.metric('sallyport_webhook_certificate_reloads_total{result="refused"}'), 1);
  t.equal(await webhook.metric('sallyport_webhook_certificate_reloads_total{result="read"}'), 1);
  t.notMatch(webhook.log(), /PRIVATE KEY/);
});

t.test("a certificate that is ending is warned of, and once it has ended takes the replica out", async (t) => {
  const pki = await createPki();
  const minutes = (count: number): number => count * 60_000;
  const webhook = await startProcess(t, { config: configText() });
  const short = async (startedMs: number, ttlMs: number) => {
    const { certPem, keyPem } = await pki.issue({ dns: ["x"], notBefore: new Date(Date.now() - startedMs), ttlMs });
    return { "tls.crt": certPem, "tls.key": keyPem };
  };
  await webhook.tls.swap(await short(minutes(55), minutes(60)));
  await eventually(async () => (webhook.log().includes('"event":"tls.ending"') ? true : undefined));
  t.match(await webhook.ready(), { status: 200, body: { certificate: "ending" } });
  await webhook.tls.swap(await short(minutes(65), minutes(60)));
  await eventually(async () => (webhook.log().includes('"event":"tls.refused"') ? true : undefined));
  t.match(webhook.log(), "expected a certificate in its time, got one that ended 20");
  t.match(
    await webhook.ready(),
    { status: 200, body: { certificate: "ending" } },
    "one that has ended does not take its place",
  );
  await webhook.tls.swap(await short(minutes(60), minutes(60) + 4_000));
  const ended = await eventually(async () => {
    const ready = await webhook.ready();
    return ready.status === 503 ? ready : undefined;
  });
  t.match(ended, { body: { certificate: "expired", ready: false } });
});

t.test("a new configuration is in force without a restart; a wrong one leaves the last good", async (t) => {
  const webhook = await startProcess(t, { config: configText() });
  const pod = podOf("ReplicaSet");
  await webhook.injector.swap({ "injector.yaml": configText("mode: observe") });
  const observed = await eventually(async () => {
    const injected = patched(pod, await webhook.review(reviewOf({ object: pod })));
    return JSON.stringify(injected).includes("--mode=observe") ? injected : undefined;
  });
  await webhook.injector.swap({ "injector.yaml": configText("mode: watch") });
  await eventually(async () => (webhook.log().includes('"event":"config.refused"') ? true : undefined));
  t.match(webhook.log(), /injector\.yaml:5:7[^"]* mode/);
  t.same(patched(pod, await webhook.review(reviewOf({ object: pod }))), observed);
  t.equal(await webhook.metric('sallyport_webhook_config_reloads_total{result="refused"}'), 1);
});

/** An API server whose version can be asked for. */
async function apiServer(t: Test, answers: () => { readonly status: number; readonly body: JsonObject }) {
  const pki = await createPki("cluster");
  const { certPem, keyPem } = await pki.issue({ ips: ["127.0.0.1"] });
  const server = createServer({ cert: certPem, key: keyPem }, (_, response) => {
    const { status, body } = answers();
    response.writeHead(status).end(JSON.stringify(body));
  });
  const port = await listen(server, 0);
  t.teardown(() => server.close());
  const account = await mount(t, { "ca.crt": pki.caPem, token: "a-token" });
  return {
    flags: ["--service-account-dir", account.folder],
    environment: { KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: String(port) },
  };
}

const auto = configText().replace("always", "auto");
for (const { minor, init } of [
  { minor: "28", init: [] },
  { minor: "29", init: ["sallyport", "sallyport-envoy"] },
]) {
  t.test(
    `on Kubernetes 1.${minor}, auto injects ${init.length === 0 ? "ordinary containers" : "native sidecars"}`,
    async (t) => {
      const api = await apiServer(t, () => ({ status: 200, body: { major: "1", minor, gitVersion: `v1.${minor}.0` } }));
      const webhook = await startProcess(t, { config: auto, ...api });
      const pod = podOf("ReplicaSet");
      const answer = await webhook.review(reviewOf({ object: pod }));
      t.same(namesOf(patched(pod, answer), "initContainers"), init);
      t.match(await webhook.ready(), { body: { cluster_version: `v1.${minor}.0` } });
      t.equal(await webhook.metric("sallyport_webhook_cluster_version_known"), 1);
    },
  );
}

t.test("where the version cannot be had, auto injects ordinary containers and says so on each Pod", async (t) => {
  const api = await apiServer(t, () => ({ status: 403, body: {} }));
  const webhook = await startProcess(t, { config: auto, ...api });
  const pod = podOf("ReplicaSet");
  const answer = await webhook.review(reviewOf({ object: pod }));
  t.same(namesOf(patched(pod, answer), "initContainers"), []);
  t.match(answer.body, { response: { warnings: [/version is not known yet: injected as ordinary containers/] } });
  t.match(webhook.log(), /"event":"version\.unknown".*expected 200, got 403/);
  t.match(await webhook.ready(), { status: 200, body: { cluster_version: "unknown", native_sidecars: "false" } });
  t.notMatch(webhook.log(), /a-token/);
});

t.test(
  "a Secret that is exchanged while the API server is still asked counts from the first connection on",
  async (t) => {
    const pki = await createPki();
    const pair = async () => {
      const { certPem, keyPem, sha256 } = await pki.issue({ dns: [SERVICE] });
      return { files: { "tls.crt": certPem, "tls.key": keyPem }, sha256 };
    };
    const tls = await mount(t, (await pair()).files);
    const injector = await mount(t, { "injector.yaml": auto });
    const events: unknown[] = [];
    const log = createLog("silent");
    log.info = ((fields: { readonly event: string }) => events.push(fields.event)) as Logger["info"];
    let answer = (_: KubernetesVersion): void => {};
    const version = new Promise<KubernetesVersion>((resolve) => {
      answer = resolve;
    });
    const starting = startWebhook(
      {
        address: "127.0.0.1:0",
        healthAddress: undefined,
        injectorConfig: injector.path("injector.yaml"),
        tlsCertFile: tls.path("tls.crt"),
        tlsKeyFile: tls.path("tls.key"),
        drainDelayMs: 0,
        drainTimeoutMs: 0,
        askVersion: () => version,
        lookMs: 5,
      },
      log,
    );
    const next = await pair();
    await tls.swap(next.files);
    await eventually(async () => (events.includes("tls.read") ? true : undefined));
    answer({ major: 1, minor: 34, text: "v1.34.2" });
    const webhook = await starting;
    t.teardown(() => webhook.stop());
    t.match(await post(webhook.addresses.webhook, pki.caPem, reviewOf({})), { status: 200, fingerprint: next.sha256 });
  },
);

/** A connection on which a review has begun and not ended. */
async function begun(webhook: WebhookProcess) {
  const body = JSON.stringify(reviewOf({}));
  const socket = connect({
    host: "127.0.0.1",
    port: Number(webhook.address.split(":")[1]),
    ca: webhook.pki.caPem,
    checkServerIdentity: () => undefined,
  });
  await once(socket, "secureConnect");
  socket.write(
    `POST /inject HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body.slice(0, 10)}`,
  );
  return { socket, rest: body.slice(10) };
}

t.test("asked to end, it is no longer ready, answers what is under way, and ends well", async (t) => {
  const webhook = await startProcess(t, { config: configText(), flags: ["--drain-delay", "2s"] });
  const { socket, rest } = await begun(webhook);
  await webhook.review(reviewOf({})); // by now the other one has begun
  const ended = webhook.stop();
  await eventually(async () => ((await webhook.ready()).status === 503 ? true : undefined));
  t.match(await webhook.ready(), { body: { ready: false, state: "draining" } });
  t.match(await webhook.review(reviewOf({})), { status: 200 }, "until endpoints have spread, all are answered");
  socket.write(rest);
  const [answer] = (await once(socket, "data")) as [Buffer];
  t.match(answer.toString(), /^HTTP\/1\.1 200 [\s\S]*connection: close/i);
  t.equal(await ended, 0);
  t.match(webhook.log(), /"event":"stopped"/);
});

const FILES = ["--injector-config", "i", "--tls-cert-file", "c", "--tls-key-file", "k"];
const usages = [
  { args: ["--tls-cert-file", "c", "--tls-key-file", "k"], why: /--injector-config: expected a file, got nothing/ },
  { args: [...FILES, "--webhook-address", "9443"], why: /--webhook-address: expected HOST:PORT, got "9443"/ },
  { args: [...FILES, "--webhook-address", "127.0.0.1:65536"], why: /--webhook-address: expected HOST:PORT/ },
  { args: [...FILES, "--drain-delay", "61s"], why: /--drain-delay: expected a duration of 0s to 60s, got "61s"/ },
  { args: [...FILES, "--drain-timeout", "soon"], why: /--drain-timeout: expected a duration of 0s to 60s, got "soon"/ },
  { args: [...FILES, "--log-level", "loud"], why: /--log-level: expected debug, info, warn, error, silent/ },
  { args: [...FILES, "--tls-crt-file", "c"], why: /unknown flag --tls-crt-file; did you mean --tls-cert-file/ },
];
for (const { args, why } of usages) {
  t.test(`usage: ${args.slice(-2).join(" ")}`, async (t) => {
    const { code, err } = await command(["webhook", ...args]);
    t.equal(code, 2);
    t.match(err, why);
  });
}

t.test("files that cannot be used at the start are errors with their names", async (t) => {
  const folder = await mount(t, {
    "injector.yaml": configText(),
    "bad.yaml": "kind: Policy",
    "tls.crt": "",
    "tls.key": "",
  });
  const flags = (config: string): string[] => [
    ...[
      "--injector-config",
      config,
      "--tls-cert-file",
      folder.path("tls.crt"),
      "--tls-key-file",
      folder.path("tls.key"),
    ],
    ...["--log-level", "silent"],
  ];
  const cases = [
    {
      config: folder.path("none.yaml"),
      why: /none\.yaml: expected a file that can be read, got ENOENT \(ERR_CONFIG_INVALID\)/,
    },
    { config: folder.path("bad.yaml"), why: /bad\.yaml:1:\d+ .*\(ERR_CONFIG_INVALID\)/s },
    { config: folder.path("injector.yaml"), why: /tls\.crt: expected a PEM certificate, got none/ },
  ];
  for (const { config, why } of cases) {
    const { code, err } = await command(["webhook", ...flags(config)]);
    t.equal(code, 1);
    t.match(err, why);
  }
});
