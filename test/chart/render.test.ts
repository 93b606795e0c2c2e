import t from "tap";
import { parseInjectorConfig } from "../../src/injector/injection.ts";
import {
  conform,
  lint,
  objectsIn,
  one,
  podsOf,
  type Rendered,
  render,
  TOPOLOGIES,
  template,
  WITH_HELM,
  WITH_KUBECONFORM,
} from "./helm.ts";

/** Kinds of operators that a cluster may have; their CRDs are not the API server's. */
const FOREIGN = ["ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate", "Issuer"];

/** Everything that can be on at once. */
const FULL = {
  commonLabels: { team: "edge" },
  commonAnnotations: { "example.com/owner": "edge" },
  imagePullSecrets: [{ name: "registry" }],
  namespaces: ["shop", "billing"],
  policy: { inline: "apiVersion: sallyport.dev/v1\nkind: Policy\n" },
  control: {
    enabled: true,
    bundleKeys: { inline: "{}" },
    tokensSecretRef: { name: "tokens" },
    sharedSignalsSecretRef: { name: "signals" },
    posture: { namespaces: ["shop"] },
    tls: { clientCaSecretRef: { name: "client-ca" } },
  },
  webhook: { matchConditions: [{ name: "no-jobs", expression: "true" }] },
  monitoring: {
    serviceMonitor: { enabled: true },
    podMonitor: { enabled: true, envoy: true },
    prometheusRule: { enabled: true, runbookUrl: "https://runbooks.example/" },
    dashboard: { enabled: true, namespace: "grafana" },
  },
  extraObjects: [
    { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "extra" }, data: { release: "{{ .Release.Name }}" } },
  ],
};

const CASES: readonly { readonly name: string; readonly files: readonly string[]; readonly values: object }[] = [
  { name: "the defaults", files: [], values: {} },
  ...TOPOLOGIES.map((name) => ({ name, files: [name], values: {} })),
  { name: "everything at once", files: [], values: FULL },
  {
    name: "a given certificate and nothing optional",
    files: [],
    values: {
      webhook: {
        certificate: { kind: "given", existingSecret: "mine", caBundle: "-----BEGIN CERTIFICATE-----\nMA==\n" },
        hostNetwork: true,
        podDisruptionBudget: { enabled: false },
        serviceAccount: { create: false },
      },
      injector: { nativeSidecars: "never" },
      networkPolicy: { enabled: false },
      podSecurity: { runAsUser: null, runAsGroup: null, fsGroup: null },
    },
  },
];

for (const { name, files, values } of CASES) {
  t.test(`${name}: what is rendered holds together`, WITH_HELM, async (t) => {
    const text = await template({ files, values });
    t.ok(text.ok, text.err);
    const objects = objectsIn(text.out);
    t.same(doubles(objects), [], "no object comes twice");
    t.same(danglingReferences(objects), [], "every reference leads to an object, or to one that the values name");
    t.same(unselected(objects), [], "every selector finds pods");
    t.same(looseImages(objects), [], "every image is pinned to a version");
    t.same(unlabelled(objects), [], "every object says whose it is");
    const hostNetwork = (values as { webhook?: { hostNetwork?: boolean } }).webhook?.hostNetwork === true;
    t.same(unrestricted(objects), hostNetwork ? ["Deployment/sallyport-webhook: hostNetwork"] : [], "Restricted");
    t.same(unbounded(objects), [], "every container states its memory");
  });

  t.test(`${name}: the API server's schemas take it`, WITH_KUBECONFORM, async (t) => {
    const { out } = await template({ files, values });
    const said = await conform(out, FOREIGN);
    t.ok(said.ok, said.out + said.err);
    t.match(said.out, /Invalid: 0, Errors: 0/);
  });
}

t.test("the linter has nothing to say, whatever the topology", WITH_HELM, async (t) => {
  for (const files of [[], ...TOPOLOGIES.map((name) => [name])]) {
    const said = await lint(files);
    t.ok(said.ok, said.out + said.err);
    t.notMatch(said.out + said.err, /\[(?:WARNING|ERROR)\]|warning:/, files.join());
  }
});

t.test("kubeconform would notice a key that the API does not know", WITH_KUBECONFORM, async (t) => {
  const pod = { apiVersion: "v1", kind: "Pod", metadata: { name: "a" }, spec: { containers: [], hostnetwork: true } };
  const said = await conform(JSON.stringify(pod));
  t.notOk(said.ok);
  t.match(said.out, /hostnetwork/);
});

t.test("the webhook is asked about new pods of labelled namespaces, and never about its own", WITH_HELM, async (t) => {
  const [webhook] = one(await render(), "MutatingWebhookConfiguration").webhooks;
  t.same(webhook.rules, [
    { apiGroups: [""], apiVersions: ["v1"], resources: ["pods"], operations: ["CREATE"], scope: "Namespaced" },
  ]);
  t.same(webhook.namespaceSelector, {
    matchLabels: { "sallyport.dev/injection": "enabled" },
    matchExpressions: [
      {
        key: "kubernetes.io/metadata.name",
        operator: "NotIn",
        values: ["kube-system", "kube-public", "kube-node-lease", "sallyport-system"],
      },
    ],
  });
  t.same(webhook.objectSelector, {
    matchExpressions: [{ key: "sallyport.dev/inject", operator: "NotIn", values: ["false"] }],
  });
  t.match(webhook, {
    failurePolicy: "Fail",
    timeoutSeconds: 5,
    reinvocationPolicy: "IfNeeded",
    sideEffects: "None",
    admissionReviewVersions: ["v1"],
    clientConfig: { service: { name: "sallyport-webhook", namespace: "sallyport-system", path: "/inject", port: 443 } },
  });
});

t.test("with Istio the webhook is asked again after Istio's own", WITH_HELM, async (t) => {
  const [webhook] = one(await render({ files: ["values-istio.yaml"] }), "MutatingWebhookConfiguration").webhooks;
  t.equal(webhook.reinvocationPolicy, "IfNeeded");
});

t.test("rights are those that are used, and no more", WITH_HELM, async (t) => {
  const defaults = await render();
  t.same(rulesOf(defaults), {
    "sallyport-sallyport-system-webhook": [{ nonResourceURLs: ["/version"], verbs: ["get"] }],
  });
  t.equal(one(defaults, "Deployment").spec.template.spec.automountServiceAccountToken, true);

  const told = await render({ values: { injector: { nativeSidecars: "always" } } });
  t.same(rulesOf(told), {}, "a webhook that is told needs no right");
  t.equal(one(told, "Deployment").spec.template.spec.automountServiceAccountToken, false, "and no token");

  const pods = [{ apiGroups: [""], resources: ["pods"], verbs: ["list", "watch"] }];
  const wide = await render({ values: { ...FULL, control: { ...FULL.control, posture: { namespaces: [] } } } });
  t.same(rulesOf(wide)["sallyport-sallyport-system-pods"], pods);
  t.equal(one(wide, "ClusterRole", "sallyport-sallyport-system-pods").metadata.namespace, undefined);
  const narrow = await render({ values: FULL });
  t.equal(one(narrow, "Role").metadata.namespace, "shop", "only where it is to watch");
  t.equal(one(narrow, "RoleBinding").metadata.namespace, "shop");
  const blind = await render({ values: { ...FULL, control: { ...FULL.control, posture: { enabled: false } } } });
  t.same(Object.keys(rulesOf(blind)), ["sallyport-sallyport-system-webhook"]);
  t.equal(one(blind, "Deployment", "sallyport-control").spec.template.spec.automountServiceAccountToken, false);

  const reviewing = await render({ files: ["values-strict.yaml"] });
  const reviews = [{ apiGroups: ["authentication.k8s.io"], resources: ["tokenreviews"], verbs: ["create"] }];
  t.same(rulesOf(reviewing)["sallyport-sallyport-system-tokens"], reviews, "whose token a sidecar shows");
});

t.test("network policies let in who has to come, and out what is called", WITH_HELM, async (t) => {
  const strict = await render({ files: ["values-strict.yaml"] });
  const monitoring = { namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "monitoring" } } };
  const webhook = one(strict, "NetworkPolicy", "sallyport-webhook").spec;
  t.same(webhook.ingress, [
    { ports: [{ port: "https", protocol: "TCP" }] },
    { ports: [{ port: "metrics", protocol: "TCP" }], from: [monitoring] },
  ]);
  const api = { ports: [443, 6443].map((port) => ({ port, protocol: "TCP" })) };
  t.same(webhook.egress, [api]);
  const control = one(strict, "NetworkPolicy", "sallyport-control").spec;
  const test = one(strict, "Pod", "sallyport-test").metadata.labels;
  const [, metrics] = control.ingress;
  t.same(metrics.from[0], monitoring);
  t.ok(selects(metrics.from[1].podSelector.matchLabels, test), "helm test asks the control plane whether it is ready");
  t.same(control.egress, [
    { ports: ["UDP", "TCP"].map((protocol) => ({ port: 53, protocol })) },
    api,
    { ports: [{ port: 4222, protocol: "TCP" }] },
  ]);
  const told = await render({ values: { injector: { nativeSidecars: "never" } } });
  t.same(one(told, "NetworkPolicy").spec.egress, [], "a webhook that asks nobody may call nobody");
});

t.test("a digest wins over the tag, for sidecars too", WITH_HELM, async (t) => {
  const digest = `sha256:${"a".repeat(64)}`;
  const objects = await render({ values: { image: { digest } } });
  t.equal(one(objects, "Deployment").spec.template.spec.containers[0].image, `ghcr.io/sallyport/sallyport@${digest}`);
  t.match(one(objects, "ConfigMap", "sallyport-injector").data["injector.yaml"], `digest: ${digest}`);
  const other = await render({ values: { image: { digest }, injector: { image: { tag: "0.0.9" } } } });
  const config = one(other, "ConfigMap", "sallyport-injector").data["injector.yaml"];
  t.match(config, "tag: 0.0.9");
  t.match(config, 'digest: ""', "the digest of another tag would win over the tag that was asked for");
});

t.test("pods roll when what they read at the start has changed, and only then", WITH_HELM, async (t) => {
  const sums = async (values: object) => {
    const objects = await render({ values });
    return Object.fromEntries(
      objects
        .filter(({ kind }) => kind === "Deployment")
        .map(({ metadata, spec }) => [metadata.name, JSON.stringify(spec.template.metadata.annotations)]),
    );
  };
  const before = await sums(FULL);
  t.same(await sums(FULL), before, "a second rendering, with certificates made anew, changes nothing");
  const observed = await sums({ ...FULL, injector: { mode: "observe" } });
  t.not(observed["sallyport-webhook"], before["sallyport-webhook"]);
  t.equal(observed["sallyport-control"], before["sallyport-control"]);
  const slower = await sums({ ...FULL, control: { ...FULL.control, settings: { heartbeat: "20s" } } });
  t.equal(slower["sallyport-webhook"], before["sallyport-webhook"]);
  t.not(slower["sallyport-control"], before["sallyport-control"]);
  const rekeyed = await sums({ ...FULL, control: { ...FULL.control, bundleKeys: { inline: '{"version": 2}' } } });
  t.not(rekeyed["sallyport-control"], before["sallyport-control"]);
});

t.test("names stay within 63 characters however long the release's is", WITH_HELM, async (t) => {
  const release = "a-release-with-a-name-as-long-as-helm-allows-at-all-53";
  const objects = await render({ release: release.slice(0, 53), values: { ...FULL, fullnameOverride: "" } });
  t.same(
    objects.filter(({ kind, metadata }) => metadata.name.length > (kind.startsWith("Cluster") ? 120 : 63)),
    [],
  );
});

t.test("two releases in two namespaces share no object of the cluster", WITH_HELM, async (t) => {
  const wide = (objects: readonly Rendered[]) =>
    objects
      .filter(({ metadata }) => metadata.namespace === undefined)
      .map(({ kind, metadata }) => `${kind}/${metadata.name}`);
  const one = wide(await render({ namespace: "a" }));
  const other = wide(await render({ namespace: "b" }));
  t.ok(one.length > 0);
  t.same(
    one.filter((name) => other.includes(name)),
    [],
  );
});

t.test("labels of one's own never replace those that selectors rest on", WITH_HELM, async (t) => {
  const taken = { "app.kubernetes.io/name": "mine", "app.kubernetes.io/component": "mine" };
  const objects = await render({ values: { commonLabels: taken, webhook: { podLabels: taken } } });
  t.same(unselected(objects), []);
});

t.test("the policy is in every namespace that was named, as it was written", WITH_HELM, async (t) => {
  const policies = (await render({ values: FULL })).filter(({ metadata }) => metadata.name === "sallyport-policy");
  t.same(
    policies.map(({ metadata }) => metadata.namespace),
    ["shop", "billing"],
  );
  for (const { data } of policies) t.equal(data["policy.yaml"].trimEnd(), FULL.policy.inline.trimEnd());
});

t.test("a folder is one process's: the control plane is replaced, not rolled", WITH_HELM, async (t) => {
  const folder = one(await render({ values: FULL }), "Deployment", "sallyport-control");
  t.same(folder.spec.strategy, { type: "Recreate" });
  const claim = one(await render({ values: FULL }), "PersistentVolumeClaim");
  t.equal(claim.metadata.annotations?.["helm.sh/resource-policy"], "keep", "what was published outlives the release");
  const shared = one(await render({ files: ["values-strict.yaml"] }), "Deployment", "sallyport-control");
  t.equal(shared.spec.strategy.type, "RollingUpdate");
  t.equal(shared.spec.replicas, undefined, "the autoscaler's");
});

function doubles(objects: readonly Rendered[]): readonly string[] {
  const names = objects.map(
    ({ apiVersion, kind, metadata }) => `${apiVersion} ${kind} ${metadata.namespace ?? ""}/${metadata.name}`,
  );
  return names.filter((name, index) => names.indexOf(name) !== index);
}

/** Objects that the values name and that are no part of the chart. */
const ELSEWHERE = [
  "Secret/registry",
  "Secret/tokens",
  "Secret/signals",
  "Secret/client-ca",
  "Secret/mine",
  "Secret/sallyport-tokens",
  "Secret/sallyport-nats",
  "Secret/sallyport-client-ca",
  "ConfigMap/sallyport-bundle-keys",
  "ServiceAccount/default",
];

function danglingReferences(objects: readonly Rendered[]): readonly string[] {
  const there = new Set(objects.map(({ kind, metadata }) => `${kind}/${metadata.name}`));
  // A Certificate makes the Secret that it names.
  for (const { kind, spec } of objects) if (kind === "Certificate") there.add(`Secret/${spec.secretName}`);
  const wanted: string[] = [];
  const want = (kind: string, name: unknown, where: string) => wanted.push(`${kind}/${name} (${where})`);
  for (const { where, pod } of podsOf(objects)) {
    const { spec } = pod;
    want("ServiceAccount", spec.serviceAccountName ?? "default", where);
    for (const { name } of spec.imagePullSecrets ?? []) want("Secret", name, where);
    const volumes = new Set<string>();
    for (const volume of spec.volumes ?? []) {
      volumes.add(volume.name);
      if (volume.configMap !== undefined) want("ConfigMap", volume.configMap.name, where);
      if (volume.secret !== undefined) want("Secret", volume.secret.secretName, where);
      if (volume.persistentVolumeClaim !== undefined)
        want("PersistentVolumeClaim", volume.persistentVolumeClaim.claimName, where);
    }
    for (const container of spec.containers) {
      for (const { name } of container.volumeMounts ?? []) {
        if (!volumes.delete(name)) wanted.push(`volume/${name} (${where})`);
      }
      const ports = new Set((container.ports ?? []).map(({ name }: { name: string }) => name));
      for (const probe of ["startupProbe", "readinessProbe", "livenessProbe"]) {
        const port = container[probe]?.httpGet.port;
        if (port !== undefined && !ports.has(port)) wanted.push(`port/${port} (${where} ${probe})`);
      }
    }
    for (const name of volumes) wanted.push(`mount/${name} (${where})`);
  }
  for (const { kind, metadata, ...object } of objects) {
    const where = `${kind}/${metadata.name}`;
    if (object.roleRef !== undefined) want(object.roleRef.kind, object.roleRef.name, where);
    for (const subject of object.subjects ?? []) want(subject.kind, subject.name, where);
    if (kind === "HorizontalPodAutoscaler")
      want(object.spec.scaleTargetRef.kind, object.spec.scaleTargetRef.name, where);
    if (kind === "Certificate") want("Issuer", object.spec.issuerRef.name, where);
    if (kind === "Issuer" && object.spec.ca !== undefined) want("Secret", object.spec.ca.secretName, where);
    for (const { clientConfig } of object.webhooks ?? []) want("Service", clientConfig.service.name, where);
    if (kind === "Service") {
      const pods = podsOf(objects).filter(({ pod }) => selects(object.spec.selector, pod.metadata.labels));
      const ports = pods.flatMap(({ pod }) =>
        pod.spec.containers.flatMap((container: Rendered) => container.ports ?? []),
      );
      for (const { targetPort } of object.spec.ports) {
        if (!ports.some(({ name }: { name: string }) => name === targetPort))
          wanted.push(`port/${targetPort} (${where})`);
      }
    }
  }
  return wanted.filter((reference) => {
    const name = reference.split(" ")[0] as string;
    return !there.has(name) && !ELSEWHERE.includes(name);
  });
}

function selects(selector: Readonly<Record<string, string>>, labels: Readonly<Record<string, string>> = {}): boolean {
  return Object.entries(selector).every(([key, value]) => labels[key] === value);
}

function unselected(objects: readonly Rendered[]): readonly string[] {
  return objects.flatMap(({ kind, metadata, spec }) => {
    const selector = {
      Service: spec?.selector,
      Deployment: spec?.selector?.matchLabels,
      PodDisruptionBudget: spec?.selector?.matchLabels,
      NetworkPolicy: spec?.podSelector?.matchLabels,
    }[kind];
    if (selector === undefined) return [];
    const found = podsOf(objects).filter(({ pod }) => selects(selector, pod.metadata.labels));
    return found.length === 1 ? [] : [`${kind}/${metadata.name} selects ${found.length}`];
  });
}

function looseImages(objects: readonly Rendered[]): readonly string[] {
  const pods = podsOf(objects).flatMap(({ pod }) => pod.spec.containers.map(({ image }: { image: string }) => image));
  const injected = objects.flatMap(({ data }) => {
    const text: string = data?.["injector.yaml"] ?? "";
    return [...text.matchAll(/^ {2}(?:image|tag): (\S+)$/gm)].map(([, image]) => image as string);
  });
  return [...pods, ...injected].filter(
    (image) => image.includes("latest") || !/(?:^|:)v?\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$/.test(image),
  );
}

function unlabelled(objects: readonly Rendered[]): readonly string[] {
  return objects
    .filter(({ metadata }) => metadata.name !== "extra")
    .filter(({ metadata }) => metadata.labels?.["app.kubernetes.io/managed-by"] !== "Helm")
    .map(({ kind, metadata }) => `${kind}/${metadata.name}`);
}

/** What the Restricted Pod Security Standard (v1.34) forbids, and a root file system that can be written to. */
function unrestricted(objects: readonly Rendered[]): readonly string[] {
  const volumes = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
  ];
  return podsOf(objects).flatMap(({ where, pod }) => {
    const { spec } = pod;
    const found: string[] = [];
    const need = (met: boolean, what: string) => void (met || found.push(`${where}: ${what}`));
    need(spec.hostNetwork !== true, "hostNetwork");
    need(spec.hostPID !== true && spec.hostIPC !== true, "hostPID, hostIPC");
    need(spec.securityContext?.runAsNonRoot === true, "runAsNonRoot");
    need(spec.securityContext?.runAsUser !== 0, "runAsUser");
    need(spec.securityContext?.seccompProfile?.type === "RuntimeDefault", "seccompProfile");
    for (const volume of spec.volumes ?? []) {
      need(
        Object.keys(volume).every((key) => key === "name" || volumes.includes(key)),
        `volume ${volume.name}`,
      );
    }
    for (const { name, securityContext, ports } of [...spec.containers, ...(spec.initContainers ?? [])]) {
      need(securityContext?.allowPrivilegeEscalation === false, `${name} allowPrivilegeEscalation`);
      need(securityContext?.readOnlyRootFilesystem === true, `${name} readOnlyRootFilesystem`);
      need(securityContext?.privileged !== true, `${name} privileged`);
      need(JSON.stringify(securityContext?.capabilities) === '{"drop":["ALL"]}', `${name} capabilities`);
      need(
        (ports ?? []).every(({ hostPort }: { hostPort?: number }) => hostPort === undefined),
        `${name} hostPort`,
      );
    }
    return found;
  });
}

function unbounded(objects: readonly Rendered[]): readonly string[] {
  return podsOf(objects).flatMap(({ where, pod }) =>
    pod.spec.containers
      .filter(
        ({ resources }: Rendered) =>
          !(resources?.requests?.cpu && resources.requests.memory && resources.limits?.memory),
      )
      .map(({ name }: Rendered) => `${where} ${name}`),
  );
}

function rulesOf(objects: readonly Rendered[]): Readonly<Record<string, unknown>> {
  return Object.fromEntries(
    objects
      .filter(({ kind }) => kind === "ClusterRole" || kind === "Role")
      .map(({ metadata, rules }) => [metadata.name, rules]),
  );
}

for (const { overrides, asked } of [
  { overrides: null, asked: undefined },
  { overrides: ["inject", "mode"], asked: undefined },
  { overrides: ["mode"], asked: "false" },
  { overrides: [], asked: "false" },
]) {
  const may = asked === undefined ? "are not asked about" : "are asked about, to be refused";
  t.test(`with overrides ${JSON.stringify(overrides)} pods that opt out by label ${may}`, WITH_HELM, async (t) => {
    const objects = await render({ values: { injector: { overrides } } });
    const [webhook] = one(objects, "MutatingWebhookConfiguration").webhooks;
    const optOut = { key: "sallyport.dev/inject", operator: "NotIn", values: ["false"] };
    t.same(webhook.objectSelector?.matchExpressions ?? [], asked === undefined ? [optOut] : []);
    const config = one(objects, "ConfigMap", "sallyport-injector").data["injector.yaml"] as string;
    t.same(parseInjectorConfig(config, "injector.yaml").overrides, overrides ?? undefined);
  });
}

for (const name of ["123", "true", "null", "1e3", "on", "0x1f"]) {
  t.test(`a namespace may be called ${name}, and whatever else has a name`, WITH_KUBECONFORM, async (t) => {
    const values = {
      nameOverride: name,
      fullnameOverride: "sallyport",
      policy: { existingConfigMap: name },
      webhook: { priorityClassName: name, serviceAccount: { create: false, name } },
      control: {
        enabled: true,
        bundleKeys: { configMapRef: { name } },
        tokensSecretRef: { name },
        storage: { existingClaim: name },
        tls: { kind: "given", existingSecret: name },
      },
    };
    const text = await template({ values, namespace: name, release: name });
    t.ok(text.ok, text.err);
    const { ok, out } = await conform(text.out, FOREIGN);
    t.ok(ok, out);
    const config = one(objectsIn(text.out), "ConfigMap", "sallyport-injector").data["injector.yaml"] as string;
    t.match(parseInjectorConfig(config, "injector.yaml").policy, { kind: "configMap", name });
  });
}
