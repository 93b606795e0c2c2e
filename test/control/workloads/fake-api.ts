/**
 * The part of the Kubernetes API that lists and watches pods, over real HTTP: resource versions that only grow, pages with
 * tokens that expire, watches from a version on, bookmarks, 410 Gone once versions were compacted, and faults when asked.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import type { Test } from "tap";

export interface PodOptions {
  readonly name: string;
  readonly namespace?: string;
  readonly serviceAccount?: string;
  readonly uid?: string;
  readonly ip?: string | undefined;
  readonly ips?: readonly string[];
  readonly node?: string;
  readonly phase?: string;
  readonly hostNetwork?: boolean;
  readonly deleting?: boolean;
  readonly labels?: Readonly<Record<string, string>>;
  readonly digest?: string;
  readonly image?: string;
}

export const DIGEST = `sha256:${"a".repeat(64)}`;

export interface Pod {
  readonly apiVersion: "v1";
  readonly kind: "Pod";
  readonly metadata: Readonly<Record<string, unknown>> & {
    readonly uid: string;
    readonly name: string;
    readonly namespace: string;
    resourceVersion?: string;
  };
  readonly spec: Readonly<Record<string, unknown>>;
  readonly status: Readonly<Record<string, unknown>>;
}

/** A pod as the API would tell of it, cut down to what matters here and some of what does not. */
export function pod(options: PodOptions): Pod {
  const { name, namespace = "shop", serviceAccount = "orders", uid = `uid-${namespace}-${name}` } = options;
  const { ip, ips = ip === undefined ? [] : [ip], node = "node-1", phase = "Running", digest = DIGEST } = options;
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      uid,
      name,
      namespace,
      labels: { "pod-template-hash": "6c5", ...options.labels },
      ownerReferences: [
        { apiVersion: "apps/v1", kind: "ReplicaSet", name: `${name}-owner`, uid: "rs-1", controller: true },
      ],
      managedFields: [{ manager: "kubelet", operation: "Update" }],
      ...(options.deleting === true
        ? { deletionTimestamp: "2026-03-02T12:00:00Z", deletionGracePeriodSeconds: 30 }
        : {}),
    },
    spec: {
      serviceAccountName: serviceAccount,
      nodeName: node,
      ...(options.hostNetwork === true ? { hostNetwork: true } : {}),
      containers: [{ name: "main", image: "registry.example/main:1", env: [{ name: "SECRET", value: "hunter2" }] }],
    },
    status: {
      phase,
      startTime: "2026-03-02T11:00:00Z",
      hostIP: "192.168.7.1",
      ...(ips[0] === undefined ? {} : { podIP: ips[0], podIPs: ips.map((one) => ({ ip: one })) }),
      containerStatuses: [
        { name: "main", image: "registry.example/main:1", imageID: options.image ?? `registry.example/main@${digest}` },
      ],
    },
  };
}

interface Event {
  readonly version: number;
  readonly type: "ADDED" | "MODIFIED" | "DELETED";
  readonly object: Pod;
}

interface Watcher {
  readonly response: ServerResponse;
  readonly namespace: string | undefined;
}

export interface FakeApi {
  readonly url: string;
  /** Every request, as `GET PATH?QUERY`, in order. */
  readonly asked: string[];
  /** Tokens that came, in order. */
  readonly tokens: (string | undefined)[];
  /** How many watches are open. */
  watchers(): number;
  set(...pods: readonly Pod[]): void;
  /** Takes a pod away. */
  delete(uid: string): void;
  bookmark(): void;
  /** Forgets events: watches from before are told 410. */
  compact(): void;
  /** Cuts all connections without a word. */
  cut(): void;
  /** Ends all watches properly, as after `timeoutSeconds`. */
  endWatches(): void;
  /** Answers the next requests so, instead. */
  fail(...answers: readonly Failure[]): void;
  /** Writes a line to all watches, whatever it is. */
  say(line: string): void;
  /** Whether watches are accepted and never told anything. */
  mute: boolean;
}

export interface Failure {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

export interface FakeApiOptions {
  /** Token that is wanted. */
  readonly token?: () => string;
  readonly tls?: { readonly cert: string; readonly key: string };
  readonly port?: number;
  /** `status` of the TokenReview of a token. */
  readonly review?: (token: string, audiences: readonly string[]) => Readonly<Record<string, unknown>>;
}

export async function fakeApi(t: Test, { token, tls, review, port = 0 }: FakeApiOptions = {}): Promise<FakeApi> {
  const pods = new Map<string, Pod>();
  const watchers = new Set<Watcher>();
  const sockets = new Set<Socket>();
  const asked: string[] = [];
  const tokens: (string | undefined)[] = [];
  const failures: Failure[] = [];
  /** Snapshots that pages go on from. */
  const snapshots = new Map<string, { readonly items: readonly Pod[]; readonly version: number }>();
  let events: Event[] = [];
  let version = 1_000;
  let compacted = 0;
  const api = { mute: false };

  const status = (code: number, reason: string, message: string) =>
    JSON.stringify({ kind: "Status", apiVersion: "v1", status: "Failure", message, reason, code });

  const handle = (request: IncomingMessage, response: ServerResponse): void => {
    const url = new URL(request.url ?? "/", "http://api");
    asked.push(`${request.method} ${url.pathname}${decodeURIComponent(url.search)}`);
    const bearer = /^Bearer (.*)$/.exec(request.headers.authorization ?? "")?.[1];
    tokens.push(bearer);
    const failure = failures.shift();
    if (failure !== undefined) {
      response.writeHead(failure.status, { "content-type": "application/json", ...failure.headers });
      response.end(failure.body ?? status(failure.status, "Failed", "asked to fail"));
      return;
    }
    if (token !== undefined && bearer !== token()) {
      response.writeHead(401, { "content-type": "application/json" }).end(status(401, "Unauthorized", "Unauthorized"));
      return;
    }
    if (url.pathname === REVIEWS && request.method === "POST" && review !== undefined) {
      void reviewed(request, response, review);
      return;
    }
    const namespace = /^\/api\/v1\/namespaces\/([^/]+)\/pods$/.exec(url.pathname)?.[1];
    if (namespace === undefined && url.pathname !== "/api/v1/pods") {
      response.writeHead(404, { "content-type": "application/json" }).end(status(404, "NotFound", "not found"));
      return;
    }
    if (url.searchParams.get("watch") === "true") watch(url, namespace, response);
    else list(url, namespace, response);
  };

  const list = (url: URL, namespace: string | undefined, response: ServerResponse): void => {
    const limit = Number(url.searchParams.get("limit") ?? "0");
    const go = url.searchParams.get("continue");
    let snapshot = { items: [...pods.values()].filter((one) => isIn(one, namespace)), version };
    let from = 0;
    if (go !== null) {
      const [id = "", offset] = go.split(":");
      const known = snapshots.get(id);
      if (known === undefined || known.version < compacted) {
        response.writeHead(410, { "content-type": "application/json" });
        response.end(status(410, "Expired", "The provided continue parameter is too old"));
        return;
      }
      snapshot = known as typeof snapshot;
      from = Number(offset);
    }
    const end = limit === 0 ? snapshot.items.length : from + limit;
    const more = end < snapshot.items.length;
    const id = `s${snapshot.version}`;
    if (more) snapshots.set(id, snapshot);
    response.writeHead(200, { "content-type": "application/json" });
    response.end(
      JSON.stringify({
        kind: "PodList",
        apiVersion: "v1",
        metadata: {
          resourceVersion: String(snapshot.version),
          ...(more ? { continue: `${id}:${end}`, remainingItemCount: snapshot.items.length - end } : {}),
        },
        items: snapshot.items.slice(from, end),
      }),
    );
  };

  const watch = (url: URL, namespace: string | undefined, response: ServerResponse): void => {
    const from = Number(url.searchParams.get("resourceVersion"));
    response.writeHead(200, { "content-type": "application/json", "transfer-encoding": "chunked" });
    response.flushHeaders();
    if (from < compacted) {
      const object = JSON.parse(status(410, "Expired", `too old resource version: ${from} (${compacted})`)) as unknown;
      response.end(`${JSON.stringify({ type: "ERROR", object })}\n`);
      return;
    }
    const watcher = { response, namespace };
    watchers.add(watcher);
    response.once("close", () => watchers.delete(watcher));
    if (!api.mute) for (const event of events) if (event.version > from) tell(watcher, event);
  };

  const tell = ({ response, namespace }: Watcher, { type, object }: Event): void => {
    if (isIn(object, namespace)) response.write(`${JSON.stringify({ type, object })}\n`);
  };

  const note = (type: Event["type"], object: Pod): void => {
    version++;
    const told = { ...object, metadata: { ...object.metadata, resourceVersion: String(version) } };
    if (type === "DELETED") pods.delete(object.metadata.uid);
    else pods.set(object.metadata.uid, told);
    const event = { version, type, object: told };
    events.push(event);
    if (!api.mute) for (const watcher of watchers) tell(watcher, event);
  };

  const server: Server = tls === undefined ? createServer(handle) : (createTlsServer(tls, handle) as unknown as Server);
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  const cut = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  t.teardown(() => {
    cut();
    server.close();
  });
  return Object.assign(api, {
    url: `${tls === undefined ? "http" : "https"}://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    tokens,
    watchers: () => watchers.size,
    set: (...all: readonly Pod[]) => {
      for (const one of all) note(pods.has(one.metadata.uid) ? "MODIFIED" : "ADDED", one);
    },
    delete: (uid: string) => note("DELETED", pods.get(uid)!),
    bookmark: () => {
      version++;
      const object = { kind: "Pod", apiVersion: "v1", metadata: { resourceVersion: String(version) } };
      for (const { response } of watchers) response.write(`${JSON.stringify({ type: "BOOKMARK", object })}\n`);
    },
    compact: () => {
      compacted = version;
      events = [];
      snapshots.clear();
    },
    cut,
    endWatches: () => {
      for (const { response } of watchers) response.end();
    },
    fail: (...answers: readonly Failure[]) => void failures.push(...answers),
    say: (line: string) => {
      for (const { response } of watchers) response.write(`${line}\n`);
    },
  });
}

const REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews";

async function reviewed(
  request: IncomingMessage,
  response: ServerResponse,
  review: NonNullable<FakeApiOptions["review"]>,
): Promise<void> {
  const pieces: Buffer[] = [];
  for await (const piece of request) pieces.push(piece as Buffer);
  const asked = JSON.parse(Buffer.concat(pieces).toString()) as { spec: { token: string; audiences: string[] } };
  response.writeHead(201, { "content-type": "application/json" });
  response.end(JSON.stringify({ ...asked, status: review(asked.spec.token, asked.spec.audiences) }));
}

function isIn({ metadata }: Pod, namespace: string | undefined): boolean {
  return namespace === undefined || metadata.namespace === namespace;
}
