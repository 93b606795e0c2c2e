import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { parse, stringify } from "yaml";
import { dashboard } from "../../scripts/chart-dashboard.ts";
import { parsePolicy } from "../../src/bundle/parse.ts";
import { controlCommand } from "../../src/cli/control.ts";
import { webhookCommand } from "../../src/cli/webhook.ts";
import { readControlConfig } from "../../src/control/config.ts";
import { parseInjectorConfig } from "../../src/injector/injection.ts";
import { ENVOY_PORT_NAME, HEALTH_PORT_NAME } from "../../src/injector/places.ts";
import { one, type Rendered, render, TOPOLOGIES, WITH_HELM } from "./helm.ts";

const SOURCE = fileURLToPath(new URL("../../src", import.meta.url));
/** What a pod finds in its environment. */
const IN_A_POD = { KUBERNETES_SERVICE_HOST: "10.0.0.1", KUBERNETES_SERVICE_PORT: "443" };

const CONTROL = {
  enabled: true,
  bundleKeys: { inline: "{}" },
  tokensSecretRef: { name: "tokens" },
};

function injectorConfigOf(objects: readonly Rendered[]) {
  return parseInjectorConfig(one(objects, "ConfigMap", "sallyport-injector").data["injector.yaml"], "injector.yaml");
}

function controlConfigOf(objects: readonly Rendered[]) {
  const text: string = one(objects, "ConfigMap", "sallyport-control").data["control.yaml"];
  const read = readControlConfig({
    flags: {},
    switches: new Set(),
    environment: IN_A_POD,
    file: { name: "control.yaml", text },
  });
  if (!read.ok) throw new Error(read.problems.join("\n"));
  return read.settings;
}

for (const files of [[], ...TOPOLOGIES.map((name) => [name])]) {
  t.test(`${files[0] ?? "the defaults"}: the webhook reads the injector's configuration`, WITH_HELM, async (t) => {
    t.match(injectorConfigOf(await render({ files })).hash, /^[0-9a-f]{16}$/);
  });
}

t.test(
  "what `sallyport inject` adds without a configuration is what the chart's defaults add",
  WITH_HELM,
  async (t) => {
    const charted = injectorConfigOf(await render());
    const bare = { apiVersion: "sallyport.dev/v1", kind: "InjectorConfig", image: charted.image };
    t.same(parseInjectorConfig(stringify(bare), "bare"), charted);
  },
);

t.test("values arrive in the injector's configuration", WITH_HELM, async (t) => {
  const values = {
    image: { repository: "registry.example:5000/sallyport", tag: "1.10" },
    policy: { existingSecret: "rules", key: "shop.yaml" },
    injector: {
      imagePullSecrets: [{ name: "registry" }],
      nativeSidecars: "never",
      mode: "observe",
      logLevel: "debug",
      decisionLog: "off",
      runAsUser: 0,
      listenAddress: "::",
      healthPort: 9000,
      resources: { requests: { cpu: "1", memory: "1Gi" }, limits: { memory: "2Gi" } },
      extraEnv: [{ name: "TZ", value: "UTC" }],
      settings: { "principals-max": 500, "on-overload": "judge" },
      state: { kind: "none" },
      envoy: {
        appPort: 8000,
        appProtocol: "http2",
        redirect: "ports",
        failureMode: "allow",
        checkTimeoutMs: 900,
        drain: "sleep",
        drainSeconds: 9,
      },
    },
  };
  t.match(injectorConfigOf(await render({ values })), {
    image: { repository: "registry.example:5000/sallyport", tag: "1.10", digest: "", pullPolicy: "IfNotPresent" },
    imagePullSecrets: ["registry"],
    nativeSidecars: "never",
    mode: "observe",
    logLevel: "debug",
    decisionLog: "off",
    runAsUser: undefined,
    listenAddress: "::",
    healthPort: 9000,
    resources: { requests: { cpu: "1", memory: "1Gi" }, limits: { memory: "2Gi" } },
    extraEnv: [{ name: "TZ", value: "UTC" }],
    settings: { "principals-max": "500", "on-overload": "judge" },
    policy: { kind: "secret", name: "rules", key: "shop.yaml" },
    state: { kind: "none" },
    envoy: {
      mode: "sidecar",
      appPort: 8000,
      appProtocol: "http2",
      redirect: "ports",
      failureMode: "allow",
      checkTimeoutMs: 900,
      drain: "sleep",
      drainSeconds: 9,
    },
  });
});

t.test("the control plane reads its file, whatever it stores where", WITH_HELM, async (t) => {
  const folder = controlConfigOf(
    await render({ values: { control: { ...CONTROL, posture: { namespaces: ["shop", "billing"] } } } }),
  );
  t.match(folder, {
    address: "0.0.0.0:9292",
    healthAddress: "0.0.0.0:9293",
    stateDir: "/var/lib/sallyport-control",
    bundleKeys: "/etc/sallyport/bundle-keys/shop.keys",
    tokens: "/etc/sallyport/tokens/tokens.yaml",
    tls: { cert: "/etc/sallyport/tls/tls.crt", key: "/etc/sallyport/tls/tls.key", clientCa: undefined },
    nats: undefined,
    kubernetes: { namespaces: ["shop", "billing"] },
  });
  const shared = controlConfigOf(await render({ files: ["values-strict.yaml"] }));
  t.match(shared, {
    stateDir: undefined,
    tls: { clientCa: "/etc/sallyport/client-ca/ca.crt" },
    nats: {
      servers: ["tls://nats.nats.svc:4222"],
      credentials: "/etc/sallyport/nats-credentials/nats.creds",
      ca: "/etc/sallyport/nats-ca/ca.crt",
      replicas: 3,
    },
  });
  t.equal(shared.grants.length, 2);
  t.match(shared.kubernetes, { tokenAudience: "sallyport-control", naming: { trustDomain: "shop.example" } });
  const trial = {
    ...CONTROL,
    bundleKeys: { inline: "" },
    insecureUnsignedBundles: true,
    tls: { kind: "insecurePlaintext" },
    storage: { kind: "emptyDir" },
    posture: { enabled: false },
  };
  const open = controlConfigOf(await render({ values: { control: trial } }));
  t.match(open, { bundleKeys: undefined, tls: undefined, kubernetes: undefined });
  const signals = {
    ...CONTROL,
    sharedSignalsSecretRef: { name: "signals" },
    storage: { kind: "nats" },
    nats: { servers: ["nats://nats:4222"] },
  };
  t.match(controlConfigOf(await render({ values: { control: signals } })), {
    sharedSignals: "/etc/sallyport/shared-signals/shared-signals.yaml",
    stateDir: "/var/lib/sallyport-control",
  });
});

t.test("every file that the control plane is told of is mounted where it is told", WITH_HELM, async (t) => {
  const full = { ...CONTROL, tls: { clientCaSecretRef: { name: "ca" } }, sharedSignalsSecretRef: { name: "signals" } };
  for (const options of [{ values: { control: full } }, { files: ["values-strict.yaml"] }]) {
    const objects = await render(options);
    const file = parse(one(objects, "ConfigMap", "sallyport-control").data["control.yaml"]) as Record<string, unknown>;
    const [container] = one(objects, "Deployment", "sallyport-control").spec.template.spec.containers;
    const mounts = container.volumeMounts.map(({ mountPath }: { mountPath: string }) => mountPath);
    const paths = Object.values(file).filter((value) => typeof value === "string" && value.startsWith("/")) as string[];
    t.ok(paths.length >= 5);
    for (const path of paths) {
      t.ok(mounts.includes(path) || mounts.includes(path.slice(0, path.lastIndexOf("/"))), path);
    }
  }
});

t.test("containers are started with commands and flags that exist", WITH_HELM, async (t) => {
  const objects = await render({ values: { control: CONTROL } });
  for (const command of [webhookCommand, controlCommand]) {
    const [container] = one(objects, "Deployment", `sallyport-${command.name}`).spec.template.spec.containers;
    const [name, ...flags] = container.args as string[];
    t.equal(name, command.name);
    const known = command.flags.map((flag) => `--${flag.name}`);
    for (const flag of flags) t.ok(known.includes(flag.split("=")[0] as string), flag);
  }
});

t.test("the examples' policy is one", WITH_HELM, async (t) => {
  const objects = await render({ files: ["values-standalone-envoy.yaml"] });
  const text = one(objects, "ConfigMap", "sallyport-policy").data["policy.yaml"];
  t.match(parsePolicy(text, "policy.yaml"), { ok: true });
});

/** Names of metrics that the source makes: written out, or put together with a prefix. */
function metricsInSource(): ReadonlySet<string> {
  const names = new Set<string>();
  for (const entry of readdirSync(SOURCE, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !entry.name.endsWith(".ts") || entry.parentPath.includes("/gen")) continue;
    const text = readFileSync(join(entry.parentPath, entry.name), "utf8");
    for (const [name] of text.matchAll(/\bsallyport_[a-z_]*[a-z]\b/g)) names.add(name);
    for (const [, prefix] of text.matchAll(/`(sallyport_[a-z_]+_)\$\{name\}(?:_total)?`/g)) {
      for (const [, name] of text.matchAll(/(?:counter|gauge)\(\s*"([a-z_]+)"/g)) names.add(`${prefix}${name}`);
    }
    // What prom-client adds for every process.
    for (const [, prefix] of text.matchAll(/collect(?:Default|Process)Metrics\([^)]*"(sallyport_[a-z_]*)"/g)) {
      for (const name of ["process_cpu_seconds_total", "process_resident_memory_bytes"]) names.add(`${prefix}${name}`);
    }
  }
  return names;
}

function metricsIn(expression: string): readonly string[] {
  return [...expression.matchAll(/\bsallyport_[a-z_]+/g)].map(([name]) => name.replace(/_(?:bucket|sum|count)$/, ""));
}

t.test("alerts and panels ask for metrics that exist", WITH_HELM, async (t) => {
  const known = metricsInSource();
  t.ok(known.has("sallyport_checks_total") && known.has("sallyport_webhook_reviews_total"), "and those are found");
  t.notOk(known.has("sallyport_surprises_total"));
  const values = { control: CONTROL, monitoring: { prometheusRule: { enabled: true } } };
  const { groups } = one(await render({ values }), "PrometheusRule").spec;
  const rules = groups.flatMap(({ rules }: { rules: object[] }) => rules) as {
    readonly alert: string;
    readonly expr: string;
  }[];
  t.ok(rules.length > 20);
  t.equal(new Set(rules.map(({ alert }) => alert)).size, rules.length, "each alert has a name of its own");
  for (const { alert, expr } of rules) {
    const asked = metricsIn(expr);
    t.ok(asked.length > 0, alert);
    for (const name of asked) t.ok(known.has(name), `${alert}: ${name}`);
  }
  const panels = (
    dashboard().panels as { readonly title: string; readonly targets?: { readonly expr: string }[] }[]
  ).flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })));
  t.ok(panels.length > 20);
  for (const { title, expr } of panels) for (const name of metricsIn(expr)) t.ok(known.has(name), `${title}: ${name}`);
});

t.test("sidecars are scraped by the names that the injector gives to their ports", WITH_HELM, async (t) => {
  const { spec } = one(
    await render({ values: { monitoring: { podMonitor: { enabled: true, envoy: true } } } }),
    "PodMonitor",
  );
  t.same(
    spec.podMetricsEndpoints.map(({ port, path }: Record<string, string>) => ({ port, path })),
    [
      { port: HEALTH_PORT_NAME, path: "/metrics" },
      { port: ENVOY_PORT_NAME, path: "/stats/prometheus" },
    ],
  );
});

t.test("alerts can be left out, labelled, and lead to pages of one's own", WITH_HELM, async (t) => {
  const prometheusRule = {
    enabled: true,
    disabled: ["SallyportSlow"],
    alertLabels: { team: "edge" },
    runbookUrl: "https://runbooks.example/",
    refusedShareMax: 0.2,
  };
  const { groups } = one(await render({ values: { monitoring: { prometheusRule } } }), "PrometheusRule").spec;
  t.same(
    groups.map(({ name }: { name: string }) => name),
    ["sallyport-sidecars", "sallyport-webhook"],
    "without a control plane nobody is told that it is gone",
  );
  const [{ rules }] = groups;
  t.notOk(rules.some(({ alert }: { alert: string }) => alert === "SallyportSlow"));
  const refused = rules.find(({ alert }: { alert: string }) => alert === "SallyportRefusesMuch");
  t.match(refused.expr, "> 0.2");
  t.same(refused.labels, { severity: "warning", team: "edge" });
  t.equal(refused.annotations.runbook_url, "https://runbooks.example/SallyportRefusesMuch");
  t.match(refused.annotations.summary, "{{ $value | humanizePercentage }}", "Prometheus' own templates are left to it");
});
