/** Puts the control plane together, in the order in which its parts need each other, and takes it down again. */

import { randomBytes } from "node:crypto";
import { readFileSync, unwatchFile, watchFile } from "node:fs";
import { systemClock } from "../bundle/sync/source.ts";
import { parseTrustRoot } from "../bundle/trust.ts";
import { Access, type FindAccount } from "../control/access.ts";
import { refText } from "../control/channels.ts";
import { type ControlSettings, readTokens } from "../control/config.ts";
import { trustingExaminer, verifyingExaminer } from "../control/examiner.ts";
import { Fleet } from "../control/fleet.ts";
import { FolderStore } from "../control/folder-store.ts";
import { Hub } from "../control/hub.ts";
import { ControlMetrics } from "../control/metrics.ts";
import { NatsStore } from "../control/nats-store.ts";
import { Standing } from "../control/orders.ts";
import { ControlListener } from "../control/server.ts";
import { controlRoutes } from "../control/service.ts";
import { ServiceAccounts } from "../control/service-accounts.ts";
import type { FleetStore } from "../control/store.ts";
import { KubernetesApi } from "../control/workloads/api.ts";
import { spiffeIdOf } from "../control/workloads/pod.ts";
import { PodWatch } from "../control/workloads/watch.ts";
import { OperatingError } from "../model/errors.ts";
import { errorFields, type Logger } from "../telemetry/log.ts";
import { startSharedSignals } from "./control-signals.ts";
import { HealthServer } from "./health.ts";
import { type Close, startWhole } from "./whole.ts";

/** Reports of more sidecars than may connect here: a fleet has several control processes. */
const REPORTS_FACTOR = 10;

/** Connections beside those of sidecars: each sidecar has one, operators and pages the rest. */
const CONNECTIONS_EXTRA = 1_000;

/** How often the file of tokens is looked at. */
const TOKENS_LOOK_MS = 2_000;

export interface RunningControl {
  readonly addresses: { readonly control: string; readonly health: string | undefined };
  stop(): Promise<void>;
}

/** @throws {OperatingError} for settings that cannot be met; nothing is left running then */
export async function startControl(settings: ControlSettings, log: Logger): Promise<RunningControl> {
  return await startWhole([], (closers) => assemble(settings, log, closers));
}

async function assemble(
  settings: ControlSettings,
  log: Logger,
  closers: Close[],
): Promise<RunningControl["addresses"]> {
  const now = Date.now;
  const { bundleKeys, bundleBytesMax, heartbeatMs, sidecarsMax } = settings;
  const examiner =
    bundleKeys === undefined
      ? trustingExaminer(bundleBytesMax)
      : verifyingExaminer(parseTrustRoot(readText("bundle-keys", bundleKeys), bundleKeys), bundleBytesMax, now);
  if (bundleKeys === undefined) {
    log.warn({ event: "control.insecure" }, "insecure-unsigned-bundles: bundles are taken from anybody");
  }
  const accounts = serviceAccounts(settings, log, now);
  const accessNow = (): Access => new Access(tokensOf(settings), settings.grants, accounts?.find);
  let access = accessNow();
  if (settings.tokens !== undefined) {
    const path = settings.tokens;
    watchFile(path, { interval: TOKENS_LOOK_MS, persistent: false }, () => {
      try {
        access = accessNow();
        log.info({ event: "tokens.read", path }, "tokens read again");
      } catch (error) {
        // Keeps the last good tokens: a half-written file is followed by a whole one.
        log.error({ event: "tokens.refused", ...errorFields(error) }, "kept the last good tokens");
      }
    });
    closers.push(() => unwatchFile(path));
  }

  const store = storeOf(settings, log);
  closers.push(() => store.close());
  const fleet = new Fleet({
    store,
    examiner,
    revisionsKept: settings.revisionsKept,
    onUnusable: (ref, error) =>
      log.error(
        { event: "bundle.unusable", bundle: refText(ref), ...errorFields(error) },
        "it is not handed out; sidecars keep what they have",
      ),
  });
  closers.push(() => fleet.close());
  const pods = podWatch(settings, log, () => ({ hub, metrics }));
  closers.push(() => pods?.close());
  const metrics: ControlMetrics = new ControlMetrics({
    pods: pods === undefined ? undefined : () => ({ known: pods.feed.size, ...pods.health }),
    watchers: () => hub.watchers,
    reported: () => [...store.reports()].length,
    bundles: () => fleet.library.size,
    chunkBytes: () => fleet.library.bytes,
    storeOk: () => store.health().ok,
  });
  const standing: Standing = new Standing({ store, now, onChange: () => hub.wake() });
  closers.push(() => standing.close());
  fleet.onStore = () => standing.refresh();
  const hub: Hub = new Hub({
    fleet,
    standing,
    pods,
    metrics,
    sidecarsMax,
    heartbeatMs,
    loaded: () => store.health().loaded,
    now,
    random: Math.random,
  });
  let stage = "starting";
  let health: HealthServer | undefined;
  if (settings.healthAddress !== undefined) {
    health = new HealthServer(settings.healthAddress, metrics, () => {
      const { loaded, detail } = store.health();
      // Without its store it still serves what it has: only one that knows nothing yet, or is going, is not ready.
      return {
        ready: stage === "serving" && loaded,
        detail: {
          state: stage,
          store: detail,
          sidecars: String(hub.watchers),
          bundles: String(fleet.library.size),
          ...(pods === undefined ? {} : { kubernetes: pods.detail, pods: String(pods.feed.size) }),
        },
      };
    });
    await health.listen();
    closers.push(() => health?.close());
  }
  await fleet.start();
  pods?.start();
  standing.refresh();
  const signals = await startSharedSignals(settings, { standing, registry: metrics.registry, log });
  closers.push(() => signals?.close());
  const listener = new ControlListener({
    address: settings.address,
    tls: settings.tls,
    access: () => access,
    prepare: async (authorization) => accounts?.prepare(authorization),
    handle: (request, response) => signals?.handle(request, response) ?? false,
    connectionsMax: sidecarsMax + CONNECTIONS_EXTRA,
    now,
    routes: controlRoutes({
      fleet,
      hub,
      store,
      standing,
      newId: () => randomBytes(6).toString("hex"),
      onRisk: async (events) => signals?.risk(events),
      onLocked: async (lock) => signals?.locked(lock),
      metrics,
      bundleBytesMax,
      now,
      onAudit: (entry) => log.info({ event: "audit", ...entry }, "fleet change"),
    }),
    onCertificates: (error) => {
      if (error === undefined) log.info({ event: "tls.read" }, "new certificates in use");
      else log.error({ event: "tls.refused", ...errorFields(error) }, "kept the last good certificates");
    },
  });
  await listener.listen();
  closers.push(() => listener.close(settings.drainTimeoutMs));
  closers.push(() => {
    stage = "draining";
    hub.drain();
  });
  stage = "serving";
  return { control: listener.boundAddress, health: health?.boundAddress };
}

/** Callers by the tokens of their service accounts; `undefined`: these are not accepted. */
function serviceAccounts({ kubernetes }: ControlSettings, log: Logger, now: () => number) {
  if (kubernetes?.tokenAudience === undefined) return undefined;
  const { api: url, tokenFile, caFile, naming, tokenAudience: audience } = kubernetes;
  const api = new KubernetesApi({ url, tokenFile, caFile });
  const accounts = new ServiceAccounts({
    audience,
    review: (review) => api.create("/apis/authentication.k8s.io/v1/tokenreviews", review),
    now,
    onFailure: (error) =>
      log.warn(
        { event: "kubernetes.review-failed", ...errorFields(error) },
        "whoever shows a service account's token for the first time is refused",
      ),
  });
  const find: FindAccount = (authorization) => {
    const found = accounts.find(authorization);
    if (found?.ok !== true) return found;
    const { namespace, name, untilMs } = found.account;
    return { ok: true, spiffeId: spiffeIdOf(naming, namespace, name), untilMs };
  };
  return { find, prepare: (authorization: string | undefined) => accounts.prepare(authorization) };
}

/** @param later what it tells its news to, made after it */
function podWatch(
  { kubernetes }: ControlSettings,
  log: Logger,
  later: () => { readonly hub: Hub; readonly metrics: ControlMetrics },
): PodWatch | undefined {
  if (kubernetes === undefined) return undefined;
  return new PodWatch({
    settings: kubernetes,
    epoch: randomBytes(8).toString("hex"),
    clock: { monotonicMs: () => performance.now(), random: Math.random, sleep: systemClock.sleep },
    onChange: () => later().hub.wake(),
    onFailure: (error, isNews) => {
      later().metrics.podFailures.inc();
      if (!isNews) return;
      log.warn(
        { event: "kubernetes.failed", ...errorFields(error) },
        "sidecars keep what they were told of pods while it is fresh; tried again",
      );
    },
    onWell: () => log.info({ event: "kubernetes.watching", api: kubernetes.api }, "following pods"),
    onList: () => later().metrics.podLists.inc(),
    onLeftOut: () => later().metrics.podsLeftOut.inc(),
  });
}

function storeOf({ nats, stateDir, sidecarsMax, bundleBytesMax }: ControlSettings, log: Logger): FleetStore {
  const reportsMax = sidecarsMax * REPORTS_FACTOR;
  if (nats === undefined) {
    if (stateDir === undefined) {
      log.warn({ event: "control.memory" }, "neither state-dir nor nats-servers: channels end with this process");
    }
    return new FolderStore({
      folder: stateDir,
      reportsMax,
      now: Date.now,
      onSetAside: (path, why) =>
        log.error(
          { event: "state.unusable", path, why },
          "set aside; channels start empty, sidecars keep what they have",
        ),
    });
  }
  return new NatsStore({
    ...nats,
    bundleBytesMax,
    reportsMax,
    now: Date.now,
    onState: (connected, detail) => {
      if (connected) log.info({ event: "store.reached" }, "NATS is reachable");
      else log.warn({ event: "store.lost", detail }, "serving what is known; changes are refused");
    },
  });
}

function tokensOf({ tokens }: ControlSettings) {
  if (tokens === undefined) return [];
  const read = readTokens(readText("tokens", tokens), tokens);
  if (read.ok) return read.tokens;
  throw new OperatingError("ERR_CONFIG_INVALID", read.problems.join("\n"));
}

function readText(setting: string, path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new OperatingError("ERR_CONFIG_INVALID", `${setting} ${path}: expected a file that can be read`, { cause });
  }
}
