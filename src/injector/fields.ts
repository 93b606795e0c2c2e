/** Every key of an `InjectorConfig`: the one source of its parser and its documentation. */

import type { JsonObject } from "./json.ts";

/** What a text has to look like. */
export interface TextForm {
  readonly pattern: RegExp;
  /** For messages, after "expected". */
  readonly expected: string;
}

interface Described {
  readonly summary: string;
}

export type Field = Described &
  (
    | { readonly kind: "text"; readonly form: TextForm; readonly fallback: string | undefined }
    | { readonly kind: "choice"; readonly choices: readonly string[]; readonly fallback: string | undefined }
    | {
        readonly kind: "integer";
        readonly range: readonly [least: number, most: number];
        /** `undefined`: unset. */
        readonly fallback: number | undefined;
      }
    /** `true`, said or not. */
    | { readonly kind: "true" }
    | { readonly kind: "names"; readonly form: TextForm }
    /** Annotations of pods; unset is all. */
    | { readonly kind: "annotations" }
    | { readonly kind: "settings" }
    | { readonly kind: "resources"; readonly fallback: JsonObject }
    | { readonly kind: "environment" }
    /** `absent` groups are left out unless the file has them. */
    | { readonly kind: "group"; readonly members: Members; readonly absent?: true }
  );

export type Members = Readonly<Record<string, Field>>;

const NAME: TextForm = {
  pattern: /^[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?$/,
  expected: "the name of a Kubernetes object",
};
const KEY: TextForm = { pattern: /^[-._a-zA-Z0-9]{1,253}$/, expected: "a key of a ConfigMap or Secret" };
const IMAGE: TextForm = { pattern: /^[A-Za-z0-9][\w.\-/:@]{0,511}$/, expected: "the name of a container image" };
const ANY: TextForm = { pattern: /^[\s\S]{0,65536}$/, expected: "at most 65536 characters" };

/** A quantity of the Kubernetes API (resource.Quantity), never negative. */
export const QUANTITY: TextForm = {
  pattern: /^(?:\d+(?:\.\d*)?|\.\d+)(?:[kMGTPE]i?|Ki|[num]|[eE][+-]?\d{1,2})?$/,
  expected: "a Kubernetes quantity such as 50m or 128Mi",
};

export const PORT_RANGE = [1, 65_535] as const;
/** Envoy is not root, and cannot listen below. */
export const INBOUND_RANGE = [1_024, 65_535] as const;

/** Longest wait for open requests, in seconds. */
export const DRAIN_SECONDS_MAX = 3_600;

export const LOG_LEVELS = ["debug", "info", "warn", "error", "silent"] as const;
export const MODES = ["policy", "observe"] as const;
export const ENVOY_MODES = ["sidecar", "join", "none"] as const;
const PULL_POLICIES = ["Always", "IfNotPresent", "Never"] as const;

export const CONFIG_FIELDS: Members = {
  image: {
    kind: "group",
    summary: "Sallyport's own image.",
    members: {
      repository: { kind: "text", form: IMAGE, fallback: undefined, summary: "Where it is pulled from. Required." },
      tag: {
        kind: "text",
        form: { pattern: /^\w[\w.-]{0,127}$/, expected: "an image tag" },
        fallback: "",
        summary: "Its tag. A tag, a digest, or both are required.",
      },
      digest: {
        kind: "text",
        form: { pattern: /^sha256:[0-9a-f]{64}$/, expected: "sha256: and 64 hex digits" },
        fallback: "",
        summary: "Its digest; with it, every pod gets the same bytes whatever becomes of the tag.",
      },
      pullPolicy: {
        kind: "choice",
        choices: PULL_POLICIES,
        fallback: "IfNotPresent",
        summary: "When the kubelet pulls it.",
      },
    },
  },
  imagePullSecrets: {
    kind: "names",
    form: NAME,
    summary: "Secrets of the pod's namespace for pulling, added to those that the pod names.",
  },
  nativeSidecars: {
    kind: "choice",
    choices: ["auto", "always", "never"],
    fallback: "auto",
    summary:
      "Whether the added containers are native sidecars (init containers with `restartPolicy: Always`), which start before the pod's own containers and end after them. `auto`: where the cluster has them (Kubernetes 1.29 or later).",
  },
  resources: {
    kind: "resources",
    fallback: { requests: { cpu: "50m", memory: "128Mi" }, limits: { memory: "384Mi" } },
    summary:
      "`resources` of the container `sallyport`. No limit on CPU by default: a throttled check is a late answer.",
  },
  runAsUser: {
    kind: "integer",
    range: [0, 2_147_483_646],
    fallback: 65_532,
    summary:
      "User and group of the container `sallyport`; `sallyport-envoy` runs as the next one. `0` is not root: it leaves the choice to the cluster, as OpenShift wants it.",
  },
  listenAddress: {
    kind: "choice",
    choices: ["0.0.0.0", "::"],
    fallback: "0.0.0.0",
    summary: "Where the added containers listen for callers and kubelets; `::` for IPv6 and both.",
  },
  healthPort: {
    kind: "integer",
    range: PORT_RANGE,
    fallback: 8282,
    summary: "Port of Sallyport's `/healthz`, `/readyz` and `/metrics`.",
  },
  mode: {
    kind: "choice",
    choices: MODES,
    fallback: "policy",
    summary: "`observe` decides and logs, and enforces nothing; `policy` leaves it to the policy.",
  },
  logLevel: { kind: "choice", choices: LOG_LEVELS, fallback: "info", summary: "What Sallyport says of itself." },
  decisionLog: {
    kind: "choice",
    choices: ["stdout", "off"],
    fallback: "stdout",
    summary: "Decisions, one JSON line each, on the standard output of the container `sallyport`.",
  },
  extraEnv: {
    kind: "environment",
    summary: "Further environment of the container `sallyport`, as in a container.",
  },
  settings: {
    kind: "settings",
    summary:
      "Further settings of `sallyport serve`, by their names in its configuration file (`principals-max: 2000`). Those that other keys stand for are refused.",
  },
  policy: {
    kind: "group",
    summary: "Where policy comes from: exactly one of these. `shipped` when it is left out.",
    members: {
      shipped: { kind: "true", summary: "The policy that Sallyport brings along." },
      configMap: {
        kind: "group",
        absent: true,
        summary: "A ConfigMap of the pod's namespace; changes take effect without a restart.",
        members: {
          name: { kind: "text", form: NAME, fallback: "sallyport-policy", summary: "Its name." },
          key: { kind: "text", form: KEY, fallback: "policy.yaml", summary: "The key that holds the policy." },
        },
      },
      secret: {
        kind: "group",
        absent: true,
        summary: "A Secret of the pod's namespace, likewise.",
        members: {
          name: { kind: "text", form: NAME, fallback: "sallyport-policy", summary: "Its name." },
          key: { kind: "text", form: KEY, fallback: "policy.yaml", summary: "The key that holds the policy." },
        },
      },
      control: { kind: "true", summary: "The control plane, as `control` says." },
    },
  },
  state: {
    kind: "group",
    summary: "Where the sidecar keeps what it learned over restarts of its container.",
    members: {
      kind: {
        kind: "choice",
        choices: ["emptyDir", "none"],
        fallback: "emptyDir",
        summary: "`emptyDir` lives as long as the pod; `none` starts anew at each restart.",
      },
      sizeLimit: { kind: "text", form: QUANTITY, fallback: "64Mi", summary: "Most that the emptyDir may hold." },
    },
  },
  control: {
    kind: "group",
    summary: "The control plane; used where `policy` is `control`.",
    members: {
      address: {
        kind: "text",
        form: { pattern: /^https:\/\/[^\s,]+(?:,https:\/\/[^\s,]+)*$/, expected: "https://HOST:9292" },
        fallback: "",
        summary: "`https://HOST:9292`; several, separated by commas, are tried in turn.",
      },
      ca: {
        kind: "text",
        form: { pattern: /^-----BEGIN CERTIFICATE-----[\s\S]{1,65536}$/, expected: "PEM certificates" },
        fallback: "",
        summary:
          "PEM certificates that are believed for it, instead of the system's. They travel with the pod, so that its namespace needs no object.",
      },
      caConfigMap: {
        kind: "text",
        form: NAME,
        fallback: "",
        summary: "Instead of `ca`: a ConfigMap of the pod's namespace with the key `ca.crt`.",
      },
      tokenAudience: {
        kind: "text",
        form: { pattern: /^\S{1,1024}$/, expected: "a text without blanks" },
        fallback: "",
        summary:
          "Audience of the service-account token that the sidecar shows to it, renewed by the kubelet. Empty: no token is shown.",
      },
      bundleKeys: {
        kind: "text",
        form: ANY,
        fallback: "",
        summary:
          "Text of the key file whose signatures count (public keys, from `sallyport bundle root`). Required with `policy: {control: true}`: what comes over the network is believed only signed.",
      },
    },
  },
  overrides: {
    kind: "annotations",
    summary:
      "What pods may choose for themselves: names of annotations as below, without `sallyport.dev/`. Unset: all; `[]`: nothing. Without `inject` no pod may opt out.",
  },
  envoy: {
    kind: "group",
    summary: "The Envoy that asks Sallyport.",
    members: {
      mode: {
        kind: "choice",
        choices: ENVOY_MODES,
        fallback: "sidecar",
        summary:
          "`sidecar` adds one with a ready configuration; `join` gives the socket to an Envoy that the pod has, such as Istio's; `none` adds Sallyport alone.",
      },
      container: {
        kind: "text",
        form: { pattern: /^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/, expected: "the name of a container" },
        fallback: "istio-proxy",
        summary: "Of `join`: the container that gets the socket's volume mounted.",
      },
      image: {
        kind: "text",
        form: IMAGE,
        fallback: "docker.io/envoyproxy/envoy:v1.40.0",
        summary: "Of `sidecar`: its image, Envoy 1.37 or later, with `/usr/local/bin/envoy`.",
      },
      pullPolicy: {
        kind: "choice",
        choices: PULL_POLICIES,
        fallback: "IfNotPresent",
        summary: "When the kubelet pulls it.",
      },
      inboundPort: {
        kind: "integer",
        range: INBOUND_RANGE,
        fallback: 15_006,
        summary: "Where Envoy takes the callers' connections.",
      },
      appPort: {
        kind: "integer",
        range: PORT_RANGE,
        fallback: undefined,
        summary:
          "Where the application listens. Unset: the one TCP port that the pod's containers declare; pods that declare several say which by annotation.",
      },
      appProtocol: {
        kind: "choice",
        choices: ["auto", "http1", "http2"],
        fallback: "auto",
        summary:
          "What Envoy speaks with the application. `auto`: HTTP/2 where the port's name begins with `grpc`, `http2` or `h2c`, else HTTP/1.1.",
      },
      redirect: {
        kind: "choice",
        choices: ["none", "ports"],
        fallback: "none",
        summary:
          "`none`: the Service's `targetPort` is pointed to `inboundPort`. `ports`: under the name of the application's port Envoy's is declared, so that Services that name it (`targetPort: http`) lead to Envoy unchanged.",
      },
      adminPort: {
        kind: "integer",
        range: PORT_RANGE,
        fallback: 15_000,
        summary: "Envoy's admin interface, on loopback.",
      },
      healthPort: {
        kind: "integer",
        range: PORT_RANGE,
        fallback: 15_021,
        summary: "`/ready` for the kubelet and `/stats/prometheus`; nothing else of the admin interface.",
      },
      failureMode: {
        kind: "choice",
        choices: ["deny", "allow"],
        fallback: "deny",
        summary: "What becomes of requests while Sallyport does not answer.",
      },
      checkTimeoutMs: {
        kind: "integer",
        range: [10, 60_000],
        fallback: 200,
        summary: "How long Envoy waits for an answer, in milliseconds, tries together; then `failureMode` counts.",
      },
      concurrency: {
        kind: "integer",
        range: [1, 128],
        fallback: 2,
        summary: "Envoy's worker threads; its own default is one for each processor of the node.",
      },
      logLevel: {
        kind: "choice",
        choices: ["trace", "debug", "info", "warning", "error", "critical", "off"],
        fallback: "warning",
        summary: "What Envoy says of itself.",
      },
      drain: {
        kind: "choice",
        choices: ["script", "sleep", "none"],
        fallback: "script",
        summary:
          "How Envoy ends: `script` (needs Bash in its image) stops taking connections and waits until no request is open; `sleep` waits `drainSeconds` in any case, needs nothing in the image but Kubernetes 1.30; `none` ends at once.",
      },
      drainSeconds: {
        kind: "integer",
        range: [1, DRAIN_SECONDS_MAX],
        fallback: 5,
        summary:
          "Longest wait of `drain` in a native sidecar. Classic ones wait as long as the pod's own grace period.",
      },
      tls: {
        kind: "group",
        absent: true,
        summary:
          "Callers come with TLS and have to show a certificate. Without it Envoy takes plain HTTP, and callers are known by what their tokens and keys say.",
        members: {
          secret: {
            kind: "text",
            form: NAME,
            fallback: undefined,
            summary: "Secret of the pod's namespace. Required.",
          },
          certificate: { kind: "text", form: KEY, fallback: "tls.crt", summary: "Its key with the certificate chain." },
          key: { kind: "text", form: KEY, fallback: "tls.key", summary: "Its key with the private key." },
          clientCa: {
            kind: "text",
            form: KEY,
            fallback: "ca.crt",
            summary: "Its key with the authorities that callers' certificates must be of.",
          },
          clientPrefix: {
            kind: "text",
            form: { pattern: /^[a-z][a-z0-9+.-]*:\/\/\S{1,1024}$/, expected: "how a URI begins" },
            fallback: "",
            summary:
              "What the URI name of a caller's certificate begins with, such as `spiffe://shop.example/`. Empty: whoever has a certificate of `clientCa` is let in.",
          },
        },
      },
      resources: {
        kind: "resources",
        fallback: { requests: { cpu: "50m", memory: "64Mi" }, limits: { memory: "256Mi" } },
        summary: "`resources` of the container `sallyport-envoy`.",
      },
    },
  },
};
