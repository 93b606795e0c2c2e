import t from "tap";
import { parse } from "yaml";
import { readValues, schemaText, staleChartFiles } from "../../scripts/chart.ts";
import { CONFIG_FIELDS, type Members } from "../../src/injector/fields.ts";
import { chartFile, one, type Rendered, render, template, WITH_HELM } from "./helm.ts";

type Schema = { readonly properties?: Readonly<Record<string, Schema>>; readonly additionalProperties?: unknown };

t.test("schema, README and dashboard are what their sources say", async (t) => {
  t.same(staleChartFiles(), []);
});

t.test("every default fits its own schema, and every value is described or plain", async (t) => {
  const values = readValues(chartFile("values.yaml"));
  t.ok(values.length > 150);
  const silent = values
    .filter(({ summary, path }) => summary === "" && path.length < 2)
    .map(({ path }) => path.join("."));
  t.same(silent, []);
});

t.test("everything that an InjectorConfig can say, a value can", async (t) => {
  const injector = parse(chartFile("values.yaml")).injector as Record<string, unknown>;
  const missing: string[] = [];
  const look = (members: Members, values: Record<string, unknown>, where: string) => {
    for (const [name, field] of Object.entries(members)) {
      if (where === "" && name === "policy") continue; // the chart's own `policy`
      if (!(name in values)) missing.push(`${where}${name}`);
      else if (field.kind === "group" && field.absent !== true) {
        look(field.members, values[name] as Record<string, unknown>, `${where}${name}.`);
      }
    }
  };
  look(CONFIG_FIELDS, injector, "");
  t.same(missing, []);
});

t.test("a key that nobody knows is refused at every level, by its place", WITH_HELM, async (t) => {
  const levels: string[][] = [];
  const walk = (schema: Schema, path: string[]) => {
    if (schema.additionalProperties === false) levels.push(path);
    for (const [key, inner] of Object.entries(schema.properties ?? {})) walk(inner, [...path, key]);
  };
  walk(JSON.parse(schemaText()) as Schema, []);
  t.ok(levels.length > 40, "there are many levels");
  const values: Rendered = {} as Rendered;
  for (const level of levels) {
    let place = values as unknown as Record<string, Record<string, unknown>>;
    for (const key of level) {
      place[key] ??= {};
      place = place[key] as Record<string, Record<string, unknown>>;
    }
    (place as Record<string, unknown>).surprise = 1;
  }
  const { ok, err } = await template({ values });
  t.notOk(ok);
  for (const level of levels) {
    const where = level.length === 0 ? "" : `/${level.join("/")}`;
    t.match(err, `at '${where}': additional properties 'surprise' not allowed`, where);
  }
});

const REFUSALS: readonly { readonly name: string; readonly values: object; readonly says: string }[] = [
  {
    name: "a number as a label",
    values: { commonLabels: { a: 1 } },
    says: "at '/commonLabels/a': got number, want string",
  },
  {
    name: "a text as a count",
    values: { webhook: { replicas: "two" } },
    says: "at '/webhook/replicas': got string, want integer",
  },
  { name: "no replica", values: { webhook: { replicas: 0 } }, says: "at '/webhook/replicas': minimum: got 0, want 1" },
  {
    name: "a mode that is none",
    values: { injector: { mode: "enforce" } },
    says: "at '/injector/mode': value must be one of 'policy', 'observe'",
  },
  {
    name: "a digest that is cut short",
    values: { image: { digest: "sha256:abc" } },
    says: "at '/image/digest': 'sha256:abc' does not match pattern",
  },
  {
    name: "a port beyond all ports",
    values: { webhook: { port: 70_000 } },
    says: "at '/webhook/port': maximum: got 70,000, want 65,535",
  },
  {
    name: "a setting that serve does not have",
    values: { injector: { settings: { "principal-max": 1 } } },
    says: "at '/injector/settings': additional properties 'principal-max' not allowed",
  },
  {
    name: "a setting that the injector makes",
    values: { injector: { settings: { mode: "observe" } } },
    says: "at '/injector/settings': additional properties 'mode' not allowed",
  },
  {
    name: "a setting that the chart writes",
    values: { control: { settings: { tokens: "/x" } } },
    says: "at '/control/settings': additional properties 'tokens' not allowed",
  },
  {
    name: "memory that is no quantity",
    values: { webhook: { resources: { limits: { memory: "lots" } } } },
    says: "at '/webhook/resources/limits/memory': 'lots' does not match pattern",
  },
  {
    name: "a failure policy in small letters",
    values: { webhook: { failurePolicy: "fail" } },
    says: "at '/webhook/failurePolicy': value must be one of 'Fail', 'Ignore'",
  },
  {
    name: "a control plane without TLS",
    values: { injector: { control: { address: "http://control:9292" } } },
    says: "at '/injector/control/address': 'http://control:9292' does not match pattern",
  },
  {
    name: "a certificate that is no PEM",
    values: { webhook: { certificate: { caBundle: "LS0t" } } },
    says: "at '/webhook/certificate/caBundle': 'LS0t' does not match pattern",
  },
  {
    name: "a grant without roles",
    values: { control: { grants: [{ spiffe: "spiffe://a/b" }] } },
    says: "at '/control/grants/0': missing property 'roles'",
  },
  {
    name: "two policies",
    values: { policy: { existingConfigMap: "a", control: true } },
    says: "policy: expected at most one source, got policy.existingConfigMap and policy.control",
  },
  {
    name: "a policy for nobody",
    values: { policy: { inline: "kind: Policy" } },
    says: "namespaces: expected the namespaces with injected pods, got none",
  },
  {
    name: "policy from nowhere",
    values: { policy: { control: true } },
    says: "policy.control: expected control.enabled, or injector.control.address",
  },
  {
    name: "signed policy without keys",
    values: { policy: { control: true }, injector: { control: { address: "https://c:9292" } } },
    says: "injector.control.bundleKeys: expected public keys",
  },
  {
    name: "a given certificate that is not given",
    values: { webhook: { certificate: { kind: "given" } } },
    says: "webhook.certificate.existingSecret: expected the name of a Secret",
  },
  {
    name: "renewal before the beginning",
    values: { webhook: { certificate: { validDays: 30, renewBeforeDays: 30 } } },
    says: "webhook.certificate.renewBeforeDays: expected less than validDays (30), got 30",
  },
  {
    name: "a budget that no drain can meet",
    values: { webhook: { podDisruptionBudget: { minAvailable: 2 } } },
    says: "webhook.podDisruptionBudget.minAvailable: expected less than webhook.replicas (2), got 2",
  },
  {
    name: "two budgets at once",
    values: { webhook: { podDisruptionBudget: { maxUnavailable: 1 } } },
    says: "webhook.podDisruptionBudget: expected one of minAvailable and maxUnavailable, got both",
  },
  {
    name: "a control plane that nobody may use",
    values: { control: { enabled: true, insecureUnsignedBundles: true } },
    says: "control.tokensSecretRef: expected a Secret with tokens",
  },
  {
    name: "a control plane that believes nobody",
    values: { control: { enabled: true } },
    says: "control.bundleKeys: expected public keys",
  },
  { name: "two replicas on one folder", values: control({ replicas: 2 }), says: "control.replicas: expected 1, got 2" },
  {
    name: "an autoscaler on one folder",
    values: control({ autoscaling: { enabled: true } }),
    says: "control.autoscaling.enabled: expected control.storage.kind nats",
  },
  {
    name: "NATS without servers",
    values: control({ storage: { kind: "nats" } }),
    says: "control.nats.servers: expected at least one",
  },
  {
    name: "grants without authorities",
    values: control({ grants: [{ spiffe: "spiffe://a/*", roles: ["viewer"] }] }),
    says: "control.tls.clientCaSecretRef: expected a Secret",
  },
  {
    name: "sidecars that nobody lets in",
    values: { ...control({}), policy: { control: true } },
    says: "control.grants: expected what sidecars may do",
  },
  {
    name: "tokens of service accounts without the API that knows them",
    values: {
      ...control({
        grants: [{ spiffe: "spiffe://cluster.local/ns/*/sa/*", roles: ["sidecar"] }],
        posture: { enabled: false },
      }),
      policy: { control: true },
    },
    says: "control.posture.enabled: expected true",
  },
  {
    name: "sidecars without TLS",
    values: { ...control({ tls: { kind: "insecurePlaintext" } }), policy: { control: true } },
    says: "control.tls.kind: expected TLS",
  },
  {
    name: "an image from nowhere",
    values: { image: { repository: "" } },
    says: "at '/image/repository': '' does not match pattern",
  },
  {
    name: "YAML for an image",
    values: { injector: { image: { repository: "evil: {x}" } } },
    says: "at '/injector/image/repository': 'evil: {x}' does not match pattern",
  },
  {
    name: "less processor than none",
    values: { webhook: { resources: { limits: { cpu: -1 } } } },
    says: "at '/webhook/resources/limits/cpu': minimum: got -1, want 0",
  },
  {
    name: "a name with dots, of which no Service can be made",
    values: { fullnameOverride: "a.b" },
    says: 'fullnameOverride: expected a name of letters, digits and dashes that begins with a letter, since Services are named by it; got "a.b"',
  },
  {
    name: "the webhook where its health is",
    values: { webhook: { port: 8282 } },
    says: "webhook.port: expected another port than 8282",
  },
  {
    name: "two ports of the sidecar in one place",
    values: { injector: { healthPort: 15_006 } },
    says: "injector.envoy.inboundPort: expected another port than injector.healthPort, got 15006",
  },
  {
    name: "an application in Envoy's place",
    values: { injector: { envoy: { appPort: 15_021 } } },
    says: "injector.envoy.appPort: expected another port than injector.envoy.healthPort, got 15021",
  },
  {
    name: "a certificate of one's own and one that Helm makes",
    values: { webhook: { certificate: { existingSecret: "mine" } } },
    says: 'webhook.certificate.existingSecret: expected none, since webhook.certificate.kind is selfSigned; got "mine"',
  },
  {
    name: "an issuer of what Helm makes",
    values: control({ tls: { issuerRef: { name: "ours" } } }),
    says: "control.tls.issuerRef: expected none, since control.tls.kind is selfSigned",
  },
  {
    name: "an authority beside that of cert-manager",
    values: { webhook: { certificate: { kind: "certManager", caBundle: "-----BEGIN CERTIFICATE-----\nMA==\n" } } },
    says: "webhook.certificate.caBundle: expected none, since webhook.certificate.kind is certManager",
  },
  {
    name: "a budget of all there are",
    values: { webhook: { podDisruptionBudget: { minAvailable: "100%" } } },
    says: 'webhook.podDisruptionBudget: expected room for one pod to go, got minAvailable "100%"',
  },
  {
    name: "a budget of none to spare",
    values: { control: { podDisruptionBudget: { maxUnavailable: 0 } } },
    says: "control.podDisruptionBudget: expected room for one pod to go, got minAvailable null and maxUnavailable 0",
  },
];

function control(values: object): object {
  return { control: { enabled: true, bundleKeys: { inline: "{}" }, tokensSecretRef: { name: "tokens" }, ...values } };
}

for (const { name, values, says } of REFUSALS) {
  t.test(`refused with its place and what was wanted: ${name}`, WITH_HELM, async (t) => {
    const { ok, err } = await template({ values });
    t.notOk(ok);
    t.ok(err.includes(says), err);
  });
}

t.test("numbers count the same from a file and from the command line", WITH_HELM, async (t) => {
  const { ok, err } = await template({ more: ["--set", "webhook.podDisruptionBudget.minAvailable=2"] });
  t.notOk(ok);
  t.match(err, "webhook.podDisruptionBudget.minAvailable: expected less than webhook.replicas (2), got 2");
  const large = { injector: { settings: { "policy-bytes-max": 200_000_000 } } };
  const [fromFile, fromLine] = await Promise.all([
    render({ values: large }),
    render({ more: ["--set", "injector.settings.policy-bytes-max=200000000"] }),
  ]);
  const configOf = (objects: readonly Rendered[]) =>
    one(objects, "ConfigMap", "sallyport-injector").data["injector.yaml"];
  t.match(configOf(fromFile), /^ {2}policy-bytes-max: 200000000$/m, "not 2e+08");
  t.equal(configOf(fromLine), configOf(fromFile));
});

t.test("`off` without quotes means off, as people write it", WITH_HELM, async (t) => {
  const objects = await render({ more: ["--set", "injector.decisionLog=false,injector.envoy.logLevel=false"] });
  const config = parse(objects.find(({ metadata }) => metadata.name.endsWith("-injector"))?.data["injector.yaml"]);
  t.equal(config.decisionLog, "off");
  t.equal(config.envoy.logLevel, "off");
});

t.test("values.yaml must say what its keys may be", async (t) => {
  const throws = (source: string, says: string) => t.throws(() => readValues(source), { message: says });
  throws("a: 1\n", "values.yaml:1: expected a line with @, since the default does not say what else it may be");
  throws("# @kind x\na: 1\n", "values.yaml:2: expected @type, @enum, @range or @pattern, got @kind");
  throws("# @type flavour\na: 1\n", "values.yaml:2: expected a type of scripts/chart.ts, got flavour");
  throws("# @type name\n# @range 1..2\na: 1\n", "values.yaml:3: expected one line with @, got 2");
  t.same(readValues("# --- Part\n\na:\n  # Said.\n  # @range 1..2\n  b: 1\n  c: x\n"), [
    {
      path: ["a", "b"],
      section: "Part",
      summary: "Said.",
      type: "1 to 2",
      fallback: 1,
      schema: { type: "integer", minimum: 1, maximum: 2 },
    },
    { path: ["a", "c"], section: "Part", summary: "", type: "text", fallback: "x", schema: { type: "string" } },
  ]);
});
