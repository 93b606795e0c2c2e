/** Reads the control plane's settings: flags, environment and a YAML file, all by one schema, everything wrong at once. */

import { create, type DescField, ScalarType } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { decode } from "../bundle/decode.ts";
import { formatProblem, suggest } from "../bundle/problem.ts";
import { parseTree } from "../bundle/tree.ts";
import { reportViolations } from "../bundle/violations.ts";
import {
  type ControlConfig,
  ControlConfigSchema,
  type Token,
  TokensFileSchema,
} from "../gen/sallyport/control/v1/config_pb.ts";
import type { KubernetesSettings } from "./workloads/watch.ts";

/** A setting that has no nesting: a flag, an environment variable and a key of the file. */
export interface ControlSetting {
  readonly name: string;
  readonly value: string | undefined;
  readonly fallback: string | undefined;
  readonly summary: string;
}

export const CONTROL_SETTINGS: readonly ControlSetting[] = [
  setting("address", "HOST:PORT", "127.0.0.1:9292", "Where sidecars and operators call."),
  setting("health-address", "HOST:PORT|off", "127.0.0.1:9293", "`/healthz`, `/readyz` and `/metrics`."),
  setting(
    "state-dir",
    "FOLDER",
    undefined,
    "Folder that keeps channels and bundles over restarts. Without it and without NATS they end with the process.",
  ),
  setting("bundle-keys", "FILE", undefined, "Key file: whose signatures a bundle needs to be published."),
  setting(
    "insecure-unsigned-bundles",
    undefined,
    "false",
    "Takes bundles whoever signed them, or nobody; for trials only.",
  ),
  setting("tls-cert", "FILE", undefined, "The server's certificate chain, PEM; read again when it changes."),
  setting("tls-key", "FILE", undefined, "Its private key, PEM; read again when it changes."),
  setting(
    "client-ca",
    "FILE",
    undefined,
    "Authorities of client certificates, PEM. What a certificate may do stands in `grants` of the file.",
  ),
  setting(
    "tokens",
    "FILE",
    undefined,
    "File with the SHA-256 of bearer tokens and what each may do; read again when it changes.",
  ),
  setting(
    "insecure-plaintext",
    undefined,
    "false",
    "Serves without TLS beyond loopback: tokens and policy can be read on the way.",
  ),
  setting(
    "nats-servers",
    "LIST",
    undefined,
    "NATS servers, separated by commas: several control processes then share everything.",
  ),
  setting("nats-credentials", "FILE", undefined, "NATS credentials file."),
  setting("nats-ca", "FILE", undefined, "Authorities of the NATS servers' certificates, PEM."),
  setting("nats-prefix", "TEXT", "sallyport", "Begins the names of the buckets in NATS."),
  setting("nats-replicas", "1..5", "1", "Copies of each bucket in a NATS cluster."),
  setting(
    "shared-signals",
    "FILE",
    undefined,
    "File of shared signals: which transmitters are heard, and who is told. Of several control processes, one only.",
  ),
  setting("kubernetes", undefined, "false", "Watches a Kubernetes cluster's pods, and tells sidecars of them."),
  setting(
    "kubernetes-api",
    "URL",
    undefined,
    "Where the Kubernetes API is: `https://HOST:PORT`, or `http://` on loopback. Default: as a pod finds it, with its own token and authorities.",
  ),
  setting("kubernetes-namespaces", "LIST", undefined, "Namespaces to watch, separated by commas. Default: all."),
  setting("kubernetes-label-selector", "TEXT", undefined, "Only pods that this label selector chooses."),
  setting("kubernetes-field-selector", "TEXT", undefined, "Only pods that this field selector chooses."),
  setting("kubernetes-token-file", "FILE", undefined, "Bearer token for the Kubernetes API; read anew for every call."),
  setting(
    "kubernetes-ca-file",
    "FILE",
    undefined,
    "Authorities of the Kubernetes API's certificate, PEM; read anew for every call. Default: the system's.",
  ),
  setting(
    "kubernetes-labels",
    "LIST",
    undefined,
    "Pod labels that become posture facts, `label.NAME`, separated by commas. Sidecars see no others.",
  ),
  setting(
    "kubernetes-principal",
    "TEMPLATE",
    "spiffe://{trustDomain}/ns/{namespace}/sa/{serviceAccount}",
    "SPIFFE ID of a service account's pods.",
  ),
  setting("trust-domain", "NAME", undefined, "What `{trustDomain}` stands for."),
  setting(
    "kubernetes-issuer",
    "TEXT",
    undefined,
    "`iss` of the cluster's service account tokens, where callers show these: pods are known by them too.",
  ),
  setting(
    "kubernetes-token-audience",
    "TEXT",
    undefined,
    "Accepts service account tokens that are meant for this audience, if the Kubernetes API calls them good (TokenReview): `grants` say what their SPIFFE IDs may do.",
  ),
  setting("kubernetes-pods-max", "COUNT", "10000", "Most pods known; further ones are left out, and counted."),
  setting("sidecars-max", "COUNT", "10000", "Sidecars that may watch this process; further ones are turned away."),
  setting("revisions-kept", "COUNT", "10", "Bundles kept of each channel, as bases of differences."),
  setting("bundle-bytes-max", "BYTES", "67108864", "Largest bundle taken."),
  setting("heartbeat", "DURATION", "10s", "Between heartbeats to each sidecar; one that misses three calls elsewhere."),
  setting("drain-timeout", "DURATION", "5s", "How long calls under way are waited for at SIGTERM."),
  setting(
    "log-level",
    "debug|info|warn|error|silent",
    "info",
    "What the program says of itself on standard error, as JSON lines.",
  ),
];

export interface ControlSettings {
  readonly address: string;
  /** `undefined`: off. */
  readonly healthAddress: string | undefined;
  readonly stateDir: string | undefined;
  readonly bundleKeys: string | undefined;
  readonly tls: { readonly cert: string; readonly key: string; readonly clientCa: string | undefined } | undefined;
  readonly tokens: string | undefined;
  readonly grants: ControlConfig["grants"];
  readonly nats:
    | {
        readonly servers: readonly string[];
        readonly credentials: string | undefined;
        readonly ca: string | undefined;
        readonly prefix: string;
        readonly replicas: number;
      }
    | undefined;
  readonly sharedSignals: string | undefined;
  /** `undefined`: no cluster is watched. */
  readonly kubernetes: KubernetesSettings | undefined;
  readonly sidecarsMax: number;
  readonly revisionsKept: number;
  readonly bundleBytesMax: number;
  readonly heartbeatMs: number;
  readonly drainTimeoutMs: number;
  readonly logLevel: "debug" | "info" | "warn" | "error" | "silent";
}

export interface ControlSources {
  readonly flags: Readonly<Record<string, string | undefined>>;
  readonly switches: ReadonlySet<string>;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly file: { readonly name: string; readonly text: string } | undefined;
}

export type ReadSettings =
  | { readonly ok: true; readonly settings: ControlSettings }
  | { readonly ok: false; readonly problems: readonly string[] };

const PREFIX = "SALLYPORT_CONTROL_PLANE_";

export function controlVariable(name: string): string {
  return `${PREFIX}${name.toUpperCase().replaceAll("-", "_")}`;
}

/** Flags win over the environment, the environment over the file, the file over defaults. */
export function readControlConfig(sources: ControlSources): ReadSettings {
  const problems: string[] = [];
  const { file } = sources;
  let merged = create(ControlConfigSchema);
  if (file !== undefined && file.text.trim() !== "") merged = readWhole(file.text, file.name, problems);
  const known = CONTROL_SETTINGS.map(({ name }) => controlVariable(name));
  for (const name of Object.keys(sources.environment)) {
    if (!name.startsWith(PREFIX) || known.includes(name) || name === `${PREFIX}CONFIG`) continue;
    const meant = suggest(name, known);
    problems.push(`${name}: unknown setting${meant === undefined ? "" : `; did you mean ${meant}?`}`);
  }
  for (const { name } of CONTROL_SETTINGS) {
    const variable = controlVariable(name);
    const flag = sources.switches.has(name) ? "true" : sources.flags[name];
    const text = flag ?? sources.environment[variable];
    if (text === undefined || (flag === undefined && text === "")) continue;
    overlay(merged, name, text, flag === undefined ? variable : `--${name}`, problems);
  }
  const settings = settle(merged, sources.environment, problems);
  return problems.length > 0 ? { ok: false, problems } : { ok: true, settings };
}

/** Reads the file of bearer tokens. */
export function readTokens(
  text: string,
  file: string,
):
  | { readonly ok: true; readonly tokens: readonly Token[] }
  | { readonly ok: false; readonly problems: readonly string[] } {
  const parsed = parseTree(text, file);
  if (!parsed.ok) return { ok: false, problems: parsed.problems.map(formatProblem) };
  const message = decode(TokensFileSchema, parsed.tree, parsed.source);
  reportViolations(TokensFileSchema, message, parsed.source);
  const { problems } = parsed.source;
  return problems.length > 0
    ? { ok: false, problems: problems.map(formatProblem) }
    : { ok: true, tokens: message.tokens };
}

function readWhole(text: string, name: string, problems: string[]): ControlConfig {
  const parsed = parseTree(text, name);
  if (!parsed.ok) {
    problems.push(...parsed.problems.map(formatProblem));
    return create(ControlConfigSchema);
  }
  const message = decode(ControlConfigSchema, parsed.tree, parsed.source);
  reportViolations(ControlConfigSchema, message, parsed.source);
  problems.push(...parsed.source.problems.map(formatProblem));
  return message;
}

/** A flag or variable goes through the file's own schema, so that it is held to the same bounds. */
function overlay(merged: ControlConfig, name: string, text: string, where: string, problems: string[]): void {
  const field = ControlConfigSchema.fields.find(({ jsonName }) => jsonName === name) as DescField;
  const bare = field.scalar === ScalarType.BOOL || field.scalar === ScalarType.UINT32;
  const parsed = parseTree(
    JSON.stringify({ [name]: bare && /^(?:true|false|\d+)$/.test(text) ? JSON.parse(text) : text }),
    where,
  );
  if (!parsed.ok) {
    problems.push(`${where}: expected a plain text`);
    return;
  }
  const message = decode(ControlConfigSchema, parsed.tree, parsed.source);
  reportViolations(ControlConfigSchema, message, parsed.source);
  problems.push(
    ...parsed.source.problems.map((problem) =>
      formatProblem({ ...problem, line: undefined, column: undefined, path: "" }),
    ),
  );
  Object.assign(merged, { [field.localName]: message[field.localName as keyof ControlConfig] });
}

function settle(
  config: ControlConfig,
  environment: ControlSources["environment"],
  problems: string[],
): ControlSettings {
  const text = (value: string, name: string): string => (value === "" ? fallbackOf(name) : value);
  const optional = (value: string): string | undefined => (value === "" ? undefined : value);
  const count = (value: number, name: string): number => (value === 0 ? Number(fallbackOf(name)) : value);
  const address = text(config.address, "address");
  const health = text(config.healthAddress, "health-address");
  for (const [name, value] of [
    ["address", address],
    ["health-address", health],
  ] as const) {
    if (!isAddress(value) && !(name === "health-address" && value === "off")) {
      problems.push(`${name}: expected HOST:PORT, got ${JSON.stringify(value.slice(0, 80))}`);
    }
  }
  const need = (met: boolean, text: string): void => void (met || problems.push(text));
  const { tlsCert, tlsKey, clientCa } = config;
  need((tlsCert === "") === (tlsKey === ""), "tls-cert and tls-key: expected both or neither, got one");
  need(clientCa === "" || tlsCert !== "", "client-ca: needs tls-cert and tls-key");
  need(
    config.grants.length === 0 || clientCa !== "" || config.kubernetesTokenAudience !== "",
    "grants: needs client-ca or kubernetes-token-audience, by which callers are told apart",
  );
  need(
    config.kubernetesTokenAudience === "" || config.grants.length > 0,
    "kubernetes-token-audience: needs grants, which say what service accounts may do",
  );
  need(
    config.tokens !== "" || config.grants.length > 0,
    "expected `tokens`, or `client-ca` and `grants`: nobody could publish and no sidecar could watch",
  );
  need(
    config.bundleKeys !== "" || config.insecureUnsignedBundles,
    "bundle-keys: expected a key file (or insecure-unsigned-bundles, which takes bundles from anybody)",
  );
  need(
    config.bundleKeys === "" || !config.insecureUnsignedBundles,
    "bundle-keys and insecure-unsigned-bundles: expected one of them, got both",
  );
  need(
    tlsCert !== "" || isLoopback(address) || config.insecurePlaintext,
    `address: ${address} is not loopback; expected tls-cert and tls-key (or insecure-plaintext, which shows tokens to the network)`,
  );
  need(
    config.stateDir === "" || config.natsServers === "" || config.sharedSignals !== "",
    "state-dir and nats-servers: expected one of them, got both (with shared-signals, state-dir keeps these)",
  );
  need(
    config.sharedSignals === "" || config.stateDir !== "",
    "shared-signals: needs state-dir, so that nothing is lost over a restart",
  );
  const servers = config.natsServers.split(",").map((server) => server.trim());
  return {
    address,
    healthAddress: health === "off" ? undefined : health,
    stateDir: optional(config.stateDir),
    bundleKeys: optional(config.bundleKeys),
    tls: tlsCert === "" ? undefined : { cert: tlsCert, key: tlsKey, clientCa: optional(clientCa) },
    tokens: optional(config.tokens),
    grants: config.grants,
    nats:
      config.natsServers === ""
        ? undefined
        : {
            servers: servers.filter((server) => server !== ""),
            credentials: optional(config.natsCredentials),
            ca: optional(config.natsCa),
            prefix: text(config.natsPrefix, "nats-prefix"),
            replicas: count(config.natsReplicas, "nats-replicas"),
          },
    sharedSignals: optional(config.sharedSignals),
    kubernetes: config.kubernetes ? kubernetesOf(config, environment, problems) : unwatched(config, problems),
    sidecarsMax: count(config.sidecarsMax, "sidecars-max"),
    revisionsKept: count(config.revisionsKept, "revisions-kept"),
    bundleBytesMax: count(config.bundleBytesMax, "bundle-bytes-max"),
    heartbeatMs: config.heartbeat === undefined ? 10_000 : durationMs(config.heartbeat),
    drainTimeoutMs: config.drainTimeout === undefined ? 5_000 : durationMs(config.drainTimeout),
    logLevel: text(config.logLevel, "log-level") as ControlSettings["logLevel"],
  };
}

/** What kubelet mounts into every pod that may call the API. */
const POD_FILES = "/var/run/secrets/kubernetes.io/serviceaccount";
/** A watch for each; more are better watched together. */
const NAMESPACES_MAX = 100;
const LABELS_MAX = 32;
/** Names of objects are DNS labels here (RFC 1123). */
const NAMESPACE = /^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/;
/** A label's name, with or without a prefix. */
const LABEL = /^(?:[a-z0-9.-]{1,253}\/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;

function kubernetesOf(
  config: ControlConfig,
  environment: ControlSources["environment"],
  problems: string[],
): KubernetesSettings {
  const need = (met: boolean, text: string): void => void (met || problems.push(text));
  const own = config.kubernetesApi === "";
  // As Kubernetes tells every container of its API.
  const { KUBERNETES_SERVICE_HOST: host = "", KUBERNETES_SERVICE_PORT: port = "443" } = environment;
  need(
    !own || host !== "",
    "kubernetes-api: expected an address, since this is no pod (KUBERNETES_SERVICE_HOST is not set)",
  );
  const api = own ? `https://${host.includes(":") ? `[${host}]` : host}:${port}` : config.kubernetesApi;
  need(
    host === "" && own ? true : isApiUrl(api),
    `kubernetes-api: expected https://HOST:PORT, or http:// on loopback, got ${JSON.stringify(api.slice(0, 80))}`,
  );
  const namespaces = listOf(config.kubernetesNamespaces);
  const labels = listOf(config.kubernetesLabels);
  for (const name of namespaces) {
    need(NAMESPACE.test(name), `kubernetes-namespaces: ${JSON.stringify(name.slice(0, 80))} is no namespace's name`);
  }
  for (const name of labels) {
    need(LABEL.test(name), `kubernetes-labels: ${JSON.stringify(name.slice(0, 80))} is no label's name`);
  }
  need(namespaces.length <= NAMESPACES_MAX, `kubernetes-namespaces: expected at most ${NAMESPACES_MAX}`);
  need(labels.length <= LABELS_MAX, `kubernetes-labels: expected at most ${LABELS_MAX}`);
  const principal = config.kubernetesPrincipal || fallbackOf("kubernetes-principal");
  const parts = [...principal.matchAll(/\{([^{}]*)\}/g)].map((match) => match[1]);
  const unknown = parts.filter((part) => !["trustDomain", "namespace", "serviceAccount"].includes(part as string));
  need(
    principal.startsWith("spiffe://") &&
      parts.includes("namespace") &&
      parts.includes("serviceAccount") &&
      unknown.length === 0,
    "kubernetes-principal: expected a SPIFFE ID with {namespace} and {serviceAccount}, and no other parts but {trustDomain}",
  );
  need(
    config.trustDomain !== "" || !parts.includes("trustDomain"),
    "trust-domain: expected the trust domain of the pods' SPIFFE IDs (or a kubernetes-principal without {trustDomain})",
  );
  return {
    api,
    namespaces: [...new Set(namespaces)],
    labelSelector: config.kubernetesLabelSelector || undefined,
    fieldSelector: config.kubernetesFieldSelector || undefined,
    tokenFile: config.kubernetesTokenFile || (own ? `${POD_FILES}/token` : undefined),
    caFile: config.kubernetesCaFile || (own ? `${POD_FILES}/ca.crt` : undefined),
    naming: {
      principal,
      trustDomain: config.trustDomain,
      issuer: config.kubernetesIssuer || undefined,
      labels: [...new Set(labels)],
    },
    tokenAudience: config.kubernetesTokenAudience || undefined,
    podsMax: config.kubernetesPodsMax || Number(fallbackOf("kubernetes-pods-max")),
  };
}

/** Settings of a watch that is off are somebody's mistake. */
function unwatched(config: ControlConfig, problems: string[]): undefined {
  for (const { jsonName, localName } of ControlConfigSchema.fields) {
    if (!jsonName.startsWith("kubernetes-")) continue;
    const value = config[localName as keyof ControlConfig];
    if (value !== "" && value !== 0) problems.push(`${jsonName}: needs kubernetes`);
  }
}

function listOf(text: string): readonly string[] {
  return text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
}

function isApiUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, host, pathname, search, hash, username } = new URL(text);
  if (pathname !== "/" || search !== "" || hash !== "" || username !== "") return false;
  return protocol === "https:" || (protocol === "http:" && isLoopback(`${host}:`));
}

function isAddress(text: string): boolean {
  const port = /^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})$/.exec(text)?.[1];
  return port !== undefined && Number(port) <= 65_535;
}

export function isLoopback(address: string): boolean {
  return /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\]):/.test(address);
}

function fallbackOf(name: string): string {
  return CONTROL_SETTINGS.find((candidate) => candidate.name === name)?.fallback ?? "";
}

function setting(
  name: string,
  value: string | undefined,
  fallback: string | undefined,
  summary: string,
): ControlSetting {
  return { name, value, fallback, summary };
}
