/** Every setting of `sallyport serve`: the one source of its flags, environment, file keys, help and documentation. */

export interface Setting {
  /** Kebab-case: `--name`, `SALLYPORT_NAME` and the key in the configuration file. */
  readonly name: string;
  readonly kind:
    | "address"
    | "optional-address"
    | "path"
    | "integer"
    | "duration"
    | "choice"
    | "text"
    | "labels"
    | "share";
  /** As it would be written; `undefined`: unset. */
  readonly fallback: string | undefined;
  readonly summary: string;
  readonly choices?: readonly string[];
  /** Bounds of an integer, or of a duration in milliseconds. */
  readonly range?: readonly [least: number, most: number];
}

const DAY_MS = 86_400_000;

export const SETTINGS = [
  {
    name: "policy",
    kind: "text",
    fallback: undefined,
    summary:
      "Where policy comes from: a YAML file, a bundle file or a folder, watched for changes; or the `https://` address of a bundle, asked regularly (`http://` on loopback only). Without it, and without `control`, the shipped policy is in force.",
  },
  {
    name: "bundle-keys",
    kind: "path",
    fallback: undefined,
    summary:
      "Key file with the public keys whose signatures count. Once it is set, everything unsigned is refused, YAML files included. Needed where policy comes over the network.",
  },
  {
    name: "bundle-name",
    kind: "text",
    fallback: undefined,
    summary:
      "The only name of a bundle that is taken as `policy` or from `control`. Without it the first start takes whatever name a trusted key has signed, and keeps to it from then on.",
  },
  {
    name: "policy-poll",
    kind: "duration",
    fallback: "60s",
    range: [1_000, DAY_MS],
    summary: "How often an address is asked for a newer bundle, give or take a tenth. Files are watched at all times.",
  },
  {
    name: "policy-token-file",
    kind: "path",
    fallback: undefined,
    summary: "File with the bearer token for the address in `policy`; read anew at every poll.",
  },
  {
    name: "policy-ca-file",
    kind: "path",
    fallback: undefined,
    summary:
      "PEM certificates that are believed for the address in `policy`, instead of the system's; read anew at every poll.",
  },
  {
    name: "policy-bytes-max",
    kind: "integer",
    fallback: "268435456",
    range: [1_024, 268_435_456],
    summary: "Largest bundle that is taken, in bytes, as it arrives and unpacked.",
  },
  {
    name: "policy-wait",
    kind: "duration",
    fallback: "10s",
    range: [0, 3_600_000],
    summary: "How long a start without a last good bundle waits for the first one.",
  },
  {
    name: "policy-missing",
    kind: "choice",
    choices: ["fail", "shipped"],
    fallback: "fail",
    summary:
      "What happens when `policy-wait` is over without a policy: `fail` does not start; `shipped` starts with the shipped policy, not ready, until the first one comes.",
  },
  {
    name: "policy-stale-after",
    kind: "duration",
    fallback: undefined,
    range: [1_000, 365 * DAY_MS],
    summary:
      "How long the source may be silent, or offer only what is refused, before the policy counts as stale. Default three times `policy-poll` for an address or `control`; files are never stale unless this is set.",
  },
  {
    name: "policy-on-stale",
    kind: "choice",
    choices: ["keep", "unready"],
    fallback: "keep",
    summary: "A stale policy decides on either way; `unready` also fails `/readyz`.",
  },
  {
    name: "policy-on-expiry",
    kind: "choice",
    choices: ["keep", "unready", "deny"],
    fallback: "keep",
    summary:
      "What a bundle past its time does: `keep` decides on by it (fails static); `unready` also fails `/readyz`; `deny` also denies every request (fails closed) in the policy's own mode.",
  },
  {
    name: "shadow",
    kind: "text",
    fallback: undefined,
    summary:
      "A candidate policy that is asked beside the one in force and never obeyed: the same kinds of place as `policy`, with the same keys, token and certificates.",
  },
  {
    name: "control",
    kind: "text",
    fallback: undefined,
    summary:
      "Address of the control plane, `https://HOST:9292` (`http://` on loopback only), instead of `policy`; several, separated by commas, are tried in turn.",
  },
  {
    name: "control-token-file",
    kind: "path",
    fallback: undefined,
    summary: "File with the bearer token for `control`; read anew at every connection.",
  },
  {
    name: "control-cert-file",
    kind: "path",
    fallback: undefined,
    summary: "PEM certificate (SPIFFE) that this sidecar shows to `control`; read anew at every connection.",
  },
  {
    name: "control-key-file",
    kind: "path",
    fallback: undefined,
    summary: "PEM private key of `control-cert-file`.",
  },
  {
    name: "control-ca-file",
    kind: "path",
    fallback: undefined,
    summary: "PEM certificates that are believed for `control`, instead of the system's.",
  },
  {
    name: "locks-on-stale",
    kind: "choice",
    choices: ["best_effort", "strict"],
    fallback: "best_effort",
    summary:
      "What a silent control plane means for locks: `best_effort` keeps those that are known; `strict` denies every request until it is heard again, since a lock may be missing (never in observe mode).",
  },
  {
    name: "locks-stale-after",
    kind: "duration",
    fallback: "1m",
    range: [1_000, DAY_MS],
    summary: "How long the control plane may be silent before the locks known here count as stale.",
  },
  {
    name: "sidecar-id",
    kind: "text",
    fallback: undefined,
    summary:
      "Name of this sidecar for the control plane and in the decision log's labels, such as the pod's name. Default: a random one for each start.",
  },
  {
    name: "labels",
    kind: "labels",
    fallback: undefined,
    summary:
      "What this sidecar is, as `KEY=VALUE,KEY=VALUE`: the control plane chooses policy by it, and the decision log shows it.",
  },
  {
    name: "shadow-share",
    kind: "share",
    fallback: "1",
    summary: "Share of requests, 0 to 1, that the candidate is asked about; each one costs a second judgement.",
  },
  {
    name: "mode",
    kind: "choice",
    choices: ["policy", "observe"],
    fallback: "policy",
    summary:
      "`observe` decides and logs but enforces nothing, whatever the policy says; `policy` leaves it to the policy.",
  },
  {
    name: "ext-authz-address",
    kind: "address",
    fallback: "127.0.0.1:9191",
    summary: "Where Envoy's Check calls arrive: `HOST:PORT` or `unix:PATH`.",
  },
  {
    name: "ext-authz-transport",
    kind: "choice",
    choices: ["auto", "grpc-js"],
    fallback: "auto",
    summary:
      "What serves `ext-authz-address`: `auto` is Sallyport's own HTTP/2 server where the address is a Unix socket or loopback, and the library elsewhere; `grpc-js` is the library everywhere.",
  },
  {
    name: "overload-delay",
    kind: "duration",
    fallback: "20ms",
    range: [5, 60_000],
    summary:
      "How late this process may run before it counts as pressed: from then on callers who ask for more than twice their fair share are answered as `on-overload` says, from twice that on every caller.",
  },
  {
    name: "on-overload",
    kind: "choice",
    choices: ["standing", "unavailable", "judge"],
    fallback: "standing",
    summary:
      "How a check is answered under overload: `standing` by locks, credentials, rules and what its session had gathered, without reading or learning behaviour (sessions not judged within the last minute are judged in full); `unavailable` not at all, so that Envoy's `failure_mode_allow` decides; `judge` always in full.",
  },
  {
    name: "streams-address",
    kind: "address",
    fallback: "127.0.0.1:9192",
    summary: "Where Envoy's access logs arrive, and gRPC health and reflection: `HOST:PORT` or `unix:PATH`.",
  },
  {
    name: "api-address",
    kind: "optional-address",
    fallback: "127.0.0.1:8181",
    summary:
      "Local API and live page: `HOST:PORT`, or `off`. Reading is open to whoever reaches it; changes need the token.",
  },
  {
    name: "api-socket",
    kind: "path",
    fallback: undefined,
    summary: "Unix socket of the local API, open to this user only (mode 0600); changes need no token here.",
  },
  {
    name: "api-token-file",
    kind: "path",
    fallback: undefined,
    summary:
      "File with the token that changes over `api-address` need; made with a random token (mode 0600) when missing. Without it `api-address` takes no changes.",
  },
  {
    name: "health-address",
    kind: "optional-address",
    fallback: "0.0.0.0:8282",
    summary: "`/healthz`, `/readyz` and `/metrics`: `HOST:PORT`, or `off`.",
  },
  {
    name: "state-dir",
    kind: "path",
    fallback: undefined,
    summary:
      "Folder that keeps what was learned, and the key of credential hashes, over restarts. Without it memory starts empty.",
  },
  {
    name: "challenge-secret-file",
    kind: "path",
    fallback: undefined,
    summary:
      "File with 32 bytes or more from which the nonces of challenges get their keys; the same for all sidecars that callers reach under one name, so that any of them takes another's nonces. Read at the start. Default: a key in `state-dir`, else a random one for each start; then each sidecar knows its own nonces only.",
  },
  {
    name: "prior",
    kind: "path",
    fallback: undefined,
    summary:
      "File from `sallyport baseline export FILE --prior`: what another sidecar's callers taught together. A sidecar without state of its own starts with it.",
  },
  {
    name: "snapshot-interval",
    kind: "duration",
    fallback: "60s",
    range: [1_000, DAY_MS],
    summary: "How often what was learned is written to `state-dir`.",
  },
  {
    name: "principals-max",
    kind: "integer",
    fallback: "10000",
    range: [10, 1_000_000],
    summary: "Principals remembered, about 4 KiB each; beyond that newcomers are forgotten first.",
  },
  {
    name: "sessions-max",
    kind: "integer",
    fallback: "20000",
    range: [10, 2_000_000],
    summary: "Sessions remembered; beyond that the least recently used calm one is forgotten.",
  },
  {
    name: "decision-log",
    kind: "text",
    fallback: "off",
    summary: "Decision log, one JSON line per decision: `off`, `stdout`, or a file path.",
  },
  {
    name: "recording",
    kind: "path",
    fallback: undefined,
    summary:
      "For bug reports: writes every fact the engine is told (paths and addresses included, credentials as keyed hashes) and every verdict to this file, to be played back.",
  },
  {
    name: "log-level",
    kind: "choice",
    choices: ["debug", "info", "warn", "error", "silent"],
    fallback: "info",
    summary: "What the program says of itself on standard error, as JSON lines.",
  },
  {
    name: "drain-delay",
    kind: "duration",
    fallback: "0s",
    range: [0, 3_600_000],
    summary:
      "How long it answers on after SIGTERM, not ready, before it drains; over earlier once Envoy has closed every connection to `ext-authz-address` (of the library's transport that is not known). For pods whose containers all end at the same time: Envoy still needs answers while it drains.",
  },
  {
    name: "drain-timeout",
    kind: "duration",
    fallback: "5s",
    range: [0, 600_000],
    summary: "How long calls under way are waited for at SIGTERM before they are cut.",
  },
] as const satisfies readonly Setting[];

export type SettingName = (typeof SETTINGS)[number]["name"];

export function environmentName(name: string): string {
  return `SALLYPORT_${name.toUpperCase().replaceAll("-", "_")}`;
}
