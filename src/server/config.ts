/** Reads the settings of `serve` from flags, environment and a YAML file; reports everything wrong at once. */

import { suggest } from "../bundle/problem.ts";
import type { OnOverload } from "../envoy/authorizer.ts";
import { LABELS_MAX, type Places, parseLabels, readPlaces } from "./policy-config.ts";
import { environmentName, SETTINGS, type Setting, type SettingName } from "./settings.ts";

/** Where a policy comes from. */
export type PolicyPlace =
  | { readonly kind: "path"; readonly path: string }
  | { readonly kind: "url"; readonly url: URL };

export interface ServeConfig {
  /** `undefined`: the shipped policy, or the control plane's. */
  readonly policy: PolicyPlace | undefined;
  /** Candidate policy, asked but never obeyed. */
  readonly shadow: PolicyPlace | undefined;
  /** Share of requests, 0..1, that it is asked about. */
  readonly shadowShare: number;
  readonly bundleKeys: string | undefined;
  /** The only name of a bundle that is taken; `undefined`: that of the first one. */
  readonly bundleName: string | undefined;
  readonly policyPollMs: number;
  readonly policyTokenFile: string | undefined;
  readonly policyCaFile: string | undefined;
  readonly policyBytesMax: number;
  readonly policyWaitMs: number;
  readonly policyMissing: "fail" | "shipped";
  /** `undefined`: never stale. */
  readonly policyStaleAfterMs: number | undefined;
  readonly policyOnStale: "keep" | "unready";
  readonly policyOnExpiry: "keep" | "unready" | "deny";
  readonly control: ControlConfig | undefined;
  readonly locksOnStale: "best_effort" | "strict";
  readonly locksStaleAfterMs: number;
  /** `undefined`: a random one. */
  readonly sidecarId: string | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly mode: "policy" | "observe";
  readonly extAuthzAddress: string;
  readonly extAuthzTransport: "auto" | "grpc-js";
  readonly overloadDelayMs: number;
  readonly onOverload: OnOverload;
  readonly streamsAddress: string;
  /** `undefined`: off. */
  readonly apiAddress: string | undefined;
  readonly apiSocket: string | undefined;
  readonly apiTokenFile: string | undefined;
  readonly healthAddress: string | undefined;
  readonly stateDir: string | undefined;
  readonly challengeSecretFile: string | undefined;
  readonly prior: string | undefined;
  readonly snapshotIntervalMs: number;
  readonly principalsMax: number;
  readonly sessionsMax: number;
  /** `undefined`: off. */
  readonly decisionLog: string | undefined;
  readonly recording: string | undefined;
  readonly logLevel: "debug" | "info" | "warn" | "error" | "silent";
  readonly drainDelayMs: number;
  readonly drainTimeoutMs: number;
}

export interface ControlConfig {
  readonly address: string;
  readonly tokenFile: string | undefined;
  readonly certFile: string | undefined;
  readonly keyFile: string | undefined;
  readonly caFile: string | undefined;
}

export interface ConfigSources {
  /** Values of flags by setting name. */
  readonly flags: Readonly<Record<string, string | undefined>>;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly file: FileSettings | undefined;
}

/** What a settings file says; see `readConfigFile`. */
export interface FileSettings {
  readonly settings: ReadonlyMap<string, Given>;
  readonly problems: readonly string[];
}

export type ReadConfig =
  | { readonly ok: true; readonly config: ServeConfig }
  | { readonly ok: false; readonly problems: readonly string[] };

/** A setting as it was written. */
export interface Given {
  readonly text: string;
  /** For messages: `--flag`, `SALLYPORT_NAME` or `file.yaml:3:1 key`. */
  readonly where: string;
}

/** Flags win over the environment, the environment over the file, the file over defaults. */
export function readConfig(sources: ConfigSources): ReadConfig {
  const problems: string[] = [...(sources.file?.problems ?? [])];
  for (const [name, value] of Object.entries(sources.environment)) {
    if (OTHER_COMMANDS.some((prefix) => name.startsWith(prefix)) || isServiceLink(name, value)) continue;
    if (name.startsWith("SALLYPORT_") && !KNOWN_ENVIRONMENT.has(name)) {
      problems.push(`${name}: unknown setting${suggestion(name, [...KNOWN_ENVIRONMENT])}`);
    }
  }
  const given = (setting: Setting): Given | undefined => {
    const flag = sources.flags[setting.name];
    if (flag !== undefined) return { text: flag, where: `--${setting.name}` };
    const variable = environmentName(setting.name);
    const text = sources.environment[variable];
    if (text !== undefined && text !== "") return { text, where: variable };
    return sources.file?.settings.get(setting.name);
  };
  const values = new Map<SettingName, string | number | undefined>();
  for (const setting of SETTINGS as readonly (Setting & { name: SettingName })[]) {
    const found = given(setting);
    const text = found?.text ?? setting.fallback;
    if (text === undefined) continue;
    const value = parse(setting, text);
    if ("wanted" in value)
      problems.push(`${found?.where}: expected ${value.wanted}, got ${JSON.stringify(text.slice(0, 80))}`);
    else values.set(setting.name, value.value);
  }
  const where = new Map(
    (SETTINGS as readonly Setting[]).flatMap((setting) => {
      const found = given(setting);
      return found === undefined ? [] : [[setting.name, found.where] as const];
    }),
  );
  const places = readPlaces(values, where, problems);
  if (problems.length > 0) return { ok: false, problems };
  const text = (name: SettingName): string => String(values.get(name));
  const optional = (name: SettingName): string | undefined => {
    const value = values.get(name);
    return value === undefined || value === "off" ? undefined : String(value);
  };
  return {
    ok: true,
    config: {
      policy: places.policy,
      shadow: places.shadow,
      shadowShare: values.get("shadow-share") as number,
      bundleKeys: optional("bundle-keys"),
      bundleName: optional("bundle-name"),
      policyPollMs: values.get("policy-poll") as number,
      policyTokenFile: optional("policy-token-file"),
      policyCaFile: optional("policy-ca-file"),
      policyBytesMax: values.get("policy-bytes-max") as number,
      policyWaitMs: values.get("policy-wait") as number,
      policyMissing: text("policy-missing") as ServeConfig["policyMissing"],
      policyStaleAfterMs: staleAfter(values, places),
      policyOnStale: text("policy-on-stale") as ServeConfig["policyOnStale"],
      policyOnExpiry: text("policy-on-expiry") as ServeConfig["policyOnExpiry"],
      control:
        places.control === undefined
          ? undefined
          : {
              address: places.control,
              tokenFile: optional("control-token-file"),
              certFile: optional("control-cert-file"),
              keyFile: optional("control-key-file"),
              caFile: optional("control-ca-file"),
            },
      locksOnStale: text("locks-on-stale") as ServeConfig["locksOnStale"],
      locksStaleAfterMs: values.get("locks-stale-after") as number,
      sidecarId: optional("sidecar-id"),
      labels: parseLabels(optional("labels") ?? "") ?? {},
      mode: text("mode") as ServeConfig["mode"],
      extAuthzAddress: text("ext-authz-address"),
      extAuthzTransport: text("ext-authz-transport") as ServeConfig["extAuthzTransport"],
      overloadDelayMs: values.get("overload-delay") as number,
      onOverload: text("on-overload") as OnOverload,
      streamsAddress: text("streams-address"),
      apiAddress: optional("api-address"),
      apiSocket: optional("api-socket"),
      apiTokenFile: optional("api-token-file"),
      healthAddress: optional("health-address"),
      stateDir: optional("state-dir"),
      challengeSecretFile: optional("challenge-secret-file"),
      prior: optional("prior"),
      snapshotIntervalMs: values.get("snapshot-interval") as number,
      principalsMax: values.get("principals-max") as number,
      sessionsMax: values.get("sessions-max") as number,
      decisionLog: optional("decision-log"),
      recording: optional("recording"),
      logLevel: text("log-level") as ServeConfig["logLevel"],
      drainDelayMs: values.get("drain-delay") as number,
      drainTimeoutMs: values.get("drain-timeout") as number,
    },
  };
}

/** Set by the sidecar's surroundings and read by other commands. */
const OTHER_ENVIRONMENT = [
  "SALLYPORT_CONFIG",
  "SALLYPORT_API",
  "SALLYPORT_API_TOKEN",
  "SALLYPORT_FORBID_SKIPS",
  "SALLYPORT_SHARED",
];
/** Begin the variables of `sallyport control` and `sallyport fleet`. */
const OTHER_COMMANDS = ["SALLYPORT_CONTROL_PLANE_", "SALLYPORT_FLEET_"];

/**
 * Whether a kubelet set this variable for a Service of the Pod's namespace (`enableServiceLinks`). One for a Service that is
 * called `sallyport-…` looks like a setting, and would keep every sidecar of the namespace from starting.
 */
function isServiceLink(name: string, value = ""): boolean {
  return (
    /_SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)$|_PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?$/.test(name) ||
    (name.endsWith("_PORT") && /^(?:tcp|udp|sctp):\/\//.test(value))
  );
}

const KNOWN_ENVIRONMENT = new Set([...SETTINGS.map(({ name }) => environmentName(name)), ...OTHER_ENVIRONMENT]);

/** Files are watched: they need no confirming unless the operator says so. */
function staleAfter(values: ReadonlyMap<SettingName, string | number | undefined>, places: Places): number | undefined {
  const given = values.get("policy-stale-after") as number | undefined;
  if (given !== undefined || (places.control === undefined && places.policy?.kind !== "url")) return given;
  return STALE_POLLS * (values.get("policy-poll") as number);
}

const STALE_POLLS = 3;

type Parsed = { readonly value: string | number } | { readonly wanted: string };

function parse(setting: Setting, text: string): Parsed {
  switch (setting.kind) {
    case "choice":
      return setting.choices?.includes(text) === true
        ? { value: text }
        : { wanted: `one of ${setting.choices?.join(", ")}` };
    case "integer":
      return inRange(setting, /^\d+$/.test(text) ? Number(text) : Number.NaN, "a whole number", String);
    case "share":
      return /^(?:0?\.\d{1,9}|0|1|1\.0+)$/.test(text) ? { value: Number(text) } : { wanted: "a share from 0 to 1" };
    case "duration":
      return inRange(setting, parseDuration(text) ?? Number.NaN, "a duration such as 30s or 5m", formatDuration);
    case "optional-address":
      return text === "off" ? { value: text } : parseAddress(text);
    case "address":
      return parseAddress(text);
    case "labels":
      return parseLabels(text) === undefined
        ? { wanted: `KEY=VALUE,KEY=VALUE with at most ${LABELS_MAX} different keys, none of them id or version` }
        : { value: text };
    case "path":
    case "text":
      return text === "" ? { wanted: "a text that is not empty" } : { value: text };
  }
}

function inRange(setting: Setting, value: number, what: string, show: (value: number) => string): Parsed {
  const [least, most] = setting.range ?? [0, Number.MAX_SAFE_INTEGER];
  if (value >= least && value <= most) return { value };
  return { wanted: `${what} from ${show(least)} to ${show(most)}` };
}

function parseAddress(text: string): Parsed {
  const wanted = "HOST:PORT or unix:PATH";
  if (text.startsWith("unix:")) return text.length > 5 && text.length <= 108 ? { value: text } : { wanted };
  const match = /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})$/.exec(text);
  return match !== null && Number(match[2]) <= 65_535 ? { value: text } : { wanted };
}

const UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `500ms`, `30s`, `5m`, `12h`, `7d`; `undefined` when it is none of these. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d{1,9})(ms|s|m|h|d)$/.exec(text);
  return match === null ? undefined : Number(match[1]) * (UNITS_MS[match[2] as string] as number);
}

function formatDuration(ms: number): string {
  for (const unit of ["d", "h", "m", "s"]) {
    const size = UNITS_MS[unit] as number;
    if (ms >= size && ms % size === 0) return `${ms / size}${unit}`;
  }
  return `${ms}ms`;
}

/** `; did you mean …?`, or nothing. */
export function suggestion(found: string, names: readonly string[]): string {
  const meant = suggest(found, names);
  return meant === undefined ? "" : `; did you mean ${meant}?`;
}
