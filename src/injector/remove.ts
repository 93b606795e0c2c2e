/** Takes out of a pod what was injected, and nothing else. */

import { withOwnPort } from "./app-port.ts";
import { isObject, type Json, type JsonObject, objectAt, objectsOf } from "./json.ts";
import { VOLUMES } from "./places.ts";
import { DAMAGED, type Status, statusOf } from "./status.ts";

export type Removal =
  | { readonly kind: "removed"; readonly pod: JsonObject }
  | { readonly kind: "unchanged"; readonly why: string }
  | { readonly kind: "refused"; readonly why: string };

/** The pod as it was before it was injected; what others added since stays. */
export function removeInjection(pod: JsonObject): Removal {
  const status = statusOf(pod);
  if (status === undefined) return { kind: "unchanged", why: "it was not injected" };
  if (status === "damaged") return { kind: "refused", why: DAMAGED };
  const spec = specWithout(objectAt(pod, "spec"), status);
  const metadata = metadataWithout(objectAt(pod, "metadata"), status);
  const { metadata: _, ...rest } = pod;
  const bare = metadata === undefined ? { ...rest, spec } : { ...pod, metadata, spec };
  return { kind: "removed", pod: bare };
}

function specWithout(given: JsonObject, status: Status): JsonObject {
  const spec: Record<string, Json> = { ...given };
  const lists = [
    ["initContainers", status.initContainers],
    ["containers", status.containers],
    ["volumes", status.volumes],
    ["imagePullSecrets", status.imagePullSecrets],
  ] as const;
  for (const [name, names] of lists) {
    if (names.length === 0 || !Array.isArray(spec[name])) continue;
    const left = objectsOf(spec[name]).filter((entry) => !names.includes(String(entry.name)));
    put(spec, name, `spec.${name}`, left, left.length === 0, status);
  }
  for (const name of ["initContainers", "containers"]) {
    if (Array.isArray(spec[name])) spec[name] = objectsOf(spec[name]).map((entry) => restored(entry, status));
  }
  if (status.graceWas === null) delete spec.terminationGracePeriodSeconds;
  else if (status.graceWas !== undefined) spec.terminationGracePeriodSeconds = status.graceWas;
  return spec;
}

/** Puts a value back, or what stood there before it was made. */
function put(
  parent: Record<string, Json>,
  name: string,
  path: string,
  value: Json,
  isEmpty: boolean,
  { made }: Status,
): void {
  if (isEmpty && made.includes(path)) delete parent[name];
  else if (isEmpty && made.includes(`null:${path}`)) parent[name] = null;
  else parent[name] = value;
}

function restored(container: JsonObject, status: Status): JsonObject {
  const { movedPort } = status;
  const isMoved = movedPort !== undefined && container.name === movedPort.container;
  const named = isMoved ? withOwnPort(container, movedPort) : container;
  const mounts = objectsOf(named.volumeMounts);
  const left = mounts.filter(({ name }) => name !== VOLUMES.sockets);
  if (left.length === mounts.length) return named;
  const value: Record<string, Json> = { ...named };
  const isEmpty = left.length === 0 && status.joined === container.name;
  put(value, "volumeMounts", "joined.volumeMounts", left, isEmpty, status);
  return value;
}

function metadataWithout(given: JsonObject, status: Status): Json | undefined {
  const annotations: Record<string, Json> = { ...objectAt(given, "annotations") };
  for (const name of status.annotations) delete annotations[name];
  for (const [name, was] of Object.entries(status.annotationsWere)) {
    if (Object.hasOwn(annotations, name)) annotations[name] = was;
  }
  const metadata: Record<string, Json> = { ...given };
  const isBare = Object.keys(annotations).length === 0;
  put(metadata, "annotations", "metadata.annotations", annotations, isBare, status);
  const parent: Record<string, Json> = {};
  put(parent, "metadata", "metadata", metadata, Object.keys(metadata).length === 0, status);
  return isObject(parent.metadata) || parent.metadata === null ? parent.metadata : undefined;
}
