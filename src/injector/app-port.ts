/** Finds where a pod's application listens, and lets Services that name its port find Envoy there. */

import type { App } from "./bootstrap.ts";
import type { EnvoyConfig } from "./config.ts";
import { isObject, type Json, type JsonObject, objectAt, objectsOf } from "./json.ts";
import { ISTIO, LINKERD } from "./neighbours.ts";
import { PREFIX } from "./places.ts";
import type { MovedPort } from "./status.ts";

export type FoundApp =
  | { readonly kind: "found"; readonly app: App; readonly declared: Declared | undefined }
  /** Nothing calls this pod. */
  | { readonly kind: "uncalled"; readonly why: string }
  | { readonly kind: "unclear"; readonly why: string };

/** A port as a container declares it. */
export interface Declared {
  readonly container: string;
  readonly port: number;
  readonly name: string | undefined;
}

const HTTP2_NAME = /^(?:grpc|http2|h2c)(?:-|$)/;

/** The application that Envoy is to stand before. */
export function findApp(pod: JsonObject, envoy: EnvoyConfig): FoundApp {
  const declared = declaredPorts(pod);
  const ports = [...new Set(declared.map(({ port }) => port))];
  if (envoy.appPort === undefined && ports.length !== 1) {
    const ask = `annotation ${PREFIX}app-port says where its application listens`;
    if (ports.length > 1) return { kind: "unclear", why: `it declares the ports ${ports.join(", ")}; the ${ask}` };
    const policy = objectAt(pod, "spec").restartPolicy;
    return policy === "Never" || policy === "OnFailure"
      ? { kind: "uncalled", why: `it runs to its end and declares no port, so nothing calls it (else the ${ask})` }
      : { kind: "unclear", why: `it declares no port; the ${ask}` };
  }
  const port = envoy.appPort ?? ports[0]!;
  const found = declared.find((candidate) => candidate.port === port);
  const isHttp2 = envoy.appProtocol === "http2" || (envoy.appProtocol === "auto" && HTTP2_NAME.test(found?.name ?? ""));
  return { kind: "found", app: { port, protocol: isHttp2 ? "http2" : "http1" }, declared: found };
}

/** TCP ports of the pod's own containers, those of meshes left out. */
function declaredPorts(pod: JsonObject): readonly Declared[] {
  const foreign: readonly unknown[] = [ISTIO.container, LINKERD.container];
  return objectsOf(objectAt(pod, "spec").containers).flatMap(({ name: container, ports }) =>
    foreign.includes(container)
      ? []
      : objectsOf(ports).flatMap(({ containerPort, name, protocol }) =>
          typeof containerPort === "number" && (protocol === undefined || protocol === "TCP")
            ? [{ container: String(container), port: containerPort, name: typeof name === "string" ? name : undefined }]
            : [],
        ),
  );
}

/** Places of a container that may speak of a port by its name. */
const SPEAKERS = [
  "livenessProbe",
  "readinessProbe",
  "startupProbe",
  "lifecycle.postStart",
  "lifecycle.preStop",
].flatMap((place) => [`${place}.httpGet`, `${place}.tcpSocket`]);

/**
 * The container with Envoy's port under the name of its own, and what was changed.
 * The name stays where it was, for Kubernetes before 1.32 does not look for names at native sidecars when it resolves a
 * Service's `targetPort` (https://github.com/kubernetes/kubernetes/issues/127958), and what a container declares is not
 * checked against what it does.
 */
export function withEnvoysPort(
  container: JsonObject,
  { port, name }: Declared & { readonly name: string },
  inboundPort: number,
): { readonly container: JsonObject; readonly moved: MovedPort } {
  const named = SPEAKERS.filter((place) => memberAt(container, `${place}.port`) === name);
  const numbered = named.reduce((value, place) => withMember(value, `${place}.port`, port), container);
  return {
    container: withDeclared(numbered, name, inboundPort),
    moved: { container: String(container.name), port, name, named },
  };
}

/** The container as `withEnvoysPort` found it. */
export function withOwnPort(container: JsonObject, { port, name, named }: MovedPort): JsonObject {
  const spoken = named.reduce((value, place) => withMember(value, `${place}.port`, name), container);
  return withDeclared(spoken, name, port);
}

function withDeclared(container: JsonObject, name: string, port: number): JsonObject {
  const ports = objectsOf(container.ports).map((entry) =>
    entry.name === name ? { ...entry, containerPort: port } : entry,
  );
  return container.ports === undefined ? container : { ...container, ports };
}

function memberAt(value: JsonObject, path: string): Json | undefined {
  return path
    .split(".")
    .reduce<Json | undefined>((parent, name) => (isObject(parent) ? parent[name] : undefined), value);
}

/** Changes a member that is there; whatever has gone meanwhile stays away. */
function withMember(value: JsonObject, path: string, member: Json): JsonObject {
  const [name, ...rest] = path.split(".") as [string, ...string[]];
  const child = value[name];
  if (rest.length === 0) return child === undefined ? value : { ...value, [name]: member };
  return isObject(child) ? { ...value, [name]: withMember(child, rest.join("."), member) } : value;
}
