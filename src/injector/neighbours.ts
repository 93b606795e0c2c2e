/** Other meshes in the pod: their ports, and how they are told to leave ours alone. */

import { type JsonObject, objectAt, objectsOf, textAt } from "./json.ts";

export interface Neighbour {
  readonly name: string;
  readonly container: string;
  /** The init container that leads the pod's traffic through it; its arguments are set when it is injected. */
  readonly redirector: string;
  /** Ports of the pod that are its own. */
  readonly ports: readonly number[];
  /** Annotation whose list of ports it leaves alone. */
  readonly skipInbound: string;
  /** Whether the pod says that it is going to be injected. */
  readonly isExpected: (pod: JsonObject) => boolean;
}

export const ISTIO: Neighbour = {
  name: "Istio",
  container: "istio-proxy",
  redirector: "istio-init",
  // https://istio.io/latest/docs/ops/deployment/application-requirements/#ports-used-by-istio
  ports: [15_000, 15_001, 15_002, 15_004, 15_006, 15_008, 15_020, 15_021, 15_053, 15_090],
  skipInbound: "traffic.sidecar.istio.io/excludeInboundPorts",
  isExpected: (pod) => saysSo(pod, "sidecar.istio.io/inject", "true"),
};

export const LINKERD: Neighbour = {
  name: "Linkerd",
  container: "linkerd-proxy",
  redirector: "linkerd-init",
  ports: [4_140, 4_143, 4_190, 4_191],
  skipInbound: "config.linkerd.io/skip-inbound-ports",
  isExpected: (pod) => saysSo(pod, "linkerd.io/inject", "enabled"),
};

function saysSo(pod: JsonObject, name: string, value: string): boolean {
  const metadata = objectAt(pod, "metadata");
  return objectAt(metadata, "labels")[name] === value || objectAt(metadata, "annotations")[name] === value;
}

/** Every mesh that is in the pod, or said to come. */
export function neighboursOf(pod: JsonObject): readonly Neighbour[] {
  return [ISTIO, LINKERD].filter((mesh) => isPresent(pod, mesh) || mesh.isExpected(pod));
}

export function isPresent(pod: JsonObject, { container }: Neighbour): boolean {
  return containersOf(pod).some(({ name }) => name === container);
}

/** Whether the mesh was set up to lead our health port through its proxy before we could say otherwise. */
export function capturesPort(pod: JsonObject, mesh: Neighbour, port: number): boolean {
  const redirector = objectsOf(objectAt(pod, "spec").initContainers).find(({ name }) => name === mesh.redirector);
  if (redirector === undefined) return false;
  const { args } = redirector;
  return !(Array.isArray(args) && args.some((arg) => String(arg).split(",").includes(String(port))));
}

/** All containers, init containers first. */
export function containersOf(pod: JsonObject): readonly JsonObject[] {
  const spec = objectAt(pod, "spec");
  return [...objectsOf(spec.initContainers), ...objectsOf(spec.containers)];
}

/** A list of ports, as an annotation's text, with one more; `undefined` when it is there already. */
export function withPort(text: string | undefined, port: number): string | undefined {
  const ports = (text ?? "").split(",").flatMap((part) => (part.trim() === "" ? [] : [part.trim()]));
  return ports.includes(String(port)) || ports.includes("*") ? undefined : [...ports, port].join(",");
}

/** Istio's own way to mount a volume in its proxy, which also survives that it injects the pod anew. */
export const ISTIO_MOUNTS = "sidecar.istio.io/userVolumeMount";

/**
 * The text of `ISTIO_MOUNTS` with one mount more.
 * @returns `undefined` when it is there already; `"damaged"` when what is there is neither of the forms that Istio takes
 */
export function withIstioMount(pod: JsonObject, mount: JsonObject): string | "damaged" | undefined {
  const { name, ...rest } = mount;
  const text = textAt(objectAt(objectAt(pod, "metadata"), "annotations"), ISTIO_MOUNTS);
  let mounts: unknown = {}; // by name
  if (text !== undefined) {
    try {
      mounts = JSON.parse(text);
    } catch {
      return "damaged"; // the pod is refused: the proxy would not get the socket
    }
  }
  if (Array.isArray(mounts)) {
    return objectsOf(mounts).some((one) => one.name === name) ? undefined : JSON.stringify([...mounts, mount]);
  }
  if (typeof mounts !== "object" || mounts === null) return "damaged";
  if (Object.hasOwn(mounts, String(name))) return undefined;
  return JSON.stringify({ ...mounts, [String(name)]: rest });
}
