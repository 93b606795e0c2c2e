/** What was done to a pod, noted in the pod: it keeps a second injection from happening, and lets one be undone. */

import { isObject, type Json, type JsonObject, objectAt, objectsOf, textAt } from "./json.ts";
import { SALLYPORT_CONTAINER, STATUS_ANNOTATION } from "./places.ts";

/** Why a pod is refused whose note is damaged. */
export const DAMAGED = `annotation ${STATUS_ANNOTATION}: expected what the injector wrote, got something else`;

/** The port under whose name Envoy's is declared, and where its container spoke of it by name. */
export interface MovedPort {
  readonly container: string;
  /** As it was. */
  readonly port: number;
  readonly name: string;
  /** Members of the container that name the port, such as `livenessProbe.httpGet`. */
  readonly named: readonly string[];
}

/** The value of the annotation `sallyport.dev/status`. */
export interface Status {
  /** Form of this note. */
  readonly version: 1;
  /** `InjectorConfig.hash`. */
  readonly config: string;
  readonly initContainers: readonly string[];
  readonly containers: readonly string[];
  readonly volumes: readonly string[];
  readonly imagePullSecrets: readonly string[];
  /** Annotations that were not there, this one among them. */
  readonly annotations: readonly string[];
  /** Annotations that were there with another value. */
  readonly annotationsWere: Readonly<Record<string, string>>;
  /** `spec.terminationGracePeriodSeconds` as it was, `null` where it was not there; `undefined`: it was left alone. */
  readonly graceWas?: number | null;
  /** The container that joined, once its mount was added by us. */
  readonly joined?: string;
  readonly movedPort?: MovedPort;
  /** Lists and mappings that were not there, such as `spec.volumes`. */
  readonly made: readonly string[];
}

/** The note in a pod; `undefined` when there is none, `"damaged"` when there is one that cannot be read. */
export function statusOf(pod: JsonObject): Status | "damaged" | undefined {
  const text = textAt(objectAt(objectAt(pod, "metadata"), "annotations"), STATUS_ANNOTATION);
  if (text === undefined) return undefined;
  let read: Json;
  try {
    read = JSON.parse(text) as Json;
  } catch {
    return "damaged"; // the caller refuses: nothing can be told of what else was done
  }
  return isStatus(read) ? read : "damaged";
}

function isStatus(value: Json): value is Json & Status {
  if (!isObject(value) || value.version !== 1 || typeof value.config !== "string") return false;
  const lists = ["initContainers", "containers", "volumes", "imagePullSecrets", "annotations", "made"];
  if (!lists.every((name) => isTexts(value[name]))) return false;
  if (!namesOurs(value)) return false;
  const { annotationsWere, graceWas, joined, movedPort } = value;
  if (!isObject(annotationsWere) || !isTexts(Object.values(annotationsWere))) return false;
  if (graceWas !== undefined && graceWas !== null && typeof graceWas !== "number") return false;
  if (joined !== undefined && typeof joined !== "string") return false;
  if (movedPort === undefined) return true;
  if (!isObject(movedPort) || !isTexts(movedPort.named)) return false;
  return (
    typeof movedPort.container === "string" && typeof movedPort.port === "number" && typeof movedPort.name === "string"
  );
}

/**
 * Whether the note speaks of our containers and volumes and of no others: anybody may write one, and by it neither a
 * pod's own container passes for a sidecar, nor is it taken out for one.
 */
function namesOurs(note: JsonObject): boolean {
  const containers = [...texts(note.initContainers), ...texts(note.containers)];
  const named = [...containers, ...texts(note.volumes)];
  return containers.includes(SALLYPORT_CONTAINER) && named.every((name) => OURS.test(name));
}

/** Of this version and later ones. */
const OURS = /^sallyport(?:-|$)/;

function texts(value: Json | undefined): readonly string[] {
  return value as readonly string[]; // as `isTexts` found it
}

function isTexts(value: Json | undefined): boolean {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

/** Which of the containers that the note names are in the pod. */
export function presenceOf(status: Status, pod: JsonObject): "all" | "some" | "none" {
  const spec = objectAt(pod, "spec");
  const there = [
    ...status.initContainers.map((name) => hasNamed(spec.initContainers, name)),
    ...status.containers.map((name) => hasNamed(spec.containers, name)),
  ];
  if (there.every(Boolean)) return "all";
  return there.some(Boolean) ? "some" : "none";
}

function hasNamed(list: Json | undefined, name: string): boolean {
  return objectsOf(list).some((entry) => entry.name === name);
}
