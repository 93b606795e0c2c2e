/** Puts the injector's webhook together, in the order in which its parts need each other, and takes it down again. */

import { type InjectorConfig, injectPod, parseInjectorConfig } from "../injector/injection.ts";
import { OperatingError } from "../model/errors.ts";
import { errorFields, type Logger } from "../telemetry/log.ts";
import type { InForce } from "../webhook/answer.ts";
import { type AskVersion, ClusterVersion } from "../webhook/cluster-version.ts";
import { KEY_PAIR_BYTES_MAX, type KeyPair, readKeyPair, validityOf } from "../webhook/key-pair.ts";
import { type Turned, WebhookListener } from "../webhook/listener.ts";
import { WebhookMetrics } from "../webhook/metrics.ts";
import { reviewBody } from "../webhook/reviewer.ts";
import { WatchedFiles } from "../webhook/watched-files.ts";
import { HealthServer } from "./health.ts";
import { type Close, startWhole } from "./whole.ts";

/** A ConfigMap holds 1 MiB at most. */
const CONFIG_BYTES_MAX = 1024 * 1024;
/** How often a certificate that is ending or has ended is complained about, and looked for. */
const EXPIRY_LOOK_MS = 3_600_000;
/** How often the same complaint about callers is logged: anybody may call, and API servers do so with every Pod. */
const COMPLAINT_LOG_MS = 60_000;

export interface WebhookSettings {
  /** `HOST:PORT`. */
  readonly address: string;
  /** `HOST:PORT` or `unix:PATH`; `undefined`: off. */
  readonly healthAddress: string | undefined;
  readonly injectorConfig: string;
  readonly tlsCertFile: string;
  readonly tlsKeyFile: string;
  /** How long requests are still taken after readiness is off: the time that endpoints need to spread. */
  readonly drainDelayMs: number;
  /** How long requests under way may take after that. */
  readonly drainTimeoutMs: number;
  /** Asked only where the configuration says `nativeSidecars: auto`. */
  readonly askVersion: AskVersion;
  /** How often files are looked at; default as in `WatchedFiles`. */
  readonly lookMs?: number;
}

export interface RunningWebhook {
  readonly addresses: { readonly webhook: string; readonly health: string | undefined };
  /** Readiness off, `drainDelayMs` of service, then no new connections, then the end. */
  stop(): Promise<void>;
}

/** @throws {OperatingError} for settings that cannot be met; nothing is left running then */
export async function startWebhook(settings: WebhookSettings, log: Logger): Promise<RunningWebhook> {
  return await startWhole([], (closers) => assemble(settings, log, closers));
}

async function assemble(
  settings: WebhookSettings,
  log: Logger,
  closers: Close[],
): Promise<RunningWebhook["addresses"]> {
  const { injectorConfig, tlsCertFile, tlsKeyFile, lookMs } = settings;
  const looking = lookMs === undefined ? {} : { lookMs };
  let stage = "starting";

  const version = new ClusterVersion({
    ask: settings.askVersion,
    onVersion: ({ text }) => log.info({ event: "version.heard", version: text }, "the API server's version is known"),
    onFailure: (error) =>
      log.warn(
        { event: "version.unknown", ...errorFields(error) },
        version.version === undefined ? "ordinary containers are injected until it is" : "kept the last one",
      ),
  });
  closers.push(() => version.close());

  const native = (): InForce["native"] => {
    const { nativeSidecars } = configuration.value;
    return nativeSidecars === "auto" ? version.native : { supported: nativeSidecars === "always", doubt: undefined };
  };
  // Files may change while this still starts: what they are told to is there before them.
  const metrics: WebhookMetrics = new WebhookMetrics({
    certificateExpirySeconds: () => pair.value.notAfterMs / 1_000,
    nativeSidecars: () => native().supported,
    versionKnown: () => version.version !== undefined,
  });

  const configuration: WatchedFiles<InjectorConfig> = await WatchedFiles.open<InjectorConfig>({
    ...looking,
    files: [injectorConfig],
    bytesMax: CONFIG_BYTES_MAX,
    read: ([bytes]) => parseInjectorConfig(bytes!.toString("utf8"), injectorConfig),
    onRead: ({ hash, nativeSidecars }) => {
      metrics.configReloads.inc({ result: "read" });
      log.info({ event: "config.read", config: hash }, "Pods are injected by the new configuration");
      if (nativeSidecars === "auto") void version.start();
    },
    onRefused: (error) => {
      metrics.configReloads.inc({ result: "refused" });
      log.error({ event: "config.refused", ...errorFields(error) }, "kept the last good configuration");
    },
  });
  closers.push(() => configuration.close());

  let inForce: KeyPair | undefined;
  const pair: WatchedFiles<KeyPair> = await WatchedFiles.open<KeyPair>({
    ...looking,
    files: [tlsCertFile, tlsKeyFile],
    bytesMax: KEY_PAIR_BYTES_MAX,
    read: ([cert, key]) => {
      const next = readKeyPair(cert!, key!, { cert: tlsCertFile, key: tlsKeyFile });
      if (inForce !== undefined) refuseEnded(next, inForce, tlsCertFile);
      inForce = next;
      return next;
    },
    onRead: (next) => {
      listener.use(next);
      metrics.certificateReloads.inc({ result: "read" });
      log.info({ event: "tls.read", ...certificateFields(next) }, "new connections meet the new certificate");
      tellExpiry(next, log);
    },
    onRefused: (error) => {
      metrics.certificateReloads.inc({ result: "refused" });
      log.error({ event: "tls.refused", ...errorFields(error) }, "kept the last good certificate and key");
    },
  });
  closers.push(() => pair.close());

  const complained = new Map<string, number>();
  const complain = (
    about: Turned | "distrusted" | "invalid",
    fields: Readonly<Record<string, string>>,
    message: string,
  ): void => {
    const now = performance.now();
    if (now - (complained.get(about) ?? Number.NEGATIVE_INFINITY) < COMPLAINT_LOG_MS) return;
    complained.set(about, now);
    log.warn(fields, message);
  };
  const telling = {
    metrics,
    log,
    onInvalid: (why: string) => complain("invalid", { event: "review.invalid", why }, "answered with 400"),
  };
  const listener: WebhookListener = new WebhookListener({
    address: settings.address,
    pair: pair.value,
    review: (body) => {
      const config = configuration.value; // one configuration from start to end
      const inject: InForce["inject"] = (pod, context) => injectPod(pod, config, context);
      return reviewBody(body, { inject, hash: config.hash, native: native() }, telling);
    },
    onTurned: (reason) => {
      metrics.countTurned(reason);
      complain(reason, { event: "request.turned", reason }, "no review was read; counted, and told once a minute");
    },
    onHandshakeFailure: (distrusted) => {
      metrics.handshakeFailures.inc({ reason: distrusted ? "distrusted" : "other" });
      if (!distrusted) return;
      complain(
        "distrusted",
        { event: "tls.distrusted", ...certificateFields(pair.value) },
        "a caller does not accept this certificate: is caBundle of the MutatingWebhookConfiguration its authority, and the Service's name among its names?",
      );
    },
  });

  let health: HealthServer | undefined;
  if (settings.healthAddress !== undefined) {
    health = new HealthServer(settings.healthAddress, metrics, () => {
      const certificate = validityOf(pair.value, Date.now());
      return {
        // No API server accepts a certificate out of its time: another replica may have a better one.
        ready: stage === "serving" && (certificate === "valid" || certificate === "ending"),
        detail: {
          state: stage,
          config: configuration.value.hash,
          certificate,
          certificate_not_after: new Date(pair.value.notAfterMs).toISOString(),
          cluster_version: version.version?.text ?? "unknown",
          native_sidecars: String(native().supported),
        },
      };
    });
    await health.listen();
    closers.push(() => health?.close());
  }

  // Asked before the first Pod, so that a restart does not inject otherwise than before; not waited for beyond its time-out.
  if (configuration.value.nativeSidecars === "auto") await version.start();

  await listener.listen();
  closers.push(() => listener.close(settings.drainTimeoutMs));
  tellExpiry(pair.value, log);
  const expiry = setInterval(() => tellExpiry(pair.value, log), EXPIRY_LOOK_MS).unref();
  closers.push(() => clearInterval(expiry));
  closers.push(async () => {
    stage = "draining";
    listener.drain();
    await new Promise((resolve) => setTimeout(resolve, settings.drainDelayMs));
  });
  stage = "serving";
  const { hash } = configuration.value;
  log.info({ event: "tls.read", ...certificateFields(pair.value) }, "certificate in use");
  log.info({ event: "config.read", config: hash }, "Pods are injected by this configuration");
  return { webhook: listener.boundAddress, health: health?.boundAddress };
}

/**
 * Keeps a certificate in force that API servers accept, rather than exchange it for one that has ended.
 * @throws {OperatingError} ERR_CONFIG_INVALID
 */
function refuseEnded(next: KeyPair, inForce: KeyPair, where: string): void {
  const nowMs = Date.now();
  if (validityOf(next, nowMs) !== "expired" || validityOf(inForce, nowMs) === "expired") return;
  const ended = new Date(next.notAfterMs).toISOString();
  throw new OperatingError(
    "ERR_CONFIG_INVALID",
    `${where}: expected a certificate in its time, got one that ended ${ended}`,
  );
}

function certificateFields({ fingerprint, notAfterMs }: KeyPair): Record<string, string> {
  return { certificate_sha256: fingerprint, not_after: new Date(notAfterMs).toISOString() };
}

function tellExpiry(pair: KeyPair, log: Logger): void {
  const validity = validityOf(pair, Date.now());
  if (validity === "valid") return;
  const fields = { ...certificateFields(pair), validity };
  if (validity === "ending") log.warn({ event: "tls.ending", ...fields }, "the certificate should have been renewed");
  else log.error({ event: "tls.unusable", ...fields }, "no API server accepts this certificate; not ready");
}
