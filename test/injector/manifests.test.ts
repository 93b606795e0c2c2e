import fc from "fast-check";
import t from "tap";
import { parse, stringify } from "yaml";
import { injectPod, type JsonObject, parseInjectorConfig, removeInjection } from "../../src/injector/injection.ts";
import { KUBERNETES_YAML } from "../../src/injector/kubernetes-yaml.ts";
import { type Changed, type ChangePod, changeManifests } from "../../src/injector/manifests.ts";
import { applyPatch } from "../../src/injector/patch.ts";

const CONFIG = parseInjectorConfig(
  "apiVersion: sallyport.dev/v1\nkind: InjectorConfig\nimage: {repository: sallyport, tag: test}\n",
  "injector.yaml",
);
const inject: ChangePod = (pod, namespace) => {
  const injection = injectPod(pod, CONFIG, { namespace, nativeSidecars: true });
  if (injection.kind !== "injected") return injection;
  return { kind: "changed", pod: applyPatch(pod, injection.patch), warnings: injection.warnings };
};
const uninject: ChangePod = (pod) => {
  const removal = removeInjection(pod);
  return removal.kind === "removed" ? { kind: "changed", pod: removal.pod, warnings: [] } : removal;
};
/** Changes one value, to see what becomes of everything else. */
const rename: ChangePod = (pod) => ({
  kind: "changed",
  pod: { ...pod, spec: { ...(pod.spec as JsonObject), nodeName: "worker" } },
  warnings: [],
});

function textOf(changed: Changed): string {
  if (!changed.ok) throw new Error(changed.problems.join("\n"));
  return changed.text;
}

const MANIFESTS = `# Orders.
apiVersion: v1
kind: Service
metadata: {name:   orders}   # odd spaces stay
spec: {ports: [{port: 80}]}
---
# Source: shop/templates/orders.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: orders
  labels: {app: 'orders'} # quoted so
spec:
  selector: {matchLabels: {app: orders}}
  template:
    metadata:
      labels: {app: orders}
    spec:
      containers:
      # The application.
      - name: app # its name
        image: "shop/orders:1"
        args:
        - |
          two
          lines
        ports:
        - containerPort: 8080

---
kind: ConfigMap
apiVersion: v1
`;

t.test("documents keep their order, and what is not changed keeps every character", async (t) => {
  const changed = changeManifests(MANIFESTS, "orders.yaml", inject);
  const parts = textOf(changed).split("---\n");
  const before = MANIFESTS.split("---\n");
  t.equal(parts.length, 3);
  t.equal(parts[0], before[0]);
  t.equal(parts[2], before[2]);
  t.match(changed, {
    told: [
      { object: "Service orders", kind: "unchanged", why: "it describes no pod" },
      { object: "Deployment orders", kind: "changed", why: "" },
      { object: "ConfigMap", kind: "unchanged" },
    ],
  });
});

t.test("comments, quotes and form stay in what is changed", async (t) => {
  const text = textOf(changeManifests(MANIFESTS, "orders.yaml", inject));
  for (const line of MANIFESTS.split("\n")) t.ok(text.includes(line), line);
});

t.test("what is injected and taken out again is the text as it was", async (t) => {
  const injected = textOf(changeManifests(MANIFESTS, "orders.yaml", inject));
  t.equal(
    textOf(changeManifests(injected, "orders.yaml", uninject)).replace(/\n\n---/, "\n---"),
    MANIFESTS.replace(/\n\n---/, "\n---"),
  );
});

t.test("a second injection changes no character", async (t) => {
  const once = textOf(changeManifests(MANIFESTS, "orders.yaml", inject));
  t.equal(textOf(changeManifests(once, "orders.yaml", inject)), once);
});

const FORMS = [
  { name: "lists that are not indented", text: "spec:\n  containers:\n  - name: a\n    args:\n    - x\n" },
  { name: "lists that are indented", text: "spec:\n  containers:\n    - name: a\n      args:\n        - x\n" },
  { name: "braces with spaces", text: "metadata: { name: a }\nspec: { containers: [ { name: a } ] }\n" },
  { name: "braces without", text: "metadata: {name: a}\nspec: {containers: [{name: a}]}\n" },
  { name: "long lines", text: `spec:\n  containers:\n  - name: a\n    args: ["${"word ".repeat(60)}"]\n` },
];
for (const { name, text } of FORMS) {
  t.test(`${name} stay so`, async (t) => {
    const head = "apiVersion: v1\nkind: Pod\n";
    const changed = textOf(changeManifests(head + text, "pod.yaml", rename));
    for (const line of text.split("\n").filter((one) => !one.startsWith("spec: {"))) t.ok(changed.includes(line), line);
    t.match(changed, /nodeName: worker/);
  });
}

t.test("aliases are followed, and nothing but the pod changes", async (t) => {
  const text = `apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: &meta {name: a, annotations: {}}, spec: &spec {containers: [{name: a, ports: [{containerPort: 80}]}]}}
- {apiVersion: v1, kind: PodTemplate, metadata: *meta, template: {spec: *spec}}
`;
  const before = parse(text) as { items: JsonObject[] };
  const after = parse(textOf(changeManifests(text, "list.yaml", inject))) as { items: JsonObject[] };
  t.same(after.items[1], before.items[1], "an alias of what was changed stays what it was");
  t.match(after.items[0], { spec: { initContainers: [{ name: "sallyport" }, { name: "sallyport-envoy" }] } });
});

t.test("JSON stays JSON, as wide as it was", async (t) => {
  const pod = { apiVersion: "v1", kind: "Pod", metadata: { name: "a" }, spec: { containers: [] } };
  const wide = textOf(changeManifests(JSON.stringify(pod, undefined, 4), "pod.json", rename));
  t.equal(wide, `${JSON.stringify({ ...pod, spec: { containers: [], nodeName: "worker" } }, undefined, 4)}\n`);
  t.notMatch(textOf(changeManifests(JSON.stringify(pod), "pod.json", rename)).trimEnd(), /\n/);
});

t.test("lists are looked through, and kinds of other groups are not ours", async (t) => {
  const pod = { spec: { containers: [{ name: "a", ports: [{ containerPort: 80 }] }] } };
  const text = stringify({
    apiVersion: "v1",
    kind: "List",
    items: [
      { apiVersion: "example.com/v1", kind: "Deployment", metadata: { name: "theirs" }, spec: { template: pod } },
      {
        apiVersion: "apps/v1",
        kind: "DeploymentList",
        items: [
          {
            apiVersion: "apps/v1",
            kind: "Deployment",
            metadata: { generateName: "ours-", namespace: "shop" },
            spec: { template: pod },
          },
        ],
      },
    ],
  });
  t.match(changeManifests(text, "list.yaml", inject), {
    told: [
      { object: "Deployment theirs", kind: "unchanged" },
      { object: "Deployment shop/ours-", kind: "changed" },
    ],
  });
});

const UNREADABLE = [
  { name: "a bracket that is not closed", text: "a: 1\n---\nb: [1\n", at: "m.yaml:4:1" },
  { name: "an alias of nothing", text: "a: 1\n---\nb: *x\n", at: "m.yaml:2:1" },
  {
    name: "aliases for billions of values",
    text: `a: &a [x,x,x,x,x,x,x,x,x]\n${"bcdefghi".replace(
      /./g,
      (c) =>
        `${c}: &${c} [${Array(9)
          .fill(`*${String.fromCharCode(c.charCodeAt(0) - 1)}`)
          .join()}]\n`,
    )}`,
    at: "m.yaml:1:1",
  },
];
for (const { name, text, at } of UNREADABLE) {
  t.test(`${name} is told with its place, and nothing is written`, async (t) => {
    const changed = changeManifests(text, "m.yaml", inject);
    t.notOk(changed.ok);
    t.ok(!changed.ok && changed.problems[0]?.startsWith(at), JSON.stringify(changed));
  });
}

t.test("texts without objects stay as they are", async (t) => {
  for (const text of ["", "\n", "# only a comment\n", "---\n", "---\n---\n", "42\n", "[]\n"]) {
    t.equal(textOf(changeManifests(text, "m.yaml", inject)), text);
  }
});

t.test("whatever the pod, the written text means what the change means", async (t) => {
  const value = fc.letrec((tie) => ({
    any: fc.oneof(
      { maxDepth: 3 },
      fc.string(),
      fc.integer(),
      fc.boolean(),
      fc.constant(null),
      fc.array(tie("any"), { maxLength: 3 }),
      fc.dictionary(fc.string({ minLength: 1 }), tie("any"), { maxKeys: 3 }),
    ),
  })).any;
  fc.assert(
    fc.property(fc.dictionary(fc.string({ minLength: 1 }), value, { maxKeys: 4 }), fc.boolean(), (spec, flow) => {
      const pod = { apiVersion: "v1", kind: "Pod", spec: { ...spec, containers: [] } };
      const text = stringify(pod, { ...KUBERNETES_YAML, collectionStyle: flow ? "flow" : "block" });
      const after = parse(textOf(changeManifests(text, "m.yaml", rename)), KUBERNETES_YAML) as JsonObject;
      t.same(after, { ...pod, spec: { ...pod.spec, nodeName: "worker" } }) || fail(text);
    }),
    { numRuns: 300 },
  );
});

function fail(text: string): never {
  throw new Error(text);
}

const OLD_YAML = `apiVersion: v1
kind: Pod
metadata:
  name: orders
spec:
  hostIPC: no
  containers:
  - name: app
    image: shop/orders:1
    ports: [{containerPort: 8080}]
    args: ["yes", "0644", "12:30"]
  volumes:
  - name: keys
    secret: {secretName: keys, defaultMode: 0400}
`;

t.test("the octal mode of a volume stays what it was to Kubernetes", async (t) => {
  const injected = textOf(changeManifests(OLD_YAML, "pod.yaml", inject));
  t.match(injected, "defaultMode: 0400}");
  t.match(injected, 'args: ["yes", "0644", "12:30"]');
  t.equal(textOf(changeManifests(injected, "pod.yaml", uninject)), OLD_YAML);
});

t.test("so it does where aliases have the document written anew", async (t) => {
  const labels = '  labels: &l {a: "no"}\n  annotations: *l\n';
  const text = OLD_YAML.replace("spec:\n", `${labels}spec:\n`);
  const once = parse(text, KUBERNETES_YAML) as JsonObject;
  const again = parse(textOf(changeManifests(text, "pod.yaml", inject)), KUBERNETES_YAML) as JsonObject;
  const spec = again.spec as JsonObject;
  t.same((spec.volumes as readonly JsonObject[])[0], {
    name: "keys",
    secret: { secretName: "keys", defaultMode: 0o400 },
  });
  t.same(spec.containers, (once.spec as JsonObject).containers);
  t.equal(spec.hostIPC, false);
  t.same((again.metadata as JsonObject).labels, { a: "no" }, "what was one with the annotations has none of ours");
});

t.test("a pod that is merged from an anchor is a pod", async (t) => {
  const text =
    "x: &spec\n  containers: [{name: a, ports: [{containerPort: 80}]}]\napiVersion: v1\nkind: Pod\nspec:\n  <<: *spec\n";
  const changed = changeManifests(text, "pod.yaml", inject);
  t.match(changed, { ok: true, told: [{ kind: "changed" }] });
  const { spec } = parse(textOf(changed), { merge: true }) as { readonly spec: JsonObject };
  t.match(spec, { containers: [{ name: "a" }], initContainers: [{ name: "sallyport" }, { name: "sallyport-envoy" }] });
});

t.test("lines that end as on Windows go on doing so", async (t) => {
  const text = OLD_YAML.replaceAll("\n", "\r\n");
  const injected = textOf(changeManifests(text, "pod.yaml", inject));
  t.notMatch(injected, /[^\r]\n/);
  t.equal(textOf(changeManifests(injected, "pod.yaml", uninject)), text);
});

const DEPTH = 20_000;
const DEEP = `${"[".repeat(DEPTH)}${"]".repeat(DEPTH)}`;
for (const { name, text } of [
  { name: "JSON", text: `{"apiVersion":"v1","kind":"Pod","x":${DEEP},"spec":{"containers":[{"name":"a"}]}}` },
  { name: "YAML", text: `${"[".repeat(300)}${"]".repeat(300)} # no JSON\n` },
  {
    name: "an alias within its own anchor",
    text: "apiVersion: v1\nkind: Pod\nspec: &a\n  containers: [{name: a}]\n  x: *a\n",
  },
]) {
  t.test(`what is nested without end is refused: ${name}`, async (t) => {
    t.match(changeManifests(text, "deep", inject), {
      ok: false,
      problems: [/^deep.*: expected at most 256 levels .*, got more$/],
    });
  });
}

t.test("as deep as allowed is not too deep", async (t) => {
  t.match(changeManifests(`${"[".repeat(256)}${"]".repeat(256)}`, "deep", inject), { ok: true });
  t.match(changeManifests(`${"[".repeat(257)}${"]".repeat(257)}`, "deep", inject), { ok: false });
});

for (const { name, text, why } of [
  {
    name: "a Rollout",
    text: "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nspec:\n  template: {spec: {containers: [{}]}}\n",
    why: /seems to describe pods/,
  },
  {
    name: "a PodTemplate",
    text: "apiVersion: v1\nkind: PodTemplate\ntemplate: {spec: {containers: [{}]}}\n",
    why: /seems to describe pods/,
  },
  {
    name: "a Deployment of another group",
    text: "apiVersion: a.example/v1\nkind: Deployment\nspec:\n  template: {spec: {containers: []}}\n",
    why: /seems to describe pods/,
  },
  {
    name: "a Certificate",
    text: "apiVersion: c.example/v1\nkind: Certificate\nspec: {template: {metadata: {}}}\n",
    why: /^it describes no pod$/,
  },
]) {
  t.test(`${name} stays as it is, with the reason`, async (t) => {
    t.match(changeManifests(text, "x.yaml", inject), { ok: true, text, told: [{ kind: "unchanged", why }] });
  });
}

t.test("of many problems the first ones are told", async (t) => {
  const changed = changeManifests("a: b: c\n".repeat(100), "many.yaml", inject);
  t.match(changed, { ok: false });
  if (changed.ok) return;
  t.equal(changed.problems.length, 21);
  t.match(changed.problems.at(-1), /^and \d+ more$/);
});
