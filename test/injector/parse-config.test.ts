import t from "tap";
import { CONFIG_FIELDS, type Members } from "../../src/injector/fields.ts";
import { parseInjectorConfig } from "../../src/injector/injection.ts";

const HEAD = "apiVersion: sallyport.dev/v1\nkind: InjectorConfig\n";
const IMAGE = 'image: {repository: r.example/sallyport, tag: "1.10"}\n';

function problemsOf(text: string): readonly string[] {
  try {
    parseInjectorConfig(text, "injector.yaml");
    return [];
  } catch (error) {
    if ((error as { code?: string }).code !== "ERR_CONFIG_INVALID") throw error;
    return (error as Error).message.split("\n");
  }
}

t.test("an image is all that is needed", async (t) => {
  t.match(parseInjectorConfig(HEAD + IMAGE, "injector.yaml"), {
    image: { repository: "r.example/sallyport", tag: "1.10", digest: "", pullPolicy: "IfNotPresent" },
    imagePullSecrets: [],
    nativeSidecars: "auto",
    resources: { requests: { cpu: "50m", memory: "128Mi" }, limits: { memory: "384Mi" } },
    runAsUser: 65_532,
    healthPort: 8282,
    mode: "policy",
    policy: { kind: "shipped" },
    state: { kind: "emptyDir", sizeLimit: "64Mi" },
    envoy: {
      mode: "sidecar",
      container: "istio-proxy",
      inboundPort: 15_006,
      adminPort: 15_000,
      failureMode: "deny",
      tls: undefined,
    },
  });
});

const SOURCES = [
  { text: "policy: {shipped: true}", want: { kind: "shipped" } },
  { text: "policy: {configMap: {}}", want: { kind: "configMap", name: "sallyport-policy", key: "policy.yaml" } },
  { text: "policy: {secret: {name: s, key: k}}", want: { kind: "secret", name: "s", key: "k" } },
  { text: "policy: {control: true}\ncontrol: {address: 'https://c:9292', bundleKeys: k}", want: { kind: "control" } },
];
for (const { text, want } of SOURCES) {
  t.test(`${text} is policy from ${want.kind}`, async (t) => {
    t.same(parseInjectorConfig(HEAD + IMAGE + text, "injector.yaml").policy, want);
  });
}

t.test("what is left to pods is a list of annotations, and all of them unless it is there", async (t) => {
  const overrides = (more: string) => parseInjectorConfig(HEAD + IMAGE + more, "injector.yaml").overrides;
  t.equal(overrides(""), undefined);
  t.same(overrides("overrides: []"), []);
  t.same(overrides("overrides: [inject, app-port]"), ["inject", "app-port"]);
  t.match(problemsOf(`${HEAD}${IMAGE}overrides: [mod]\n`), [
    /^injector\.yaml:4:13 overrides\[0\]: .*did you mean "mode"\?/,
  ]);
  t.match(problemsOf(`${HEAD}${IMAGE}overrides: all\n`), [/^injector\.yaml:4:12 overrides: expected a list, got/]);
});

t.test("JSON is taken as well", async (t) => {
  const text = '{"apiVersion": "sallyport.dev/v1", "kind": "InjectorConfig", "image": {"repository": "r", "tag": "t"}}';
  t.same(problemsOf(text), []);
});

t.test("the hash is that of what is meant, not of how it is written", async (t) => {
  const hash = (more: string): string => parseInjectorConfig(HEAD + IMAGE + more, "injector.yaml").hash;
  t.match(hash(""), /^[0-9a-f]{16}$/);
  t.equal(hash("envoy: {adminPort: 1, concurrency: 2}"), hash("# comment\nenvoy:\n  concurrency: 2\n  adminPort: 1\n"));
  t.equal(hash("healthPort: 8282"), hash(""), "the default, said or not");
  t.not(hash("healthPort: 8283"), hash(""));
});

t.test("the user 0 leaves the choice to the cluster", async (t) => {
  t.equal(parseInjectorConfig(`${HEAD}${IMAGE}runAsUser: 0`, "injector.yaml").runAsUser, undefined);
});

const WRONG = [
  { name: "an empty file", text: "", want: ["injector.yaml:1:1: expected a mapping, got an empty file"] },
  { name: "a list", text: "[]", want: ["injector.yaml:1:1: expected a mapping, got a list"] },
  {
    name: "no image",
    text: HEAD,
    want: ["injector.yaml:1:1 image.repository: expected the name of a container image, got nothing"],
  },
  {
    name: "an image without tag and digest",
    text: `${HEAD}image: {repository: r}\n`,
    want: ["injector.yaml:3:8 image: expected a tag or a digest, got neither"],
  },
  {
    name: "another kind",
    text: `apiVersion: sallyport.dev/v1\nkind: Policy\n${IMAGE}`,
    want: ['injector.yaml:2:7 kind: expected InjectorConfig, got "Policy"'],
  },
  {
    name: "a misspelt key, with a guess",
    text: `${HEAD}${IMAGE}envoy:\n  inbuondPort: 1\n`,
    want: ['injector.yaml:5:3 envoy.inbuondPort: expected a known key, got "inbuondPort"; did you mean "inboundPort"?'],
  },
  {
    name: "a misspelt choice, with a guess",
    text: `${HEAD}${IMAGE}mode: obsrve\n`,
    want: ['injector.yaml:4:7 mode: expected one of policy, observe, got "obsrve"; did you mean "observe"?'],
  },
  {
    name: "a port beyond the last",
    text: `${HEAD}${IMAGE}healthPort: 65536\n`,
    want: ["injector.yaml:4:13 healthPort: expected a whole number from 1 to 65535, got 65536"],
  },
  {
    name: "a privileged port for Envoy, which is not root",
    text: `${HEAD}${IMAGE}envoy: {inboundPort: 443}\n`,
    want: ["injector.yaml:4:22 envoy.inboundPort: expected a whole number from 1024 to 65535, got 443"],
  },
  {
    name: "one port twice",
    text: `${HEAD}${IMAGE}envoy: {adminPort: 8282}\n`,
    want: ["injector.yaml:4:20 envoy.adminPort: expected another port than healthPort, got 8282"],
  },
  {
    name: "two sources of policy",
    text: `${HEAD}${IMAGE}policy: {configMap: {}, shipped: true}\n`,
    want: ["injector.yaml:4:9 policy: expected exactly one source, got shipped and configMap"],
  },
  {
    name: "a control plane without address and keys",
    text: `${HEAD}${IMAGE}policy: {control: true}\n`,
    want: [
      "injector.yaml:1:1 control.address: expected https://HOST:9292, since policy is control, got nothing",
      "injector.yaml:1:1 control.bundleKeys: expected the public keys, since only signed policy is believed, got nothing",
    ],
  },
  {
    name: "certificates twice",
    text: `${HEAD}${IMAGE}control: {ca: "-----BEGIN CERTIFICATE-----\\n", caConfigMap: ca}\n`,
    want: ["injector.yaml:4:61 control.caConfigMap: expected either ca or caConfigMap, got both"],
  },
  {
    name: "a quantity that is none",
    text: `${HEAD}${IMAGE}resources: {limits: {memory: 256MB}}\n`,
    want: [
      'injector.yaml:4:30 resources.limits.memory: expected a Kubernetes quantity such as 50m or 128Mi, got "256MB"',
    ],
  },
  {
    name: "a setting that serve does not know",
    text: `${HEAD}${IMAGE}settings: {principal-max: 1}\n`,
    want: [
      'injector.yaml:4:12 settings.principal-max: expected a setting of `sallyport serve`, got "principal-max"; did you mean "principals-max"?',
    ],
  },
  {
    name: "a setting that serve would refuse",
    text: `${HEAD}${IMAGE}settings: {principals-max: 1}\n`,
    want: ['injector.yaml:4:28 settings.principals-max: expected a whole number from 10 to 1000000, got "1"'],
  },
  {
    name: "a setting that has a key of its own",
    text: `${HEAD}${IMAGE}settings: {mode: observe}\n`,
    want: ['injector.yaml:4:12 settings.mode: expected no setting that the injector makes (use mode), got "mode"'],
  },
  {
    name: "labels that are not of the form",
    text: `${HEAD}${IMAGE}settings: {labels: "id=x"}\n`,
    want: [/^injector\.yaml:4:20 settings\.labels: expected KEY=VALUE/],
  },
  {
    name: "settings that do not go together",
    text: `${HEAD}${IMAGE}settings: {shadow: "https://p.example/b"}\n`,
    want: [/^injector\.yaml:4:20 settings\.shadow: .*needs bundle-keys/],
  },
  {
    name: "a variable that serve does not know",
    text: `${HEAD}${IMAGE}extraEnv: [{name: SALLYPORT_MOD, value: x}]\n`,
    want: [/^injector\.yaml:4:19 extraEnv\[0\]\.name: .*SALLYPORT_MODE/],
  },
  {
    name: "variables that are no texts, ours, or said twice",
    text: `${HEAD}${IMAGE}extraEnv: [{name: A, value: 1}, {name: POD_NAME, value: x}, {name: A}, {name: B, value: b, valueFrom: {}}]\n`,
    want: [
      "injector.yaml:4:29 extraEnv[0].value: expected a text (in quotes), got a number",
      'injector.yaml:4:40 extraEnv[1].name: expected no variable that the injector sets, got "POD_NAME"',
      'injector.yaml:4:68 extraEnv[2].name: expected each variable once, got a second "A"',
      "injector.yaml:4:72 extraEnv[3]: expected either value or valueFrom, got both",
    ],
  },
  {
    name: "a key twice",
    text: `${HEAD}${IMAGE}mode: policy\nmode: observe\n`,
    want: ['injector.yaml:5:1 mode: expected each key once, got a second "mode"'],
  },
  {
    name: "TLS without a Secret",
    text: `${HEAD}${IMAGE}envoy: {tls: {}}\n`,
    want: ["injector.yaml:4:14 envoy.tls.secret: expected the name of a Kubernetes object, got nothing"],
  },
];
for (const { name, text, want } of WRONG) {
  t.test(`refuses ${name}`, async (t) => {
    const problems = problemsOf(text);
    t.equal(problems.length, want.length, problems.join("\n"));
    for (const [index, one] of want.entries()) t.match(problems[index], one);
  });
}

t.test("everything wrong is told at once, in the order of the file", async (t) => {
  const text = `${HEAD}${IMAGE}mode: x\nhealthPort: y\nenvoy:\n  drain: z\n  colour: red\n`;
  t.same(
    problemsOf(text).map((line) => line.split(" ").slice(0, 2).join(" ")),
    [
      "injector.yaml:4:7 mode:",
      "injector.yaml:5:13 healthPort:",
      "injector.yaml:7:10 envoy.drain:",
      "injector.yaml:8:3 envoy.colour:",
    ],
  );
});

t.test("values of variables are not repeated in messages", async (t) => {
  const problems = problemsOf(`${HEAD}${IMAGE}extraEnv: [{name: "1 2", value: hunter2}, {nam: hunter2}]\n`);
  t.ok(problems.length >= 2);
  t.notMatch(problems.join("\n"), /hunter2/);
});

t.test("every key says what it is for, in a sentence", async (t) => {
  const dumb = (members: Members, path: string): readonly string[] =>
    Object.entries(members).flatMap(([name, field]) => [
      ...(/^[`A-Z].*\.$/.test(field.summary) ? [] : [`${path}${name}`]),
      ...(field.kind === "group" ? dumb(field.members, `${path}${name}.`) : []),
    ]);
  t.same(dumb(CONFIG_FIELDS, ""), []);
});
