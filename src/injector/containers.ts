/** The two containers that are added, and their volumes; all of the Restricted Pod Security Standard. */

import { type App, bootstrapOf } from "./bootstrap.ts";
import type { ImageConfig, InjectorConfig } from "./config.ts";
import type { Json, JsonObject } from "./json.ts";
import {
  API_TOKEN_FOLDER,
  CONTROL_CA,
  CONTROL_FOLDER,
  CONTROL_KEYS,
  CONTROL_TOKEN,
  ENVOY_CONTAINER,
  ENVOY_PORT_NAME,
  FILE_ANNOTATIONS,
  HEALTH_PORT_NAME,
  INBOUND_PORT_NAME,
  POLICY_FOLDER,
  SALLYPORT_CONTAINER,
  SDS_CERTIFICATE,
  SDS_CLIENTS,
  SDS_FOLDER,
  SOCKETS_FOLDER,
  STATE_FOLDER,
  TLS_FOLDER,
  VOLUMES,
} from "./places.ts";
import { drainScript, holdScript } from "./scripts.ts";
import { EXPANDED_SETTINGS, serveSettings } from "./serve-settings.ts";

/** How a pod's added containers start and end. */
export interface Course {
  /** Native sidecars; classic containers otherwise. */
  readonly native: boolean;
  /** Longest time that Envoy waits for open requests when the pod ends. */
  readonly drainSeconds: number;
  /** How long Sallyport answers on meanwhile; 0 where it is ended after Envoy. */
  readonly drainDelaySeconds: number;
}

/** Longest time in which a container of ours has to have started: that of a slow pull is not in it. */
const START_SECONDS_MAX = 60;

/** How long the kubelet lets a token live at most before it renews it. */
const TOKEN_SECONDS = 3_600;

/** Mode of files that several users read: those of a Secret are root's, and only the one container mounts them. */
const READABLE = 0o444;

/** For those who ask: they can connect to the sockets, and put none of their own in their place. */
export const SOCKETS_MOUNT: JsonObject = { name: VOLUMES.sockets, mountPath: SOCKETS_FOLDER, readOnly: true };

/** The application's rights at the Kubernetes API are no business of ours, least of all of what faces the callers. */
const NO_TOKEN_MOUNT: JsonObject = { name: VOLUMES.noToken, mountPath: API_TOKEN_FOLDER, readOnly: true };

/** The container `sallyport`. */
export function sallyportContainer(config: InjectorConfig, course: Course): JsonObject {
  const { healthPort, policy, state } = config;
  const probe = (path: string, more: JsonObject): JsonObject => ({ httpGet: { path, port: healthPort }, ...more });
  const settings = Object.entries(serveSettings(config, course.drainDelaySeconds));
  return {
    name: SALLYPORT_CONTAINER,
    image: imageOf(config.image),
    imagePullPolicy: config.image.pullPolicy,
    ...restartOf(course),
    args: ["serve", ...settings.map(([name, text]) => `--${name}=${kubeletText(name, text)}`)],
    env: [
      fieldVariable("POD_NAME", "metadata.name"),
      fieldVariable("POD_NAMESPACE", "metadata.namespace"),
      fieldVariable("POD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
      fieldVariable("NODE_NAME", "spec.nodeName"),
      ...config.extraEnv,
    ],
    ports: [{ name: HEALTH_PORT_NAME, containerPort: healthPort, protocol: "TCP" }],
    // Started means that it answers, not that its policy has come: what it may need to get one starts after it.
    startupProbe: probe("/healthz", { periodSeconds: 1, timeoutSeconds: 2, failureThreshold: START_SECONDS_MAX }),
    readinessProbe: probe("/readyz", { periodSeconds: 5, timeoutSeconds: 2, failureThreshold: 2 }),
    livenessProbe: probe("/healthz", { periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 3 }),
    resources: config.resources,
    securityContext: securityContext(config.runAsUser),
    terminationMessagePolicy: "FallbackToLogsOnError",
    volumeMounts: [
      { name: VOLUMES.sockets, mountPath: SOCKETS_FOLDER },
      ...(state.kind === "none" ? [] : [{ name: VOLUMES.state, mountPath: STATE_FOLDER }]),
      ...(policy.kind === "configMap" || policy.kind === "secret" ? [readOnly(VOLUMES.policy, POLICY_FOLDER)] : []),
      ...(policy.kind === "control" ? [readOnly(VOLUMES.control, CONTROL_FOLDER)] : []),
      NO_TOKEN_MOUNT,
    ],
  };
}

/** The container `sallyport-envoy`. */
export function envoyContainer(config: InjectorConfig, app: App, course: Course): JsonObject {
  const { envoy } = config;
  const probe = (more: JsonObject): JsonObject => ({ httpGet: { path: "/ready", port: envoy.healthPort }, ...more });
  const lifecycle = envoyLifecycle(config, app, course);
  return {
    name: ENVOY_CONTAINER,
    image: envoy.image,
    imagePullPolicy: envoy.pullPolicy,
    ...restartOf(course),
    // Not the image's own entry point: that changes users, which this container may not.
    command: ["/usr/local/bin/envoy"],
    args: [
      // An argument, not a file: it needs no object in the namespace, and stays as it was while the pod lives.
      "--config-yaml",
      verbatim(JSON.stringify(bootstrapOf(config, app))),
      "--service-node",
      "$(POD_NAME).$(POD_NAMESPACE)",
      "--service-cluster",
      "$(POD_NAMESPACE)",
      "--concurrency",
      String(envoy.concurrency),
      // Shared memory that another Envoy of the pod may have, and a file system that cannot be written.
      "--disable-hot-restart",
      "--drain-time-s",
      String(course.drainSeconds),
      "--drain-strategy",
      "immediate",
      "--log-level",
      envoy.logLevel,
    ],
    env: [fieldVariable("POD_NAME", "metadata.name"), fieldVariable("POD_NAMESPACE", "metadata.namespace")],
    ports: [
      { name: INBOUND_PORT_NAME, containerPort: envoy.inboundPort, protocol: "TCP" },
      { name: ENVOY_PORT_NAME, containerPort: envoy.healthPort, protocol: "TCP" },
    ],
    startupProbe: probe({ periodSeconds: 1, timeoutSeconds: 2, failureThreshold: START_SECONDS_MAX }),
    readinessProbe: probe({ periodSeconds: 5, timeoutSeconds: 2, failureThreshold: 2 }),
    livenessProbe: probe({ periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 3 }),
    ...(lifecycle === undefined ? {} : { lifecycle }),
    resources: envoy.resources,
    // Another user than Sallyport's, whose private socket is closed to it then.
    securityContext: securityContext(config.runAsUser === undefined ? undefined : config.runAsUser + 1),
    terminationMessagePolicy: "FallbackToLogsOnError",
    volumeMounts: [
      SOCKETS_MOUNT,
      ...(envoy.tls === undefined ? [] : [readOnly(VOLUMES.tls, TLS_FOLDER), readOnly(VOLUMES.sds, SDS_FOLDER)]),
      NO_TOKEN_MOUNT,
    ],
  };
}

function envoyLifecycle(config: InjectorConfig, app: App, course: Course): JsonObject | undefined {
  const bash = (script: string): JsonObject => ({ exec: { command: ["/bin/bash", "-c", script] } });
  switch (config.envoy.drain) {
    case "script":
      return {
        ...(course.native ? {} : { postStart: bash(holdScript(config, START_SECONDS_MAX)) }),
        preStop: bash(drainScript(config, app, course.drainSeconds)),
      };
    case "sleep":
      return { preStop: { sleep: { seconds: config.envoy.drainSeconds } } };
    case "none":
      return undefined;
  }
}

/** What the two containers mount. */
export function volumesOf(config: InjectorConfig): readonly JsonObject[] {
  const { state, policy, envoy } = config;
  const volumes: JsonObject[] = [
    { name: VOLUMES.sockets, emptyDir: { medium: "Memory", sizeLimit: "1Mi" } },
    { name: VOLUMES.noToken, emptyDir: { medium: "Memory", sizeLimit: "1Mi" } },
  ];
  if (state.kind === "emptyDir") volumes.push({ name: VOLUMES.state, emptyDir: { sizeLimit: state.sizeLimit } });
  if (policy.kind === "configMap" || policy.kind === "secret") {
    const items = [{ key: policy.key, path: policy.key }];
    const source =
      policy.kind === "configMap"
        ? { configMap: { name: policy.name, items, defaultMode: READABLE } }
        : { secret: { secretName: policy.name, items, defaultMode: READABLE } };
    volumes.push({ name: VOLUMES.policy, ...source });
  }
  if (policy.kind === "control") {
    volumes.push({ name: VOLUMES.control, projected: { defaultMode: READABLE, sources: controlSources(config) } });
  }
  if (envoy.mode === "sidecar" && envoy.tls !== undefined) {
    volumes.push(
      { name: VOLUMES.tls, secret: { secretName: envoy.tls.secret, defaultMode: READABLE } },
      {
        name: VOLUMES.sds,
        downwardAPI: {
          defaultMode: READABLE,
          items: [
            annotationFile(FILE_ANNOTATIONS.sdsCertificate, SDS_CERTIFICATE),
            annotationFile(FILE_ANNOTATIONS.sdsClients, SDS_CLIENTS),
          ],
        },
      },
    );
  }
  return volumes;
}

function controlSources({ control }: InjectorConfig): readonly JsonObject[] {
  const items = [annotationFile(FILE_ANNOTATIONS.bundleKeys, CONTROL_KEYS)];
  if (control.ca !== "") items.push(annotationFile(FILE_ANNOTATIONS.controlCa, CONTROL_CA));
  const sources: JsonObject[] = [{ downwardAPI: { items } }];
  if (control.caConfigMap !== "") {
    sources.push({ configMap: { name: control.caConfigMap, items: [{ key: "ca.crt", path: CONTROL_CA }] } });
  }
  if (control.tokenAudience !== "") {
    sources.push({
      serviceAccountToken: {
        audience: control.tokenAudience,
        expirationSeconds: TOKEN_SECONDS,
        path: CONTROL_TOKEN,
      },
    });
  }
  return sources;
}

function annotationFile(annotation: string, path: string): JsonObject {
  return { path, fieldRef: { fieldPath: `metadata.annotations['${annotation}']` } };
}

function imageOf({ repository, tag, digest }: ImageConfig): string {
  return `${repository}${tag === "" ? "" : `:${tag}`}${digest === "" ? "" : `@${digest}`}`;
}

function restartOf({ native }: Course): JsonObject {
  return native ? { restartPolicy: "Always" } : {};
}

function fieldVariable(name: string, fieldPath: string): JsonObject {
  return { name, valueFrom: { fieldRef: { fieldPath } } };
}

function readOnly(name: string, mountPath: string): JsonObject {
  return { name, mountPath, readOnly: true };
}

function securityContext(runAsUser: number | undefined): JsonObject {
  return {
    allowPrivilegeEscalation: false,
    capabilities: { drop: ["ALL"] },
    privileged: false,
    readOnlyRootFilesystem: true,
    runAsNonRoot: true,
    ...(runAsUser === undefined ? {} : { runAsUser, runAsGroup: runAsUser }),
    seccompProfile: { type: "RuntimeDefault" },
  };
}

/** A text for the kubelet, which puts variables in place of `$(NAME)` and makes one `$` of two. */
function verbatim(text: string): Json & string {
  return text.replaceAll("$", "$$$$");
}

function kubeletText(setting: string, text: string): string {
  return EXPANDED_SETTINGS.includes(setting) ? text : verbatim(text);
}
