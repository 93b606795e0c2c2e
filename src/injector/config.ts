/** What the injector adds to pods, as an `InjectorConfig` says it. */

import type { Json, JsonObject } from "./json.ts";

/** What the injector adds; see docs/injector.md for each key. Texts are as they were written, bounds are checked. */
export interface InjectorConfig {
  readonly image: ImageConfig;
  /** Names of Secrets in the pod's namespace, added to those that the pod has. */
  readonly imagePullSecrets: readonly string[];
  /** `auto`: where the cluster has them, as the caller of `injectPod` says. */
  readonly nativeSidecars: "auto" | "always" | "never";
  /** `resources` of the container `sallyport`, as in the Kubernetes API. */
  readonly resources: JsonObject;
  /** UID and GID of `sallyport`, Envoy's is one more; `undefined` leaves both to the cluster (OpenShift), as 0 in the file says. */
  readonly runAsUser: number | undefined;
  /** Where the added containers listen for callers and kubelets. */
  readonly listenAddress: "0.0.0.0" | "::";
  /** Port of `/healthz`, `/readyz` and `/metrics` in the pod. */
  readonly healthPort: number;
  readonly mode: "policy" | "observe";
  readonly logLevel: "debug" | "info" | "warn" | "error" | "silent";
  readonly decisionLog: "stdout" | "off";
  /** Entries of `env`, as in the Kubernetes API. */
  readonly extraEnv: readonly JsonObject[];
  /** Further settings of `sallyport serve`. */
  readonly settings: Readonly<Record<string, string>>;
  readonly policy: PolicySource;
  readonly state: { readonly kind: "emptyDir"; readonly sizeLimit: string } | { readonly kind: "none" };
  readonly control: ControlConfig;
  readonly envoy: EnvoyConfig;
  /** Annotations, after `sallyport.dev/`, by which pods may choose for themselves; `undefined`: all. */
  readonly overrides: readonly string[] | undefined;
  /** SHA-256 over all of it, 16 hex digits: tells pods that were injected by it from others. */
  readonly hash: string;
}

export interface ImageConfig {
  readonly repository: string;
  /** Empty where only the digest counts. */
  readonly tag: string;
  /** `sha256:…`; empty: the tag decides. */
  readonly digest: string;
  readonly pullPolicy: "Always" | "IfNotPresent" | "Never";
}

/** Where the sidecar's policy comes from. */
export type PolicySource =
  | { readonly kind: "shipped" }
  /** Of the pod's namespace. */
  | { readonly kind: "configMap" | "secret"; readonly name: string; readonly key: string }
  | { readonly kind: "control" };

export interface ControlConfig {
  /** `https://HOST:9292`, several separated by commas; empty: none. */
  readonly address: string;
  /** PEM certificates that are believed for it; empty: the system's, or `caConfigMap`. */
  readonly ca: string;
  /** ConfigMap of the pod's namespace with the key `ca.crt`; empty: `ca`. */
  readonly caConfigMap: string;
  /** Audience of the projected service-account token; empty: no token is shown. */
  readonly tokenAudience: string;
  /** Text of the key file with the public keys whose signatures count. */
  readonly bundleKeys: string;
}

export interface EnvoyConfig {
  /** `sidecar`: one is added; `join`: one of the pod's containers gets the socket; `none`: neither. */
  readonly mode: "sidecar" | "join" | "none";
  /** Of `join`: the container that gets the socket. */
  readonly container: string;
  readonly image: string;
  readonly pullPolicy: "Always" | "IfNotPresent" | "Never";
  /** Where Envoy listens. */
  readonly inboundPort: number;
  /** The application's; `undefined`: the one TCP port that the pod's containers declare. */
  readonly appPort: number | undefined;
  /** `auto`: by the name of the application's port. */
  readonly appProtocol: "auto" | "http1" | "http2";
  /** `none`: Services name `inboundPort`; `ports`: the application's named port becomes Envoy's. */
  readonly redirect: "none" | "ports";
  /** On loopback. */
  readonly adminPort: number;
  /** `/ready` and `/stats/prometheus`, for kubelets and Prometheus. */
  readonly healthPort: number;
  readonly failureMode: "deny" | "allow";
  /** Of all tries together. */
  readonly checkTimeoutMs: number;
  /** Worker threads. */
  readonly concurrency: number;
  readonly logLevel: "trace" | "debug" | "info" | "warning" | "error" | "critical" | "off";
  /** How it waits for open requests before it ends: a script for Bash in its image, Kubernetes' own sleep, or not at all. */
  readonly drain: "script" | "sleep" | "none";
  /** Longest wait of `drain`, in seconds. */
  readonly drainSeconds: number;
  /** `undefined`: callers come without TLS. */
  readonly tls: TlsConfig | undefined;
  readonly resources: JsonObject;
}

export interface TlsConfig {
  /** Secret of the pod's namespace. */
  readonly secret: string;
  /** Keys of the Secret: certificate chain, private key, and the authorities that client certificates must be of. */
  readonly certificate: string;
  readonly key: string;
  readonly clientCa: string;
  /** What the URI name of a client certificate begins with, such as `spiffe://shop.example/`. */
  readonly clientPrefix: string;
}

/** The canonical text that `hash` is taken of: members sorted, so that the order of writing does not count. */
export function canonicalText(value: unknown): string {
  return JSON.stringify(value, (_, member: Json) =>
    typeof member === "object" && member !== null && !Array.isArray(member)
      ? Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1)))
      : member,
  );
}
