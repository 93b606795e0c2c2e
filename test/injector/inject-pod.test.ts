import fc from "fast-check";
import t from "tap";
import {
  type Injection,
  injectPod,
  type Json,
  type JsonObject,
  parseInjectorConfig,
  removeInjection,
} from "../../src/injector/injection.ts";
import { objectAt, objectsOf } from "../../src/injector/json.ts";
import { applyPatch } from "../../src/injector/patch.ts";

const HEAD = "apiVersion: sallyport.dev/v1\nkind: InjectorConfig\nimage: {repository: sallyport, tag: test}\n";
const configured = (more = "") => parseInjectorConfig(HEAD + more, "injector.yaml");
const CONFIG = configured();
const CONTEXT = { namespace: "shop", nativeSidecars: true };

const APP = { name: "app", image: "orders", ports: [{ name: "http", containerPort: 8080 }] };

function podOf(spec: JsonObject = {}, metadata: JsonObject = {}): JsonObject {
  return { metadata, spec: { containers: [APP], ...spec } };
}

const annotated = (annotations: JsonObject, spec: JsonObject = {}): JsonObject => podOf(spec, { annotations });

function injected(pod: JsonObject, config = CONFIG, context = CONTEXT): JsonObject {
  const injection = injectPod(pod, config, context);
  if (injection.kind !== "injected") throw new Error(injection.why);
  return applyPatch(pod, injection.patch);
}

const names = (pod: JsonObject, list: "initContainers" | "containers"): readonly unknown[] =>
  objectsOf(objectAt(pod, "spec")[list]).map(({ name }) => name);

interface Case {
  readonly name: string;
  readonly pod: JsonObject;
  readonly config?: string;
  readonly context?: { readonly namespace: string; readonly nativeSidecars: boolean };
  readonly why: RegExp;
}

const CLASSIC = { namespace: "shop", nativeSidecars: false };

/** As anybody could write it. */
const forged = (lists: JsonObject): JsonObject => {
  const empty = { initContainers: [], containers: [], volumes: [], imagePullSecrets: [], annotations: [], made: [] };
  return {
    "sallyport.dev/status": JSON.stringify({ version: 1, config: "0", annotationsWere: {}, ...empty, ...lists }),
  };
};

const REFUSED: readonly Case[] = [
  { name: "a pod on its node's network", pod: podOf({ hostNetwork: true }), why: /^hostNetwork: / },
  { name: "a pod among its node's processes", pod: podOf({ hostPID: true }), why: /^hostPID: / },
  { name: "a Windows pod", pod: podOf({ os: { name: "windows" } }), why: /Windows/ },
  { name: "a pod for Windows nodes", pod: podOf({ nodeSelector: { "kubernetes.io/os": "windows" } }), why: /Windows/ },
  {
    name: "a pod with a container of our name",
    pod: podOf({ containers: [APP, { name: "sallyport" }] }),
    why: /container named sallyport already/,
  },
  {
    name: "a pod with a volume of our name",
    pod: podOf({ volumes: [{ name: "sallyport-state" }] }),
    why: /volume named sallyport-state already/,
  },
  {
    name: "a pod that uses our health port",
    pod: podOf({ containers: [APP, { name: "b", ports: [{ containerPort: 8282 }] }] }),
    config: "envoy: {mode: none}",
    why: /^port 8282 is container b's, and healthPort of the injector/,
  },
  {
    name: "a pod whose init container uses Envoy's port",
    pod: podOf({ initContainers: [{ name: "i", restartPolicy: "Always", ports: [{ containerPort: 15006 }] }] }),
    why: /port 15006 is container i's/,
  },
  {
    name: "a pod whose application listens where Envoy would",
    pod: annotated({ "sallyport.dev/app-port": "15006" }),
    why: /port 15006 is the application's/,
  },
  {
    name: "Envoy beside Istio's proxy on its ports",
    pod: podOf({ containers: [APP, { name: "istio-proxy" }] }),
    why: /port 15006 is Istio's.*sallyport\.dev\/envoy: join/,
  },
  {
    name: "Envoy in a pod that Istio is going to inject",
    pod: podOf({}, { labels: { "sidecar.istio.io/inject": "true" } }),
    why: /port 15006 is Istio's/,
  },
  {
    name: "a pod that declares no port",
    pod: podOf({ containers: [{ name: "a" }] }),
    why: /declares no port.*app-port/,
  },
  {
    name: "a pod that declares several ports",
    pod: podOf({ containers: [APP, { name: "b", ports: [{ containerPort: 9090 }] }] }),
    why: /declares the ports 8080, 9090.*app-port/,
  },
  {
    name: "a job with a classic sidecar",
    pod: podOf({ restartPolicy: "Never" }),
    context: CLASSIC,
    why: /^restartPolicy Never: .*1\.29/,
  },
  {
    name: "a job whose sidecars are classic by its own word",
    pod: annotated({ "sallyport.dev/native-sidecar": "false" }, { restartPolicy: "OnFailure" }),
    why: /^restartPolicy OnFailure/,
  },
  {
    name: "a job whose sidecars are classic by the configuration",
    pod: podOf({ restartPolicy: "OnFailure" }),
    config: "nativeSidecars: never",
    why: /^restartPolicy OnFailure/,
  },
  {
    name: "a misspelt annotation",
    pod: annotated({ "sallyport.dev/mdoe": "observe" }),
    why: /sallyport\.dev\/mdoe is unknown; did you mean sallyport\.dev\/mode\?/,
  },
  {
    name: "an annotation with a wrong value",
    pod: annotated({ "sallyport.dev/mode": "of" }),
    why: /sallyport\.dev\/mode: expected policy or observe, got "of"/,
  },
  {
    name: "a port that is none",
    pod: annotated({ "sallyport.dev/app-port": "65536" }),
    why: /app-port: expected a port, 1 to 65535, got "65536"/,
  },
  {
    name: "several mistakes, all of them",
    pod: annotated({ "sallyport.dev/mode": "of", "sallyport.dev/memory-limit": "much" }),
    why: /sallyport\.dev\/mode: .*; annotation sallyport\.dev\/memory-limit: /,
  },
  {
    name: "an Envoy to join that is not there",
    pod: podOf(),
    config: "envoy: {mode: join, container: gateway}",
    why: /no container gateway .* only app$/,
  },
  {
    name: "Linkerd's proxy as an Envoy",
    pod: podOf({ containers: [APP, { name: "linkerd-proxy" }] }),
    config: "envoy: {mode: join, container: linkerd-proxy}",
    why: /no Envoy/,
  },
  {
    name: "mounts for Istio that cannot be read",
    pod: annotated({ "sidecar.istio.io/userVolumeMount": "[" }),
    config: "envoy: {mode: join}",
    why: /userVolumeMount: expected a JSON object or list/,
  },
  {
    name: "a port without a name whose name is to become Envoy's",
    pod: podOf({ containers: [{ name: "a", ports: [{ containerPort: 8080 }] }] }),
    config: "envoy: {redirect: ports}",
    why: /port 8080 has no name/,
  },
  {
    name: "a note of no containers, which would pass for an injected pod's",
    pod: annotated(forged({})),
    why: /sallyport\.dev\/status: expected what the injector wrote/,
  },
  {
    name: "a note that has the pod's own container pass for a sidecar",
    pod: annotated(forged({ containers: ["app"] })),
    why: /sallyport\.dev\/status: expected what the injector wrote/,
  },
  {
    name: "a note of our container and another",
    pod: annotated(forged({ containers: ["sallyport", "app"] }), { containers: [APP, { name: "sallyport" }] }),
    why: /sallyport\.dev\/status: expected what the injector wrote/,
  },
  {
    name: "a note of volumes that are not ours",
    pod: annotated(forged({ containers: ["sallyport"], volumes: ["data"] }), {
      containers: [APP, { name: "sallyport" }],
    }),
    why: /sallyport\.dev\/status: expected what the injector wrote/,
  },
  {
    name: "a port on which Envoy cannot listen",
    pod: annotated({ "sallyport.dev/inbound-port": "1023" }),
    why: /inbound-port: expected a port, 1024 to 65535, got "1023"/,
  },
  {
    name: "an annotation that is not left to pods",
    pod: annotated({ "sallyport.dev/mode": "observe", "sallyport.dev/app-port": "8080" }),
    config: "overrides: [app-port]",
    why: /^annotation sallyport\.dev\/mode: the injector's configuration does not leave that to pods \(overrides\)$/,
  },
  {
    name: "a pod that opts out by annotation where none may",
    pod: annotated({ "sallyport.dev/inject": "false" }),
    config: "overrides: []",
    why: /^its annotation sallyport\.dev\/inject is "false", which .* does not leave to pods \(overrides\)$/,
  },
  {
    name: "a pod that opts out by label where none may",
    pod: podOf({}, { labels: { "sallyport.dev/inject": "false" } }),
    config: "overrides: [mode]",
    why: /^its label sallyport\.dev\/inject is "false", which/,
  },
  {
    name: "a damaged note",
    pod: annotated({ "sallyport.dev/status": "{}" }),
    why: /sallyport\.dev\/status: expected what the injector wrote/,
  },
];

for (const { name, pod, config, context, why } of REFUSED) {
  t.test(`refuses ${name}`, async (t) => {
    const injection = injectPod(pod, configured(config), context ?? CONTEXT);
    t.match(injection, { kind: "refused", why });
  });
}

const UNCHANGED: readonly Case[] = [
  {
    name: "a pod that opted out by annotation",
    pod: annotated({ "sallyport.dev/inject": "false" }, { hostNetwork: true }),
    why: /annotation sallyport\.dev\/inject is "false"/,
  },
  {
    name: "a pod that opted out by label",
    pod: podOf({}, { labels: { "sallyport.dev/inject": "false" }, annotations: { "sallyport.dev/inject": "true" } }),
    why: /label sallyport\.dev\/inject is "false"/,
  },
  {
    name: "a pod that opted out as it may",
    pod: annotated({ "sallyport.dev/inject": "false" }),
    config: "overrides: [inject]",
    why: /inject is "false"/,
  },
  { name: "an injected pod", pod: injected(podOf()), why: /^it is injected$/ },
  {
    name: "a pod that another configuration injected",
    pod: injected(podOf()),
    config: "mode: observe",
    why: /by another configuration/,
  },
  {
    name: "an injected pod that opted out since",
    pod: injected(annotated({ "sallyport.dev/inject": "true" })),
    why: /./,
  },
  {
    name: "a job that nothing calls",
    pod: podOf({ restartPolicy: "Never", containers: [{ name: "migrate" }] }),
    why: /runs to its end and declares no port/,
  },
  {
    name: "a pod of the cluster's own namespace",
    pod: podOf(),
    context: { namespace: "kube-system", nativeSidecars: true },
    why: /kube-system/,
  },
  { name: "a static pod", pod: annotated({ "kubernetes.io/config.mirror": "x" }), why: /static pod/ },
  { name: "what is no pod", pod: { spec: { containers: "none" } }, why: /no containers/ },
];

for (const { name, pod, config, context, why } of UNCHANGED) {
  t.test(`leaves ${name} as it is`, async (t) => {
    t.match(injectPod(pod, configured(config), context ?? CONTEXT), { kind: "unchanged", why });
  });
}

t.test("what is left to pods they may choose, and the wish to be injected needs no leave", async (t) => {
  const pod = annotated({ "sallyport.dev/inject": "true", "sallyport.dev/inbound-port": "1024" });
  const port = objectsOf(objectAt(injected(pod, configured("overrides: [inbound-port]")), "spec").initContainers)[1]!
    .ports;
  t.match(port, [{ name: "sallyport-in", containerPort: 1_024 }, {}]);
});

t.test("native sidecars start before all else and end after it: they come first", async (t) => {
  const pod = injected(podOf({ initContainers: [{ name: "istio-init" }, { name: "setup" }] }));
  t.same(names(pod, "initContainers"), ["sallyport", "sallyport-envoy", "istio-init", "setup"]);
  t.same(names(pod, "containers"), ["app"]);
});

t.test("classic sidecars start before the application", async (t) => {
  const pod = injected(podOf(), CONFIG, CLASSIC);
  t.same(names(pod, "containers"), ["sallyport", "sallyport-envoy", "app"]);
  t.equal(objectAt(objectAt(pod, "metadata"), "annotations")["kubectl.kubernetes.io/default-container"], "app");
});

t.test("a pod can ask for native sidecars where the configuration says never", async (t) => {
  const pod = annotated({ "sallyport.dev/native-sidecar": "true" }, { restartPolicy: "Never" });
  t.same(names(injected(pod, configured("nativeSidecars: never"), CLASSIC), "containers"), ["app"]);
});

t.test("the application keeps the time to end that it had", async (t) => {
  const grace = (spec: JsonObject, config?: string): Json | undefined =>
    objectAt(injected(podOf(spec), configured(config)), "spec").terminationGracePeriodSeconds;
  t.equal(grace({}), 30 + 5 + 6);
  t.equal(grace({ terminationGracePeriodSeconds: 90 }, "envoy: {drainSeconds: 20}"), 90 + 20 + 6);
  t.equal(grace({ terminationGracePeriodSeconds: 0 }), 0, "at once stays at once");
  t.equal(grace({}, "envoy: {mode: none}"), undefined, "Sallyport alone ends within it");
});

t.test("resources are the configuration's with the pod's over them", async (t) => {
  const pod = injected(annotated({ "sallyport.dev/cpu-limit": "1", "sallyport.dev/memory-request": "200Mi" }));
  t.same(objectsOf(objectAt(pod, "spec").initContainers)[0]?.resources, {
    requests: { cpu: "50m", memory: "200Mi" },
    limits: { memory: "384Mi", cpu: "1" },
  });
});

t.test("with redirect: ports a Service that names the port finds Envoy, and kubelets the application", async (t) => {
  const container = {
    name: "app",
    ports: [
      { name: "http", containerPort: 8080, hostPort: 80 },
      { name: "admin", containerPort: 9000 },
    ],
    readinessProbe: { httpGet: { path: "/", port: "http" } },
    livenessProbe: { tcpSocket: { port: "admin" } },
    lifecycle: { preStop: { httpGet: { path: "/stop", port: "http" } } },
  };
  const given = annotated({ "sallyport.dev/app-port": "8080" }, { containers: [container] });
  const injection = injectPod(given, configured("envoy: {redirect: ports}"), CONTEXT);
  if (injection.kind !== "injected") throw new Error(injection.why);
  t.same(injection.warnings, [], "the node's port leads to Envoy as well");
  const pod = applyPatch(given, injection.patch);
  t.same(objectsOf(objectAt(pod, "spec").containers)[0], {
    name: "app",
    ports: [
      { name: "http", containerPort: 15_006, hostPort: 80 },
      { name: "admin", containerPort: 9000 },
    ],
    readinessProbe: { httpGet: { path: "/", port: 8080 } },
    livenessProbe: { tcpSocket: { port: "admin" } },
    lifecycle: { preStop: { httpGet: { path: "/stop", port: 8080 } } },
  });
  t.match(removeInjection(pod), { kind: "removed", pod: given });
});

t.test("a proxy that is injected later gets the socket at the second look, and once only", async (t) => {
  const join = configured("envoy: {mode: join}");
  const first = injected(podOf(), join);
  const spec = objectAt(first, "spec");
  const later = { ...first, spec: { ...spec, containers: [...objectsOf(spec.containers), { name: "istio-proxy" }] } };
  const second = injectPod(later, join, CONTEXT);
  if (second.kind !== "injected") throw new Error(second.why);
  const joined = applyPatch(later, second.patch);
  t.match(
    objectsOf(objectAt(joined, "spec").containers).find(({ name }) => name === "istio-proxy"),
    { volumeMounts: [{ name: "sallyport-sockets", mountPath: "/run/sallyport", readOnly: true }] },
  );
  t.match(injectPod(joined, join, CONTEXT), { kind: "unchanged" });
  const removal = removeInjection(joined);
  if (removal.kind !== "removed") throw new Error(removal.why);
  t.same(removal.pod, { metadata: {}, spec: { containers: [APP, { name: "istio-proxy" }] } });
});

const MOUNT = '"sallyport-sockets":{"mountPath":"/run/sallyport","readOnly":true}';
for (const { given, want } of [
  { given: undefined, want: `{${MOUNT}}` },
  { given: '{"ca":{"mountPath":"/ca"}}', want: `{"ca":{"mountPath":"/ca"},${MOUNT}}` },
  {
    given: '[{"name":"ca","mountPath":"/ca"}]',
    want: '[{"name":"ca","mountPath":"/ca"},{"name":"sallyport-sockets","mountPath":"/run/sallyport","readOnly":true}]',
  },
  { given: `{${MOUNT}}`, want: `{${MOUNT}}` },
]) {
  t.test(`Istio is told to mount the sockets beside ${given ?? "nothing"}`, async (t) => {
    const name = "sidecar.istio.io/userVolumeMount";
    const pod = injected(annotated(given === undefined ? {} : { [name]: given }), configured("envoy: {mode: join}"));
    t.equal(objectAt(objectAt(pod, "metadata"), "annotations")[name], want);
  });
}

t.test("a note without its containers, as copied from another pod, does not keep a pod unguarded", async (t) => {
  const { metadata } = injected(podOf());
  const pod = { metadata: metadata!, spec: { containers: [APP] } };
  const again = injected(pod);
  t.same(names(again, "initContainers"), ["sallyport", "sallyport-envoy"]);
  t.match(injectPod(again, CONFIG, CONTEXT), { kind: "unchanged" });
});

t.test("an injected pod that lost one of its containers is refused", async (t) => {
  const pod = injected(podOf());
  const spec = objectAt(pod, "spec");
  const torn = { ...pod, spec: { ...spec, initContainers: objectsOf(spec.initContainers).slice(1) } };
  t.match(injectPod(torn, CONFIG, CONTEXT), { kind: "refused", why: /some are missing/ });
});

t.test("removal leaves what others added since", async (t) => {
  const pod = injected(podOf());
  const spec = objectAt(pod, "spec");
  const volumes = [...objectsOf(spec.volumes), { name: "late", emptyDir: {} }];
  const removal = removeInjection({ ...pod, spec: { ...spec, volumes } });
  if (removal.kind !== "removed") throw new Error(removal.why);
  t.same(objectAt(removal.pod, "spec").volumes, [{ name: "late", emptyDir: {} }]);
});

t.test("removal says why it does nothing", async (t) => {
  t.match(removeInjection(podOf()), { kind: "unchanged", why: /not injected/ });
  t.match(removeInjection(annotated({ "sallyport.dev/status": "[" })), { kind: "refused" });
  t.match(removeInjection(annotated(forged({ containers: ["app"] }))), { kind: "refused" }, "nothing of the pod's own");
});

const CONFIGS = [
  "",
  "nativeSidecars: never",
  "envoy: {mode: none}\nstate: {kind: none}",
  "envoy: {mode: join}",
  "envoy: {mode: join, container: other}",
  "envoy: {redirect: ports}",
  "envoy: {tls: {secret: t}, drain: sleep}\nimagePullSecrets: [one, two]\npolicy: {secret: {}}",
  "policy: {control: true}\ncontrol: {address: 'https://c:9292', bundleKeys: keys, ca: '', tokenAudience: a}",
].map((more) => configured(more));

const port = fc.record(
  {
    containerPort: fc.constantFrom(8080, 9090),
    name: fc.constantFrom("http", "web"),
    protocol: fc.constantFrom("TCP", "UDP"),
  },
  { requiredKeys: ["containerPort"] },
);
const probe = fc.record({ httpGet: fc.record({ path: fc.constant("/"), port: fc.constantFrom("http", 8080) }) });
const mounts = fc.oneof(
  fc.constant(null),
  fc.array(fc.record({ name: fc.constant("data"), mountPath: fc.constant("/d") }), { maxLength: 1 }),
);
const containerOf = (name: string) =>
  fc.record(
    {
      name: fc.constant(name),
      image: fc.string(),
      ports: fc.array(port, { maxLength: 1 }),
      livenessProbe: probe,
      volumeMounts: mounts,
    },
    { requiredKeys: ["name"] },
  );
const annotations = fc.oneof(
  fc.constant(null),
  fc.dictionary(
    fc.constantFrom(
      "team",
      "kubectl.kubernetes.io/default-container",
      "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
      "traffic.sidecar.istio.io/excludeInboundPorts",
      "a/b~c",
    ),
    fc.constantFrom("data", "80", ""),
  ),
);
const anyPod: fc.Arbitrary<JsonObject> = fc.record(
  {
    metadata: fc.oneof(
      fc.constant(null),
      fc.record({ annotations, name: fc.constant("orders"), labels: fc.constant({ app: "a" }) }, { requiredKeys: [] }),
    ),
    spec: fc.record(
      {
        containers: fc.tuple(containerOf("app"), containerOf("other")),
        initContainers: fc.oneof(fc.constant(null), fc.array(containerOf("istio-proxy"), { maxLength: 1 })),
        volumes: fc.oneof(fc.constant(null), fc.array(fc.constant({ name: "data" }), { maxLength: 1 })),
        imagePullSecrets: fc.array(fc.constant({ name: "one" }), { maxLength: 1 }),
        terminationGracePeriodSeconds: fc.constantFrom(0, 10, 30),
        restartPolicy: fc.constantFrom("Always", "Never"),
        securityContext: fc.constant({ runAsUser: 1000, fsGroup: 2000 }),
      },
      { requiredKeys: ["containers"] },
    ),
  },
  { requiredKeys: ["spec"] },
) as fc.Arbitrary<JsonObject>;

t.test("for any pod: injected once it is left alone, and removal gives back exactly what there was", async (t) => {
  const counts: Record<Injection["kind"], number> = { injected: 0, unchanged: 0, refused: 0 };
  fc.assert(
    fc.property(anyPod, fc.constantFrom(...CONFIGS), fc.boolean(), (pod, config, nativeSidecars) => {
      const before = structuredClone(pod);
      const context = { namespace: "shop", nativeSidecars };
      const injection = injectPod(pod, config, context);
      t.same(pod, before) || fail("the pod that was given was changed");
      counts[injection.kind]++;
      if (injection.kind !== "injected") return;
      if (injection.patch.length === 0) fail("an empty patch");
      const once = applyPatch(pod, injection.patch);
      const again = injectPod(once, config, context);
      if (again.kind !== "unchanged") fail(`a second injection: ${JSON.stringify(again)}`);
      const removal = removeInjection(once);
      if (removal.kind !== "removed") fail("not removed");
      else if (JSON.stringify(sorted(removal.pod)) !== JSON.stringify(sorted(pod))) {
        fail(`removed: ${JSON.stringify(removal.pod)}`);
      }
    }),
    { numRuns: 1_000 },
  );
  t.ok(counts.injected > 200, JSON.stringify(counts));
});

const anything = fc.oneof(
  fc.jsonValue({ maxDepth: 2 }) as fc.Arbitrary<Json>,
  fc.constantFrom<Json>([null, 5, { name: 3 }], [{ name: "app", ports: "x", volumeMounts: [0] }], [APP, null], {}, []),
);

t.test("whatever a pod holds, it is answered, and what is done can be undone without a fault", async (t) => {
  const kinds = new Set<string>();
  const part = fc.dictionary(
    fc.constantFrom("annotations", "labels", "name", "namespace"),
    fc.oneof(anything, fc.dictionary(fc.constantFrom("sallyport.dev/inject", "sallyport.dev/status", "a"), anything)),
  );
  const spec = fc.dictionary(
    fc.constantFrom(
      ...["containers", "initContainers", "volumes", "imagePullSecrets", "terminationGracePeriodSeconds"],
      ...["restartPolicy", "os", "nodeSelector", "hostNetwork", "shareProcessNamespace"],
    ),
    anything,
  );
  const garbage = fc.record({ metadata: fc.oneof(part, anything), spec: fc.oneof(spec, anything) });
  fc.assert(
    fc.property(
      garbage as fc.Arbitrary<JsonObject>,
      fc.constantFrom(...CONFIGS),
      fc.boolean(),
      (pod, config, native) => {
        const injection = injectPod(pod, config, { namespace: "shop", nativeSidecars: native });
        kinds.add(injection.kind);
        removeInjection(injection.kind === "injected" ? applyPatch(pod, injection.patch) : pod);
      },
    ),
    { numRuns: 2_000 },
  );
  t.same([...kinds].sort(), ["injected", "refused", "unchanged"]);
});

function fail(message: string): never {
  throw new Error(message);
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, member]) => [name, sorted(member)]),
  );
}
