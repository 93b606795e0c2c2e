/** What a pod asks for in its annotations and labels, over what the configuration says. */

import { suggest } from "../bundle/problem.ts";
import type { InjectorConfig } from "./config.ts";
import { ENVOY_MODES, INBOUND_RANGE, LOG_LEVELS, MODES, PORT_RANGE, QUANTITY } from "./fields.ts";
import { type Json, type JsonObject, objectAt } from "./json.ts";
import { FILE_ANNOTATIONS, PREFIX, STATUS_ANNOTATION } from "./places.ts";

/** One annotation that a pod may have. */
export interface AnnotationRule {
  /** After `sallyport.dev/`. */
  readonly name: string;
  /** For messages and documentation. */
  readonly expected: string;
  readonly summary: string;
  readonly pattern: RegExp;
  /** Of a number. */
  readonly range?: readonly [least: number, most: number];
}

const BOOLEAN = /^(?:true|false)$/;
const PORT = /^[1-9]\d{0,4}$/;
const NAME = /^[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?$/;

function oneOf(choices: readonly string[]): { readonly pattern: RegExp; readonly expected: string } {
  return { pattern: new RegExp(`^(?:${choices.join("|")})$`), expected: choices.join(" or ") };
}

const PORT_EXPECTED = "a port, 1 to 65535";

/** The one source of what annotations are known. */
export const ANNOTATIONS = [
  {
    name: "inject",
    pattern: BOOLEAN,
    expected: "true or false",
    summary:
      '`"false"` leaves the pod as it is. `"true"` is what pods of `sallyport inject` need not say. The label of the same name counts likewise, and lets the cluster pass the pod by without asking.',
  },
  { name: "mode", ...oneOf(MODES), summary: "`mode` of the configuration." },
  {
    name: "policy",
    pattern: NAME,
    expected: "the name of a ConfigMap",
    summary: "ConfigMap of the pod's namespace that holds the policy, instead of the configuration's source.",
  },
  { name: "envoy", ...oneOf(ENVOY_MODES), summary: "`envoy.mode`." },
  {
    name: "inbound-port",
    pattern: PORT,
    range: INBOUND_RANGE,
    expected: `a port, ${INBOUND_RANGE.join(" to ")}`,
    summary: "`envoy.inboundPort`.",
  },
  {
    name: "app-port",
    pattern: PORT,
    range: PORT_RANGE,
    expected: PORT_EXPECTED,
    summary: "`envoy.appPort`: where the application listens. Needed where the pod declares several ports, or none.",
  },
  {
    name: "app-protocol",
    ...oneOf(["http1", "http2"]),
    summary: "`envoy.appProtocol`: what Envoy speaks with the application.",
  },
  { name: "redirect", ...oneOf(["none", "ports"]), summary: "`envoy.redirect`." },
  { name: "health-port", pattern: PORT, range: PORT_RANGE, expected: PORT_EXPECTED, summary: "`healthPort`." },
  {
    name: "tls-secret",
    pattern: NAME,
    expected: "the name of a Secret",
    summary: "`envoy.tls.secret`: turns TLS on where the configuration has none.",
  },
  { name: "cpu-request", pattern: QUANTITY.pattern, expected: QUANTITY.expected, summary: "`resources.requests.cpu`." },
  { name: "cpu-limit", pattern: QUANTITY.pattern, expected: QUANTITY.expected, summary: "`resources.limits.cpu`." },
  {
    name: "memory-request",
    pattern: QUANTITY.pattern,
    expected: QUANTITY.expected,
    summary: "`resources.requests.memory`.",
  },
  {
    name: "memory-limit",
    pattern: QUANTITY.pattern,
    expected: QUANTITY.expected,
    summary: "`resources.limits.memory`.",
  },
  { name: "log-level", ...oneOf(LOG_LEVELS), summary: "`logLevel`." },
  {
    name: "native-sidecar",
    pattern: BOOLEAN,
    expected: "true or false",
    summary: "`nativeSidecars`: always or never.",
  },
] as const satisfies readonly AnnotationRule[];

/** Names of annotations after `sallyport.dev/`: what an `InjectorConfig` may let pods choose. */
export const ANNOTATION_NAMES: readonly string[] = ANNOTATIONS.map(({ name }) => name);

type AnnotationName = (typeof ANNOTATIONS)[number]["name"];

/** Written by the injector. */
const OWN = [STATUS_ANNOTATION, ...Object.values(FILE_ANNOTATIONS)];

export type ReadOverrides =
  | {
      readonly ok: true;
      readonly config: InjectorConfig;
      /** Whether native sidecars are wanted, where the pod says. */
      readonly native: boolean | undefined;
    }
  | { readonly ok: false; readonly problems: readonly string[] };

/** Whether pods may choose this for themselves. */
export function isFree({ overrides }: InjectorConfig, name: AnnotationName): boolean {
  return overrides === undefined || overrides.includes(name);
}

/** Whether the pod has said that it wants to be left alone. */
export function optedOut(pod: JsonObject): string | undefined {
  const metadata = objectAt(pod, "metadata");
  for (const kind of ["label", "annotation"] as const) {
    if (objectAt(metadata, `${kind}s`)[`${PREFIX}inject`] === "false") return `its ${kind} ${PREFIX}inject is "false"`;
  }
  return undefined;
}

/** The configuration as this pod wants it. */
export function withOverrides(pod: JsonObject, config: InjectorConfig): ReadOverrides {
  const annotations = objectAt(objectAt(pod, "metadata"), "annotations");
  const problems: string[] = [];
  const given = new Map<AnnotationName, string>();
  const rules: readonly AnnotationRule[] = ANNOTATIONS;
  for (const [key, value] of Object.entries(annotations)) {
    if (!key.startsWith(PREFIX) || OWN.includes(key)) continue;
    const rule = rules.find(({ name }) => name === key.slice(PREFIX.length));
    if (rule === undefined) {
      const near = suggest(
        key.slice(PREFIX.length),
        rules.map(({ name }) => name),
      );
      problems.push(`annotation ${key} is unknown${near === undefined ? "" : `; did you mean ${PREFIX}${near}?`}`);
    } else if (!fits(rule, value)) {
      problems.push(`annotation ${key}: expected ${rule.expected}, got ${JSON.stringify(value).slice(0, 80)}`);
    } else if (rule.name !== "inject" && !isFree(config, rule.name as AnnotationName)) {
      problems.push(`annotation ${key}: the injector's configuration does not leave that to pods (overrides)`);
    } else given.set(rule.name as AnnotationName, value as string);
  }
  if (problems.length > 0) return { ok: false, problems };
  return { ok: true, config: overridden(config, given), native: booleanOf(given.get("native-sidecar")) };
}

function fits({ pattern, range: [least, most] = ANY_NUMBER }: AnnotationRule, value: Json): value is string {
  if (typeof value !== "string" || !pattern.test(value)) return false;
  return pattern !== PORT || (Number(value) >= least && Number(value) <= most);
}

const ANY_NUMBER = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY] as const;

function booleanOf(text: string | undefined): boolean | undefined {
  return text === undefined ? undefined : text === "true";
}

function overridden(config: InjectorConfig, given: ReadonlyMap<AnnotationName, string>): InjectorConfig {
  const { envoy } = config;
  const text = <Value extends string>(name: AnnotationName, otherwise: Value): Value =>
    (given.get(name) as Value | undefined) ?? otherwise; // its pattern is the list of the type's values
  const port = <Value extends number | undefined>(name: AnnotationName, otherwise: Value): number | Value =>
    given.has(name) ? Number(given.get(name)) : otherwise;
  const policy = given.get("policy");
  const tlsSecret = given.get("tls-secret");
  return {
    ...config,
    mode: text("mode", config.mode),
    logLevel: text("log-level", config.logLevel),
    healthPort: port("health-port", config.healthPort),
    policy:
      policy === undefined
        ? config.policy
        : {
            kind: "configMap",
            name: policy,
            key: config.policy.kind === "configMap" ? config.policy.key : POLICY_KEY,
          },
    resources: withAmounts(config.resources, given),
    envoy: {
      ...envoy,
      mode: text("envoy", envoy.mode),
      inboundPort: port("inbound-port", envoy.inboundPort),
      appPort: port("app-port", envoy.appPort),
      appProtocol: text("app-protocol", envoy.appProtocol),
      redirect: text("redirect", envoy.redirect),
      tls: tlsSecret === undefined ? envoy.tls : { ...TLS_KEYS, ...envoy.tls, secret: tlsSecret },
    },
  };
}

/** Key of a policy's ConfigMap that a pod names where the configuration names none. */
const POLICY_KEY = "policy.yaml";
const TLS_KEYS = { certificate: "tls.crt", key: "tls.key", clientCa: "ca.crt", clientPrefix: "" } as const;

function withAmounts(resources: JsonObject, given: ReadonlyMap<AnnotationName, string>): JsonObject {
  const changed = { ...resources };
  for (const kind of ["request", "limit"] as const) {
    for (const of of ["cpu", "memory"] as const) {
      const amount = given.get(`${of}-${kind}`);
      if (amount !== undefined) changed[`${kind}s`] = { ...objectAt(changed, `${kind}s`), [of]: amount };
    }
  }
  return changed;
}
