/** Every setting of `sallyport serve`: the one source of its flags, environment, file keys, help and documentation. */

export interface Setting {
  /** Kebab-case: `--name`, `SALLYPORT_NAME` and the key in the configuration file. */
  readonly name: string;
  readonly kind: "share" | "address" | "optional-address" | "path" | "integer" | "duration" | "choice" | "text";
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
    kind: "path",
    fallback: undefined,
    summary: "Policy file (YAML), watched for changes. Without one the shipped policy is in force.",
  },
  {
    name: "shadow",
    kind: "path",
    fallback: undefined,
    summary:
      "Candidate policy (YAML), watched for changes: asked about live requests, counted where it would decide otherwise, never obeyed.",
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
