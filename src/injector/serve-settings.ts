/** The settings of `sallyport serve` in an injected pod. */

import type { InjectorConfig } from "./config.ts";
import {
  API_SOCKET,
  CHECK_SOCKET,
  CONTROL_CA,
  CONTROL_FOLDER,
  CONTROL_KEYS,
  CONTROL_TOKEN,
  POLICY_FOLDER,
  STATE_FOLDER,
  STREAMS_SOCKET,
} from "./places.ts";

/** Settings that the injector makes, and which of its own keys says so instead. */
export const MANAGED_SETTINGS: Readonly<Record<string, string>> = {
  "ext-authz-address": "the socket is where Envoy is pointed to",
  "streams-address": "the socket is where Envoy is pointed to",
  "api-socket": "the socket is in the pod's own volume",
  "health-address": "use healthPort and listenAddress",
  "state-dir": "use state",
  policy: "use policy",
  "bundle-keys": "use control.bundleKeys",
  control: "use control.address",
  "control-token-file": "use control.tokenAudience",
  "control-ca-file": "use control.ca or control.caConfigMap",
  mode: "use mode",
  "log-level": "use logLevel",
  "decision-log": "use decisionLog",
};

/** Variables of the added containers that tell what the pod is. */
export const OWN_ENVIRONMENT: readonly string[] = ["POD_NAME", "POD_NAMESPACE", "POD_SERVICE_ACCOUNT", "NODE_NAME"];

/** What this pod is, for the control plane and the decision log; the kubelet puts the values in. */
const POD_LABELS = "namespace=$(POD_NAMESPACE),service_account=$(POD_SERVICE_ACCOUNT),node=$(NODE_NAME)";

/** Settings in which the kubelet's variables stand as they are; `$(` in all others is text. */
export const EXPANDED_SETTINGS: readonly string[] = ["sidecar-id", "labels"];

/**
 * Settings by name, those of `config.settings` included.
 * @param drainDelaySeconds how long Sallyport answers on after SIGTERM while Envoy is there; 0 where Envoy ends first
 */
export function serveSettings(config: InjectorConfig, drainDelaySeconds = 0): Readonly<Record<string, string>> {
  const { settings, policy, control, state } = config;
  const host = config.listenAddress === "::" ? "[::]" : config.listenAddress;
  const labels = settings.labels;
  return {
    "ext-authz-address": `unix:${CHECK_SOCKET}`,
    "streams-address": `unix:${STREAMS_SOCKET}`,
    // Loopback is the whole pod's: the socket, which only this container mounts with its user, serves instead.
    "api-address": "off",
    "api-socket": API_SOCKET,
    "health-address": `${host}:${config.healthPort}`,
    ...(state.kind === "none" ? {} : { "state-dir": STATE_FOLDER }),
    mode: config.mode,
    "log-level": config.logLevel,
    "decision-log": config.decisionLog,
    "sidecar-id": "$(POD_NAMESPACE)/$(POD_NAME)",
    ...(drainDelaySeconds === 0 ? {} : { "drain-delay": `${drainDelaySeconds}s` }),
    ...(policy.kind === "configMap" || policy.kind === "secret" ? { policy: `${POLICY_FOLDER}/${policy.key}` } : {}),
    ...(policy.kind === "control" ? controlSettings(control) : {}),
    ...settings,
    labels: labels === undefined || labels === "" ? POD_LABELS : `${POD_LABELS},${labels}`,
  };
}

function controlSettings(control: InjectorConfig["control"]): Readonly<Record<string, string>> {
  return {
    control: control.address,
    "bundle-keys": `${CONTROL_FOLDER}/${CONTROL_KEYS}`,
    ...(control.tokenAudience === "" ? {} : { "control-token-file": `${CONTROL_FOLDER}/${CONTROL_TOKEN}` }),
    ...(control.ca === "" && control.caConfigMap === ""
      ? {}
      : { "control-ca-file": `${CONTROL_FOLDER}/${CONTROL_CA}` }),
    // The way to the control plane may lead through a proxy that starts after this container: not ready until the policy
    // came, so nothing is let in by another, but started, so that what comes next can start.
    "policy-missing": "shipped",
    "policy-wait": "1s",
  };
}
