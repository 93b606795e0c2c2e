import t from "tap";
import { parseDuration, readConfig } from "../../src/server/config.ts";
import { readConfigFile } from "../../src/server/config-file.ts";
import { environmentName, SETTINGS } from "../../src/server/settings.ts";

interface Given {
  readonly flags?: Record<string, string>;
  readonly environment?: Record<string, string>;
  readonly file?: string;
}

function read({ flags = {}, environment = {}, file }: Given) {
  return readConfig({
    flags,
    environment,
    file: file === undefined ? undefined : readConfigFile({ name: "c.yaml", text: file }),
  });
}

function config(given: Given) {
  const result = read(given);
  if (!result.ok) throw new Error(result.problems.join("\n"));
  return result.config;
}

function problems(given: Given): readonly string[] {
  const result = read(given);
  return result.ok ? [] : result.problems;
}

t.test("without anything the defaults count: loopback, and no state", async (t) => {
  t.same(config({}), {
    policy: undefined,
    shadow: undefined,
    bundleKeys: undefined,
    bundleName: undefined,
    policyPollMs: 60_000,
    policyTokenFile: undefined,
    policyCaFile: undefined,
    policyBytesMax: 268_435_456,
    policyWaitMs: 10_000,
    policyMissing: "fail",
    policyStaleAfterMs: undefined,
    policyOnStale: "keep",
    policyOnExpiry: "keep",
    control: undefined,
    locksOnStale: "best_effort",
    locksStaleAfterMs: 60_000,
    sidecarId: undefined,
    labels: {},
    mode: "policy",
    extAuthzAddress: "127.0.0.1:9191",
    extAuthzTransport: "auto",
    overloadDelayMs: 20,
    onOverload: "standing",
    streamsAddress: "127.0.0.1:9192",
    apiAddress: "127.0.0.1:8181",
    apiSocket: undefined,
    apiTokenFile: undefined,
    healthAddress: "0.0.0.0:8282",
    stateDir: undefined,
    prior: undefined,
    snapshotIntervalMs: 60_000,
    principalsMax: 10_000,
    sessionsMax: 20_000,
    decisionLog: undefined,
    recording: undefined,
    shadowShare: 1,
    logLevel: "info",
    drainDelayMs: 0,
    drainTimeoutMs: 5_000,
  });
});

t.test("flags win over the environment, the environment over the file", async (t) => {
  const file = "principals-max: 11\nsessions-max: 21\nlog-level: debug\n";
  const environment = { SALLYPORT_PRINCIPALS_MAX: "12", SALLYPORT_SESSIONS_MAX: "22" };
  t.match(config({ file, environment, flags: { "principals-max": "13" } }), {
    principalsMax: 13,
    sessionsMax: 22,
    logLevel: "debug",
  });
});

t.test("an empty variable says nothing, an empty flag is wrong", async (t) => {
  t.match(config({ environment: { SALLYPORT_POLICY: "" } }), { policy: undefined });
  t.same(problems({ flags: { policy: "" } }), ['--policy: expected a text that is not empty, got ""']);
});

const values: { name: string; flags: Record<string, string>; wrong?: RegExp }[] = [
  { name: "the least number of principals", flags: { "principals-max": "10" } },
  { name: "one principal less", flags: { "principals-max": "9" }, wrong: /from 10 to 1000000, got "9"/ },
  { name: "the most principals", flags: { "principals-max": "1000000" } },
  { name: "one principal more", flags: { "principals-max": "1000001" }, wrong: /from 10 to 1000000/ },
  { name: "half a principal", flags: { "principals-max": "10.5" }, wrong: /a whole number/ },
  { name: "a second between snapshots", flags: { "snapshot-interval": "1s" } },
  {
    name: "less than a second between snapshots",
    flags: { "snapshot-interval": "999ms" },
    wrong: /from 1s to 1d, got "999ms"/,
  },
  { name: "a number without unit", flags: { "snapshot-interval": "60" }, wrong: /a duration such as 30s or 5m/ },
  { name: "no draining at all", flags: { "drain-timeout": "0s" } },
  { name: "a mode that is none", flags: { mode: "enforce" }, wrong: /expected one of policy, observe, got "enforce"/ },
  { name: "the last port", flags: { "ext-authz-address": "127.0.0.1:65535" } },
  {
    name: "a port beyond it",
    flags: { "ext-authz-address": "127.0.0.1:65536" },
    wrong: /expected HOST:PORT or unix:PATH/,
  },
  { name: "an IPv6 address", flags: { "ext-authz-address": "[::1]:9191" } },
  { name: "an IPv6 address without brackets", flags: { "ext-authz-address": "::1:9191" }, wrong: /HOST:PORT/ },
  { name: "a socket", flags: { "streams-address": "unix:/run/s.sock" } },
  { name: "a socket without a path", flags: { "streams-address": "unix:" }, wrong: /HOST:PORT or unix:PATH/ },
  {
    name: "a socket whose path is longer than systems allow",
    flags: { "streams-address": `unix:/${"x".repeat(103)}` },
    wrong: /unix:PATH/,
  },
  { name: "an API that is off", flags: { "api-address": "off" } },
  { name: "checks that are off", flags: { "ext-authz-address": "off" }, wrong: /HOST:PORT/ },
];
for (const { name, flags, wrong } of values) {
  t.test(`${name} is ${wrong === undefined ? "good" : "wrong"}`, async (t) => {
    if (wrong === undefined) t.same(problems({ flags }), []);
    else t.match(problems({ flags }), [wrong]);
  });
}

t.test("off is absence", async (t) => {
  const off = config({ flags: { "api-address": "off", "health-address": "off", "decision-log": "off" } });
  t.match(off, { apiAddress: undefined, healthAddress: undefined, decisionLog: undefined });
});

t.test("everything wrong is told at once, each with its place", async (t) => {
  const file = ["# settings", "polcy: x", "mode: [observe]", "drain-timeout:", "  log-level: loud"].join("\n");
  const environment = { SALLYPORT_PRINCIPALS_MAX: "few", SALLYPORT_PRINCIPAL_MAX: "10", PATH: "/bin" };
  t.match(problems({ file, environment, flags: { "health-address": "nowhere" } }), [
    /^c\.yaml:2:1 polcy: unknown setting; did you mean policy\?$/,
    /^c\.yaml:3:1 mode: expected a single value$/,
    /^c\.yaml:4:1 drain-timeout: expected a single value$/,
    /^SALLYPORT_PRINCIPAL_MAX: unknown setting; did you mean SALLYPORT_PRINCIPALS_MAX\?$/,
    /^--health-address: expected HOST:PORT or unix:PATH, got "nowhere"$/,
    /^SALLYPORT_PRINCIPALS_MAX: expected a whole number from 10 to 1000000, got "few"$/,
  ]);
});

t.test("what kubelets set for a Service called sallyport-webhook is no setting", async (t) => {
  const links = {
    SALLYPORT_WEBHOOK_SERVICE_HOST: "10.0.0.7",
    SALLYPORT_WEBHOOK_SERVICE_PORT: "443",
    SALLYPORT_WEBHOOK_SERVICE_PORT_HTTPS: "443",
    SALLYPORT_WEBHOOK_PORT: "tcp://10.0.0.7:443",
    SALLYPORT_WEBHOOK_PORT_443_TCP: "tcp://10.0.0.7:443",
    SALLYPORT_WEBHOOK_PORT_443_TCP_PROTO: "tcp",
    SALLYPORT_WEBHOOK_PORT_443_TCP_PORT: "443",
    SALLYPORT_WEBHOOK_PORT_443_TCP_ADDR: "10.0.0.7",
  };
  t.same(problems({ environment: links }), []);
  t.match(problems({ environment: { SALLYPORT_HEALTH_PORT: "8282" } }), [/^SALLYPORT_HEALTH_PORT: unknown setting/]);
});

const files = [
  { name: "text that is no YAML", file: "a: [", says: /^c\.yaml:1:\d+: / },
  { name: "a list", file: "- a\n", says: /^c\.yaml:1:1: expected a mapping of settings$/ },
  {
    name: "a setting given twice",
    file: "mode: policy\nmode: observe\n",
    says: /^c\.yaml:2:1: Map keys must be unique/,
  },
  { name: "a tab", file: "mode:\tpolicy\n\tlog-level: info\n", says: /^c\.yaml:\d+:\d+: / },
];
for (const { name, file, says } of files) {
  t.test(`${name} is told with its place`, async (t) => t.match(problems({ file }), [says]));
}

t.test("an empty file sets nothing", async (t) => {
  for (const file of ["", "# nothing\n", "---\n"]) t.same(problems({ file }), []);
});

t.test("a value is shown cut: what was pasted by mistake may be long", async (t) => {
  const [problem = ""] = problems({ flags: { mode: "x".repeat(10_000) } });
  t.ok(problem.length < 200);
});

t.test("every setting can be given in all three ways", async (t) => {
  const sample: Record<string, string> = {
    share: "0.5",
    address: "127.0.0.1:1",
    "optional-address": "127.0.0.1:1",
    path: "somewhere",
    text: "somewhere",
    integer: "2000",
    duration: "11s",
    labels: "team=shop",
  };
  const control = { control: "https://control:9292", "bundle-keys": "keys.json" };
  /** What a setting means nothing without. */
  const beside: Record<string, Record<string, string>> = {
    "policy-token-file": { policy: "https://p/b", "bundle-keys": "keys.json" },
    "policy-ca-file": { policy: "https://p/b", "bundle-keys": "keys.json" },
    "bundle-name": { "bundle-keys": "keys.json" },
    "control-token-file": control,
    "control-ca-file": control,
    "control-cert-file": { ...control, "control-key-file": "k" },
    "control-key-file": { ...control, "control-cert-file": "c" },
    control: { "bundle-keys": "keys.json" },
  };
  for (const setting of SETTINGS) {
    const others = beside[setting.name] ?? {};
    const value =
      setting.name === "control"
        ? "https://control:9292"
        : "choices" in setting
          ? (setting.choices.at(-1) as string)
          : (sample[setting.kind] as string);
    const given = Object.entries({ ...others, [setting.name]: value });
    const sources = [
      config({ flags: Object.fromEntries(given) }),
      config({ environment: Object.fromEntries(given.map(([name, text]) => [environmentName(name), text])) }),
      config({ file: given.map(([name, text]) => `${name}: "${text}"\n`).join("") }),
    ];
    t.not(JSON.stringify(sources[0]), JSON.stringify(config({})), setting.name);
    t.same([sources[1], sources[2]], [sources[0], sources[0]], setting.name);
  }
});

t.test("durations have a whole number and a unit", async (t) => {
  const good = { "500ms": 500, "30s": 30_000, "5m": 300_000, "12h": 43_200_000, "7d": 604_800_000, "0s": 0 };
  for (const [text, ms] of Object.entries(good)) t.equal(parseDuration(text), ms, text);
  for (const text of ["", "s", "5", "-5s", "1.5s", "5 s", "5M", "1h30m", "1e3s", "9999999999s"]) {
    t.equal(parseDuration(text), undefined, text);
  }
});

const keys = { "bundle-keys": "keys.json" };
const places: { name: string; flags: Record<string, string>; says: readonly (string | RegExp)[] }[] = [
  { name: "an address with keys", flags: { policy: "https://p.example/b", ...keys }, says: [] },
  { name: "plain HTTP on loopback", flags: { policy: "http://127.0.0.1:1/b", ...keys }, says: [] },
  { name: "several control planes", flags: { control: "https://a:9292,https://b:9292", ...keys }, says: [] },
  {
    name: "plain HTTP elsewhere",
    flags: { policy: "http://p.example/b", ...keys },
    says: ["--policy: expected https:// (http:// on loopback only), got http://p.example"],
  },
  {
    name: "a password in an address, which is not repeated",
    flags: { policy: "https://me:hunter2@p.example/b", ...keys },
    says: ["--policy: expected an address without a password; use a token file"],
  },
  {
    name: "an address without keys",
    flags: { policy: "https://p.example/b" },
    says: ["--policy: policy over the network needs bundle-keys: only signed policy is believed"],
  },
  {
    name: "a token for a file",
    flags: { policy: "p.yaml", "policy-token-file": "t" },
    says: ["--policy-token-file: policy-token-file needs an https:// address in policy or shadow, not --policy"],
  },
  {
    name: "both a policy and a control plane",
    flags: { policy: "p.yaml", control: "https://c:9292", ...keys },
    says: ["--control: control and policy (--policy) exclude each other"],
  },
  {
    name: "a certificate without its key",
    flags: { control: "https://c:9292", "control-cert-file": "c", ...keys },
    says: ["--control-cert-file: control-cert-file needs control-key-file"],
  },
  { name: "a control plane's token without one", flags: { "control-token-file": "t" }, says: [/needs control$/] },
  { name: "labels that are none", flags: { labels: "team" }, says: [/^--labels: expected KEY=VALUE/] },
  { name: "a label twice", flags: { labels: "a=1,a=2" }, says: [/^--labels/] },
  { name: "a label that the sidecar sets itself", flags: { labels: "id=x" }, says: [/^--labels/] },
];
for (const { name, flags, says } of places) {
  t.test(`${name}: ${says.length === 0 ? "taken" : "told"}`, async (t) => t.match(problems({ flags }), says));
}

t.test("what comes over the network is stale after three polls, files never are", async (t) => {
  const stale = (flags: Record<string, string>) => config({ flags: { ...keys, ...flags } }).policyStaleAfterMs;
  t.equal(stale({ policy: "https://p.example/b", "policy-poll": "20s" }), 60_000);
  t.equal(stale({ control: "https://c:9292" }), 180_000);
  t.equal(stale({ policy: "p.yaml" }), undefined);
  t.equal(stale({ policy: "p.yaml", "policy-stale-after": "1h" }), 3_600_000);
});

t.test("labels are read as pairs", async (t) => {
  t.same(config({ flags: { labels: "team=shop,zone=eu-1,empty=" } }).labels, { team: "shop", zone: "eu-1", empty: "" });
});
