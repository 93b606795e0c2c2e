/** Reads what the Kubernetes API says of a pod (core/v1) into what sidecars are to know of it. */

import { canonicalAddress } from "../../identity/address.ts";

export interface PodNaming {
  /** `{trustDomain}`, `{namespace}` and `{serviceAccount}` are filled in. */
  readonly principal: string;
  readonly trustDomain: string;
  /** `iss` of the cluster's service account tokens; `undefined`: pods have no name by their tokens. */
  readonly issuer: string | undefined;
  /** Labels that become facts. */
  readonly labels: readonly string[];
}

/** What the replicas of one workload have in common. */
export interface PodKind {
  /** How its service account is named as a caller: its SPIFFE ID, and `issuer|subject` of its tokens. */
  readonly principals: readonly string[];
  readonly facts: Readonly<Record<string, string>>;
}

/** A pod that has not ended. */
export interface KnownPod {
  readonly uid: string;
  readonly kind: PodKind;
  /** Facts of this pod alone. */
  readonly facts: Readonly<Record<string, string>>;
  /** Canonical texts of `status.podIPs`. */
  readonly addresses: readonly string[];
  /** Its addresses name nobody: it is on its node's network, or ending. */
  readonly shared: boolean;
}

/** Containers whose images are told; the API's objects bound them in practice to some dozens. */
const CONTAINERS_MAX = 32;
const ADDRESSES_MAX = 8;
/** As conditions of a policy bound values; longer ones are cut. */
const VALUE_CHARS_MAX = 1_024;
const NAME_CHARS_MAX = 253;

/** Names the container that people mean, as `kubectl exec` takes it. */
const DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container";

/** What an image's content is named by: `imageID` ends with it, whatever the runtime puts before. */
const DIGEST = /(?:^|@|\/\/)((?:sha256:[0-9a-f]{64})|(?:sha512:[0-9a-f]{128}))$/;

/**
 * What is known of a pod.
 * @param object a Pod as it came: believed to be the API's, so parts of another form than expected count as missing
 * @returns `undefined` for what is no pod, and for pods that have ended (`status.phase` Succeeded or Failed): their
 *   addresses are others' by then
 */
export function readPod(object: unknown, naming: PodNaming): KnownPod | undefined {
  const { metadata, spec, status } = record(object);
  const meta = record(metadata);
  const has = record(spec);
  const is = record(status);
  const uid = text(meta.uid);
  const namespace = text(meta.namespace);
  const name = text(meta.name);
  const phase = text(is.phase) ?? "Unknown";
  if (uid === undefined || namespace === undefined || name === undefined) return undefined;
  if (phase === "Succeeded" || phase === "Failed") return undefined;
  const serviceAccount = text(has.serviceAccountName) ?? "default";
  const owner = list(meta.ownerReferences)
    .map(record)
    .find(({ controller }) => controller === true);
  const labels = record(meta.labels);
  const facts = compact({
    namespace,
    service_account: serviceAccount,
    owner_kind: text(owner?.kind),
    owner: text(owner?.name),
    ...imagesOf(meta, has, is),
    ...Object.fromEntries(naming.labels.map((label) => [`label.${label}`, text(labels[label])])),
  });
  const own = compact({
    pod: name,
    node: text(has.nodeName),
    phase,
    started_at: text(is.startTime),
  });
  const addresses = [is.podIP, ...list(is.podIPs).map((entry) => record(entry).ip)]
    .map((address) => canonicalAddress(text(address) ?? ""))
    .filter((address) => address !== undefined);
  return {
    uid,
    kind: { principals: principalsOf(naming, namespace, serviceAccount), facts },
    facts: own,
    addresses: [...new Set(addresses)].slice(0, ADDRESSES_MAX),
    // An ending pod keeps its address for a while, and nobody says when it goes to another.
    shared: has.hostNetwork === true || meta.deletionTimestamp !== undefined || text(is.reason) === "NodeLost",
  };
}

/** Whether sidecars would see any difference. */
export function isSamePod(one: KnownPod, other: KnownPod): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

/** SPIFFE ID of a service account. */
export function spiffeIdOf({ principal, trustDomain }: PodNaming, namespace: string, serviceAccount: string): string {
  const parts: Readonly<Record<string, string>> = { trustDomain, namespace, serviceAccount };
  return principal.replace(/\{(trustDomain|namespace|serviceAccount)\}/g, (_, part: string) => parts[part] as string);
}

/** The same, and the name that its tokens give it (`sub` of RFC 7519, after Kubernetes' form). */
function principalsOf(naming: PodNaming, namespace: string, serviceAccount: string): readonly string[] {
  const { issuer } = naming;
  const spiffe = spiffeIdOf(naming, namespace, serviceAccount);
  return issuer === undefined ? [spiffe] : [spiffe, `${issuer}|system:serviceaccount:${namespace}:${serviceAccount}`];
}

/** `image_digest` is that of the pod's default container; `image_digest.NAME` that of each one that runs with the pod. */
function imagesOf(meta: Fields, spec: Fields, status: Fields): Readonly<Record<string, string | undefined>> {
  const chosen = text(record(meta.annotations)[DEFAULT_CONTAINER]);
  const containers = list(spec.containers).map((one) => text(record(one).name));
  // Sidecars of the newer kind are init containers that are started again (`restartPolicy: Always`).
  const sidecars = list(spec.initContainers)
    .map(record)
    .filter(({ restartPolicy }) => restartPolicy === "Always")
    .map((one) => text(one.name));
  const running = new Set([...containers, ...sidecars]);
  const digests = new Map<string, string | undefined>();
  for (const one of [...list(status.containerStatuses), ...list(status.initContainerStatuses)].map(record)) {
    const name = text(one.name);
    if (name === undefined || !running.has(name) || digests.size >= CONTAINERS_MAX) continue;
    digests.set(name, DIGEST.exec(text(one.imageID) ?? "")?.[1]);
  }
  const main = chosen !== undefined && running.has(chosen) ? chosen : containers[0];
  return {
    image_digest: main === undefined ? undefined : digests.get(main),
    ...Object.fromEntries([...digests].map(([name, digest]) => [`image_digest.${name}`, digest])),
  };
}

type Fields = Readonly<Record<string, unknown>>;

function record(value: unknown): Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value.slice(0, VALUE_CHARS_MAX) : undefined;
}

/** In one order, so that equal facts are equal texts. */
function compact(facts: Readonly<Record<string, string | undefined>>): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(facts)
      .filter((entry): entry is [string, string] => entry[1] !== undefined)
      .map(([name, value]) => [name.slice(0, NAME_CHARS_MAX + "image_digest.".length), value] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );
}
