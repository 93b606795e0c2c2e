/** `sallyport webhook`: the admission webhook that injects sidecars into Pods. */

import { OperatingError } from "../model/errors.ts";
import { VERSION } from "../server/version.ts";
import { startWebhook, type WebhookSettings } from "../server/webhook.ts";
import { createLog } from "../telemetry/log.ts";
import { inClusterVersion, SERVICE_ACCOUNT_FOLDER } from "../webhook/cluster-version.ts";
import { type Command, choice, EXIT_GOOD, type Flag, type Invocation, usage } from "./command.ts";
import { untilSignal } from "./until-signal.ts";

const DEFAULTS = {
  "webhook-address": "0.0.0.0:9443",
  "health-address": "0.0.0.0:8282",
  "drain-delay": "5s",
  "drain-timeout": "10s",
  "service-account-dir": SERVICE_ACCOUNT_FOLDER,
  "log-level": "info",
} as const;

/** A minute is longer than any kubelet waits by default. */
const DRAIN_MS_MAX = 60_000;

/**
 * Flags only, no environment: in a namespace with a Service called `sallyport-webhook`, kubelets set variables such as
 * `SALLYPORT_WEBHOOK_PORT` in every Pod, with values of another kind.
 */
export const webhookCommand: Command = {
  name: "webhook",
  arguments: "",
  positionals: [0, 0],
  summary: "Run the Kubernetes admission webhook that injects sidecars into Pods.",
  flags: [
    flag("injector-config", "FILE", "What is injected: an InjectorConfig in YAML; read again when it changes."),
    flag("tls-cert-file", "FILE", "The server's certificate chain, PEM; read again when it changes."),
    flag("tls-key-file", "FILE", "Its private key, PEM; read again when it changes."),
    flag("webhook-address", "HOST:PORT", "Where the API server calls, by HTTPS: `POST /inject`."),
    flag("health-address", "HOST:PORT|off", "`/healthz`, `/readyz` and `/metrics`."),
    flag("drain-delay", "DURATION", "How long requests are still taken once readiness is off; 0s to 60s."),
    flag("drain-timeout", "DURATION", "How long requests under way may take after that; 0s to 60s."),
    flag(
      "service-account-dir",
      "FOLDER",
      "`ca.crt` and `token` with which the API server is asked for its version, for `nativeSidecars: auto`.",
    ),
    flag("log-level", "debug|info|warn|error|silent", "Least level of the log on standard error."),
  ],
  run: async (invocation, terminal) => {
    const log = createLog(
      choice("webhook", value(invocation, "log-level"), "log-level", ["debug", "info", "warn", "error", "silent"]),
    );
    const webhook = await startWebhook(settingsOf(invocation, terminal.environment), log);
    log.info({ event: "started", version: VERSION, ...webhook.addresses }, "injecting sidecars");
    const signal = await untilSignal();
    log.info({ event: "stopping", signal }, "draining");
    await webhook.stop();
    log.info({ event: "stopped" }, "drained");
    return EXIT_GOOD;
  },
};

function flag(name: string, of: string, summary: string): Flag {
  const fallback = name in DEFAULTS ? ` Default ${DEFAULTS[name as keyof typeof DEFAULTS]}.` : "";
  return { name, value: of, summary: `${summary}${fallback}` };
}

function value({ values }: Invocation, name: keyof typeof DEFAULTS): string {
  return values[name] ?? DEFAULTS[name];
}

/** @throws {OperatingError} ERR_USAGE */
function settingsOf(
  invocation: Invocation,
  environment: Readonly<Record<string, string | undefined>>,
): WebhookSettings {
  const health = value(invocation, "health-address");
  return {
    injectorConfig: required(invocation, "injector-config"),
    tlsCertFile: required(invocation, "tls-cert-file"),
    tlsKeyFile: required(invocation, "tls-key-file"),
    address: address("webhook-address", value(invocation, "webhook-address")),
    healthAddress: health === "off" ? undefined : address("health-address", health),
    drainDelayMs: duration("drain-delay", value(invocation, "drain-delay")),
    drainTimeoutMs: duration("drain-timeout", value(invocation, "drain-timeout")),
    askVersion: inClusterVersion(environment, value(invocation, "service-account-dir")),
  };
}

function required({ values }: Invocation, name: string): string {
  const found = values[name];
  if (found === undefined || found === "") throw usage(`webhook: --${name}: expected a file, got nothing`);
  return found;
}

function address(name: string, text: string): string {
  const port = /^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})$/.exec(text)?.[1];
  if (port === undefined || Number(port) > 65_535) {
    throw new OperatingError("ERR_USAGE", `webhook: --${name}: expected HOST:PORT, got ${JSON.stringify(text)}`);
  }
  return text;
}

const UNITS_MS = { ms: 1, s: 1_000, m: 60_000 } as const;

function duration(name: string, text: string): number {
  const [, count, unit] = /^(\d{1,6})(ms|s|m)$/.exec(text) ?? [];
  const ms = Number(count) * UNITS_MS[(unit ?? "s") as keyof typeof UNITS_MS];
  if (!(ms <= DRAIN_MS_MAX)) {
    throw usage(`webhook: --${name}: expected a duration of 0s to 60s, got ${JSON.stringify(text)}`);
  }
  return ms;
}
