/** Adds Sallyport to a pod: a pure function, and the one place that decides what is injected, left alone or refused. */

import { isFree, optedOut, withOverrides } from "./annotations.ts";
import { type Declared, findApp, withEnvoysPort } from "./app-port.ts";
import { type App, sdsFiles } from "./bootstrap.ts";
import type { InjectorConfig } from "./config.ts";
import { type Course, envoyContainer, SOCKETS_MOUNT, sallyportContainer, volumesOf } from "./containers.ts";
import { isObject, type JsonObject, type JsonPatchOperation, objectAt, objectsOf, textAt } from "./json.ts";
import {
  capturesPort,
  containersOf,
  ISTIO,
  ISTIO_MOUNTS,
  isPresent,
  LINKERD,
  neighboursOf,
  withIstioMount,
  withPort,
} from "./neighbours.ts";
import { patchBetween } from "./patch.ts";
import {
  ENVOY_CONTAINER,
  FILE_ANNOTATIONS,
  PREFIX,
  SALLYPORT_CONTAINER,
  SDS_CERTIFICATE,
  SDS_CLIENTS,
  STATUS_ANNOTATION,
  VOLUMES,
} from "./places.ts";
import { DAMAGED, type MovedPort, presenceOf, type Status, statusOf } from "./status.ts";

/** What becomes of a pod. Texts are for the people who made it; they never hold a secret. */
export type Injection =
  /** The patch is never empty. */
  | { readonly kind: "injected"; readonly patch: readonly JsonPatchOperation[]; readonly warnings: readonly string[] }
  /** Opted out, injected already, or nothing calls it. */
  | { readonly kind: "unchanged"; readonly why: string }
  /** It cannot be guarded as it is, and running it unguarded would not be what was asked for. */
  | { readonly kind: "refused"; readonly why: string };

/** What the injector must know besides the pod. */
export interface InjectionContext {
  /** Namespace of the pod; admission tells it apart from the pod, whose own may be left out. */
  readonly namespace: string;
  /** Whether the cluster has native sidecars: Kubernetes 1.29 or later. */
  readonly nativeSidecars: boolean;
}

/** Seconds that Sallyport has to end in, once Envoy has; its `drain-timeout` and a little. */
const STOP_SECONDS = 6;

/** What the API server puts where `terminationGracePeriodSeconds` is left out. */
const GRACE_SECONDS = 30;

/** kubectl's choice among containers, where ours stand first. */
const DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container";
/** Volumes that are no reason for the cluster autoscaler to keep a node. */
const EVICTABLE = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
/** What the cluster itself stands on: whatever a webhook's selectors say, it has to start without us. */
const SYSTEM_NAMESPACES = ["kube-system", "kube-public", "kube-node-lease"];
/** Set by the kubelet in pods of its own, which nobody can change. */
const MIRROR = "kubernetes.io/config.mirror";

/**
 * Says what becomes of a pod. Never throws on what a pod may hold.
 * @param pod `metadata` and `spec`; a template of a workload is one
 */
export function injectPod(pod: JsonObject, config: InjectorConfig, context: InjectionContext): Injection {
  if (objectsOf(objectAt(pod, "spec").containers).length === 0) return unchanged("it has no containers: no pod");
  if (textAt(objectAt(objectAt(pod, "metadata"), "annotations"), MIRROR) !== undefined) {
    return unchanged("it is a static pod, which only its kubelet changes");
  }
  if (SYSTEM_NAMESPACES.includes(context.namespace))
    return unchanged(`namespace ${context.namespace} is the cluster's`);
  const noted = statusOf(pod);
  if (noted === "damaged") return refused(DAMAGED);
  const presence = noted === undefined ? "none" : presenceOf(noted, pod);
  if (noted !== undefined && presence !== "none") return again(pod, noted, presence, config);
  const because = optedOut(pod);
  if (because !== undefined) {
    if (isFree(config, "inject")) return unchanged(because);
    return refused(`${because}, which the injector's configuration does not leave to pods (overrides)`);
  }
  const overrides = withOverrides(pod, config);
  if (!overrides.ok) return refused(overrides.problems.join("; "));
  const native = overrides.native ?? isNative(config, context);
  return inject(pod, overrides.config, native);
}

function isNative({ nativeSidecars }: InjectorConfig, context: InjectionContext): boolean {
  return nativeSidecars === "auto" ? context.nativeSidecars : nativeSidecars === "always";
}

function unchanged(why: string): Injection {
  return { kind: "unchanged", why };
}

function refused(...problems: readonly string[]): Injection {
  return { kind: "refused", why: problems.join("; ") };
}

/** A pod that was injected before. */
function again(pod: JsonObject, noted: Status, presence: "all" | "some", config: InjectorConfig): Injection {
  if (presence === "some") {
    return refused(`its annotation ${STATUS_ANNOTATION} names containers of which some are missing`);
  }
  // A proxy that was injected after us has come: it gets the socket now.
  const overrides = withOverrides(pod, config);
  if (overrides.ok && overrides.config.envoy.mode === "join") {
    const { container } = overrides.config.envoy;
    const draft = structuredClone(pod) as Draft;
    const note: MutableStatus = structuredClone(noted);
    if (noted.volumes.includes(VOLUMES.sockets) && mount(draft, container, note)) {
      write(draft, note);
      return { kind: "injected", patch: patchBetween(pod, draft), warnings: [] };
    }
  }
  return unchanged(noted.config === config.hash ? "it is injected" : "it is injected, by another configuration");
}

/** A pod that is being changed: a copy of our own. */
interface Draft extends JsonObject {
  spec: Mutable & {
    initContainers: JsonObject[];
    containers: JsonObject[];
    volumes: JsonObject[];
    imagePullSecrets: JsonObject[];
    terminationGracePeriodSeconds: number;
  };
}

type Mutable = { [name: string]: JsonObject[string] };
type MutableStatus = { -readonly [Key in keyof Status]: Status[Key] };

function inject(pod: JsonObject, config: InjectorConfig, native: boolean): Injection {
  const problems: string[] = [...hostProblems(pod), ...nameProblems(pod), ...endingProblems(pod, native)];
  const warnings: string[] = [];
  const { envoy } = config;
  let target: { readonly app: App; readonly declared: Declared | undefined } | undefined;
  if (envoy.mode === "sidecar") {
    const found = findApp(pod, envoy);
    if (found.kind === "uncalled") return unchanged(found.why);
    if (found.kind === "unclear") problems.push(found.why);
    if (found.kind === "found") target = found;
  }
  problems.push(...portProblems(pod, config, target?.app), ...joinProblems(pod, config));
  const move = target?.declared;
  if (target !== undefined && envoy.redirect === "ports" && move?.name === undefined) {
    problems.push(
      `its port ${target.app.port} has no name under which Envoy's could be found: name it, or set annotation ${PREFIX}redirect to none`,
    );
  }
  if (problems.length > 0) return refused(...problems);

  const draft = structuredClone(pod) as Draft;
  const note = blankNote(config);
  const course = courseOf(pod, config, native);
  if (target !== undefined && envoy.redirect === "ports" && move?.name !== undefined) {
    note.movedPort = movePort(draft, { ...move, name: move.name }, envoy.inboundPort);
  }
  const added = [
    sallyportContainer(config, course),
    ...(target === undefined ? [] : [envoyContainer(config, target.app, course)]),
  ];
  const names = added.map(({ name }) => String(name));
  if (native) note.initContainers = names;
  else note.containers = names;
  listIn(draft, native ? "initContainers" : "containers", note).unshift(...added);
  const volumes = volumesOf(config);
  note.volumes = volumes.map(({ name }) => String(name));
  listIn(draft, "volumes", note).push(...volumes);
  addPullSecrets(draft, config, note);
  if (envoy.mode === "join") join(draft, config, note, warnings);
  lengthenGrace(draft, config, native, note);
  annotate(draft, config, native, note);
  easeNeighbours(pod, draft, config, note, warnings);
  warnings.push(...exposures(draft, config));
  if (!native && envoy.mode === "sidecar" && envoy.drain !== "script") {
    warnings.push(
      `envoy.drain is ${envoy.drain}: without its script nothing holds the pod's containers back until Sallyport and Envoy are ready`,
    );
  }
  write(draft, note);
  return { kind: "injected", patch: patchBetween(pod, draft), warnings };
}

/** Pods that share with their node what a sidecar cannot guard. */
function hostProblems(pod: JsonObject): readonly string[] {
  const spec = objectAt(pod, "spec");
  const problems: string[] = [];
  const isWindows =
    objectAt(spec, "os").name === "windows" || objectAt(spec, "nodeSelector")["kubernetes.io/os"] === "windows";
  if (isWindows) problems.push("it runs on Windows, and Sallyport and Envoy's image on Linux");
  if (spec.hostNetwork === true) {
    problems.push("hostNetwork: its ports are its node's, where Envoy's would clash and callers would get past it");
  }
  if (spec.hostPID === true) problems.push("hostPID: its node's processes could look into Sallyport's, keys included");
  return problems.map((problem) => `${problem} (${PREFIX}inject: "false" leaves it unguarded)`);
}

function nameProblems(pod: JsonObject): readonly string[] {
  const problems: string[] = [];
  const containers = containersOf(pod).map(({ name }) => name);
  for (const name of [SALLYPORT_CONTAINER, ENVOY_CONTAINER]) {
    if (containers.includes(name)) problems.push(`it has a container named ${name} already, which was not injected`);
  }
  const volumes = objectsOf(objectAt(pod, "spec").volumes).map(({ name }) => name);
  for (const name of Object.values(VOLUMES)) {
    if (volumes.includes(name)) problems.push(`it has a volume named ${name} already, which was not injected`);
  }
  return problems;
}

/** Pods that have to end, in which a classic sidecar would not. */
function endingProblems(pod: JsonObject, native: boolean): readonly string[] {
  const policy = objectAt(pod, "spec").restartPolicy;
  if (native || (policy !== "Never" && policy !== "OnFailure")) return [];
  return [
    `restartPolicy ${policy}: a classic sidecar would keep it from ending. It needs native sidecars (Kubernetes 1.29 or later), or ${PREFIX}inject: "false"`,
  ];
}

/** Ports that two containers of the pod would listen on. */
function portProblems(pod: JsonObject, config: InjectorConfig, app: App | undefined): readonly string[] {
  const { envoy } = config;
  const ours: (readonly [port: number, key: string])[] = [[config.healthPort, "healthPort"]];
  if (envoy.mode === "sidecar") {
    ours.push([envoy.inboundPort, "envoy.inboundPort"]);
    ours.push([envoy.adminPort, "envoy.adminPort"], [envoy.healthPort, "envoy.healthPort"]);
  }
  const taken = new Map<number, string>();
  for (const mesh of neighboursOf(pod)) for (const port of mesh.ports) taken.set(port, mesh.name);
  for (const { name, ports } of containersOf(pod)) {
    for (const { containerPort } of objectsOf(ports)) {
      if (typeof containerPort === "number") taken.set(containerPort, `container ${name}`);
    }
  }
  if (app !== undefined && !taken.has(app.port)) taken.set(app.port, "the application");
  const problems: string[] = [];
  for (const [port, key] of ours) {
    const by = taken.get(port);
    if (by === undefined) taken.set(port, key);
    else problems.push(`port ${port} is ${by}'s, and ${key} of the injector; choose another for one of them`);
  }
  const isIstio = problems.length > 0 && envoy.mode === "sidecar" && neighboursOf(pod).includes(ISTIO);
  return isIstio ? [...problems, `or let Istio's proxy ask Sallyport: ${PREFIX}envoy: join`] : problems;
}

function joinProblems(pod: JsonObject, { envoy }: InjectorConfig): readonly string[] {
  if (envoy.mode !== "join") return [];
  if (envoy.container === LINKERD.container) return ["Linkerd's proxy is no Envoy: it cannot join"];
  if (envoy.container === ISTIO.container) {
    const text = withIstioMount(pod, SOCKETS_MOUNT);
    return text === "damaged" ? [`annotation ${ISTIO_MOUNTS}: expected a JSON object or list, got something else`] : [];
  }
  const names = containersOf(pod).map(({ name }) => name);
  if (names.includes(envoy.container)) return [];
  return [`it has no container ${envoy.container} (envoy.container) that could join, only ${names.join(", ")}`];
}

function courseOf(pod: JsonObject, config: InjectorConfig, native: boolean): Course {
  const { envoy } = config;
  if (native) return { native, drainSeconds: envoy.drainSeconds, drainDelaySeconds: 0 };
  const grace = graceOf(pod);
  // All end at once: Envoy stays as long as the application may, and Sallyport as long as Envoy.
  const drainSeconds = Math.max(1, envoy.drain === "script" ? grace : Math.min(grace, envoy.drainSeconds));
  return { native, drainSeconds, drainDelaySeconds: envoy.mode === "none" || grace === 0 ? 0 : grace };
}

function graceOf(pod: JsonObject): number {
  const given = objectAt(pod, "spec").terminationGracePeriodSeconds;
  return typeof given === "number" ? given : GRACE_SECONDS;
}

function blankNote({ hash }: InjectorConfig): MutableStatus {
  return {
    version: 1,
    config: hash,
    initContainers: [],
    containers: [],
    volumes: [],
    imagePullSecrets: [],
    annotations: [],
    annotationsWere: {},
    made: [],
  };
}

/** A list of the pod's spec, made where it is missing. */
function listIn(
  { spec }: Draft,
  name: "initContainers" | "containers" | "volumes" | "imagePullSecrets",
  note: MutableStatus,
): JsonObject[] {
  if (!Array.isArray(spec[name])) {
    note.made = [...note.made, spec[name] === undefined ? `spec.${name}` : `null:spec.${name}`];
    spec[name] = [];
  }
  return spec[name];
}

function movePort(draft: Draft, port: Declared & { readonly name: string }, inboundPort: number): MovedPort {
  const { containers } = draft.spec;
  const index = containers.findIndex(({ name }) => name === port.container);
  const { container, moved } = withEnvoysPort(containers[index]!, port, inboundPort);
  containers[index] = container;
  return moved;
}

function addPullSecrets(draft: Draft, { imagePullSecrets }: InjectorConfig, note: MutableStatus): void {
  const there = objectsOf(draft.spec.imagePullSecrets).map(({ name }) => name);
  const missing = imagePullSecrets.filter((name) => !there.includes(name));
  if (missing.length === 0) return;
  listIn(draft, "imagePullSecrets", note).push(...missing.map((name) => ({ name })));
  note.imagePullSecrets = missing;
}

/** Gives the socket to the Envoy that the pod has, or will have. */
function join(draft: Draft, { envoy }: InjectorConfig, note: MutableStatus, warnings: string[]): void {
  const isThere = containersOf(draft).some(({ name }) => name === envoy.container);
  if (envoy.container === ISTIO.container) {
    const text = withIstioMount(draft, SOCKETS_MOUNT);
    if (text !== undefined) setAnnotation(draft, ISTIO_MOUNTS, text, note);
    if (!isThere) warnings.push("Istio's proxy is not in the pod yet; it gets the socket when Istio injects it");
  }
  mount(draft, envoy.container, note);
}

/** @returns whether the mount was missing and the container is there */
function mount({ spec }: Draft, container: string, note: MutableStatus): boolean {
  for (const list of ["initContainers", "containers"] as const) {
    const index = objectsOf(spec[list]).findIndex(({ name }) => name === container);
    if (index < 0) continue;
    const found = spec[list][index]!;
    const mounts = objectsOf(found.volumeMounts);
    if (mounts.some(({ name }) => name === VOLUMES.sockets)) return false;
    if (found.volumeMounts === undefined) note.made = [...note.made, "joined.volumeMounts"];
    if (found.volumeMounts === null) note.made = [...note.made, "null:joined.volumeMounts"];
    note.joined = container;
    spec[list][index] = { ...found, volumeMounts: [...mounts, SOCKETS_MOUNT] };
    return true;
  }
  return false;
}

/** The time that the pod has to end in is its own: what ours need comes on top. */
function lengthenGrace(draft: Draft, { envoy }: InjectorConfig, native: boolean, note: MutableStatus): void {
  const grace = graceOf(draft);
  // 0 means "at once": nothing waits for anything then.
  if (grace === 0 || (native && envoy.mode !== "sidecar")) return;
  const given = objectAt(draft, "spec").terminationGracePeriodSeconds;
  note.graceWas = typeof given === "number" ? given : null;
  const drain = native && envoy.drain !== "none" ? envoy.drainSeconds : 0;
  draft.spec.terminationGracePeriodSeconds = grace + drain + STOP_SECONDS;
}

function annotate(draft: Draft, config: InjectorConfig, native: boolean, note: MutableStatus): void {
  const { control, envoy, policy, state } = config;
  if (policy.kind === "control") {
    setAnnotation(draft, FILE_ANNOTATIONS.bundleKeys, control.bundleKeys, note);
    if (control.ca !== "") setAnnotation(draft, FILE_ANNOTATIONS.controlCa, control.ca, note);
  }
  if (envoy.mode === "sidecar" && envoy.tls !== undefined) {
    const files = sdsFiles(envoy.tls);
    setAnnotation(draft, FILE_ANNOTATIONS.sdsCertificate, files[SDS_CERTIFICATE]!, note);
    setAnnotation(draft, FILE_ANNOTATIONS.sdsClients, files[SDS_CLIENTS]!, note);
  }
  const annotations = objectAt(objectAt(draft, "metadata"), "annotations");
  const first = native ? undefined : objectsOf(draft.spec.containers).find(({ name }) => !isOurs(name));
  if (first !== undefined && annotations[DEFAULT_CONTAINER] === undefined) {
    setAnnotation(draft, DEFAULT_CONTAINER, String(first.name), note);
  }
  if (state.kind === "emptyDir") {
    const evictable = (textAt(annotations, EVICTABLE) ?? "").split(",").filter((name) => name !== "");
    if (!evictable.includes(VOLUMES.state)) {
      setAnnotation(draft, EVICTABLE, [...evictable, VOLUMES.state].join(","), note);
    }
  }
}

function isOurs(name: unknown): boolean {
  return name === SALLYPORT_CONTAINER || name === ENVOY_CONTAINER;
}

/** Kubelets and Prometheus ask our health ports without a mesh's certificate. */
function easeNeighbours(
  pod: JsonObject,
  draft: Draft,
  config: InjectorConfig,
  note: MutableStatus,
  warnings: string[],
): void {
  const ports = [config.healthPort, ...(config.envoy.mode === "sidecar" ? [config.envoy.healthPort] : [])];
  for (const mesh of neighboursOf(pod)) {
    const { skipInbound } = mesh;
    if (skipInbound === undefined) continue;
    for (const port of ports) {
      const annotations = objectAt(objectAt(draft, "metadata"), "annotations");
      const text = withPort(textAt(annotations, skipInbound), port);
      if (text !== undefined) setAnnotation(draft, skipInbound, text, note);
    }
    const late = ports.filter((port) => isPresent(pod, mesh) && capturesPort(pod, mesh, port));
    if (late.length > 0) {
      warnings.push(
        `${mesh.name} was injected first and leads port ${late.join(" and ")} through its proxy: where it insists on mTLS the kubelet's probes fail. Set ${skipInbound}: "${late.join(",")}" in the pod's template`,
      );
    }
  }
}

function setAnnotation(draft: Draft, name: string, value: string, note: MutableStatus): void {
  const metadata = mappingIn(draft as Mutable, "metadata", "metadata", note);
  const annotations = mappingIn(metadata, "annotations", "metadata.annotations", note);
  const was = annotations[name];
  if (was === undefined) note.annotations = [...note.annotations, name];
  else if (!note.annotations.includes(name) && !Object.hasOwn(note.annotationsWere, name)) {
    note.annotationsWere = { ...note.annotationsWere, [name]: String(was) };
  }
  annotations[name] = value;
}

/** A mapping of the draft, made where it is missing. */
function mappingIn(parent: Mutable, name: string, path: string, note: MutableStatus): Mutable {
  const found = parent[name];
  if (isObject(found)) return found as Mutable; // of the draft, which is ours to change
  note.made = [...note.made, found === undefined ? path : `null:${path}`];
  const made: Mutable = {};
  parent[name] = made;
  return made;
}

/** Notes in the pod what was done to it. */
function write(draft: Draft, note: MutableStatus): void {
  // Twice: the first time tells the note of itself, and of the mappings that it needed.
  setAnnotation(draft, STATUS_ANNOTATION, "", note);
  setAnnotation(draft, STATUS_ANNOTATION, JSON.stringify(note), note);
}

/** Ways past Envoy that the pod leaves open; they are said, not closed, for closing them is the cluster's part. */
function exposures(pod: JsonObject, { envoy }: InjectorConfig): readonly string[] {
  const spec = objectAt(pod, "spec");
  const warnings: string[] = [];
  for (const { name, ports } of objectsOf(spec.containers)) {
    for (const { hostPort, containerPort } of objectsOf(ports)) {
      const isPast = envoy.mode === "sidecar" && containerPort !== envoy.inboundPort;
      if (isPast && typeof hostPort === "number" && hostPort > 0) {
        warnings.push(`hostPort ${hostPort} of container ${name} leads past Envoy`);
      }
    }
  }
  if (spec.shareProcessNamespace === true) {
    warnings.push("shareProcessNamespace: containers that run as Sallyport's user, or as root, can look into it");
  }
  return warnings;
}
