/** The sidecar as a whole: what it is made of, how it starts, and how it ends. */

import { randomBytes, randomUUID } from "node:crypto";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import type { PolicyLoader } from "../bundle/loader.ts";
import { NONCE_SECRET_BYTES_MIN, Nonces } from "../challenge/nonce.ts";
import { createLine } from "../check/line.ts";
import { recording } from "../check/recording.ts";
import { loadToken } from "../console/access.ts";
import type { ApiOptions } from "../console/api.ts";
import { type ConsoleServer, startConsole } from "../console/server.ts";
import { outcomesOf } from "../envoy/access-log.ts";
import { Authorizer } from "../envoy/authorizer.ts";
import { KeySets } from "../envoy/key-sets.ts";
import { Proofs } from "../envoy/proofs.ts";
import { accessLogService, CHECK_PATH } from "../envoy/service.ts";
import { Tokens } from "../envoy/tokens.ts";
import { OperatingError } from "../model/errors.ts";
import type { Line, LockChange } from "../model/line.ts";
import type { Policy } from "../model/policy.ts";
import { MINUTE_MS, SECOND_MS, toEpochMs } from "../model/units.ts";
import { DecisionLog } from "../telemetry/decision-log.ts";
import { recordOf } from "../telemetry/decision-record.ts";
import { errorFields, type Logger } from "../telemetry/log.ts";
import { Metrics } from "../telemetry/metrics.ts";
import { RecentDecisions } from "../telemetry/recent.ts";
import { checkListener, type Listener } from "./check-listener.ts";
import type { ServeConfig } from "./config.ts";
import { FleetOrders } from "./fleet-orders.ts";
import { FleetWorkloads } from "./fleet-workloads.ts";
import { HealthServer } from "./health.ts";
import { HeldStreams } from "./held-streams.ts";
import { FairShares, LoadWatch } from "./load-watch.ts";
import { keepLocks, LockJournal } from "./lock-journal.ts";
import { type PolicyStatus, type RunningPolicy, startPolicy } from "./policy.ts";
import { pooledRandom } from "./random.ts";
import { reflectionServices } from "./reflection.ts";
import { startSaving } from "./saving.ts";
import { shadowed } from "./shadowing.ts";
import { release, StateFiles } from "./state-files.ts";
import { StreamsListener } from "./streams-listener.ts";
import { VERSION } from "./version.ts";
import { type Close, startWhole } from "./whole.ts";
import type { YoungGeneration } from "./young-generation.ts";

const RECENT_MAX = 2_000;
const KEY_BYTES = 32;
const KEY_REFRESH_MS = MINUTE_MS;
const WORKLOADS_LOOK_MS = 5_000;

export interface Sidecar {
  /** Addresses in use, with real ports where 0 was asked for. */
  readonly addresses: {
    readonly extAuthz: string;
    readonly streams: string;
    readonly api: string | undefined;
    readonly health: string | undefined;
  };
  /** Drains, writes what was learned, and releases everything. */
  stop(): Promise<void>;
}

/**
 * Starts a sidecar.
 * @param loader loads its policies, and is closed with it
 * @param youngGeneration watched as long as there is work
 * @throws {OperatingError} ERR_POLICY_INVALID with every problem at once, ERR_LISTEN, ERR_STATE_UNWRITABLE, …; nothing
 *   keeps running then
 */
export async function startSidecar(
  config: ServeConfig,
  log: Logger,
  loader: PolicyLoader,
  youngGeneration: YoungGeneration,
): Promise<Sidecar> {
  return await startWhole([() => loader.close()], (closers) => assemble(config, log, loader, youngGeneration, closers));
}

async function assemble(
  config: ServeConfig,
  log: Logger,
  loader: PolicyLoader,
  youngGeneration: YoungGeneration,
  closers: Close[],
): Promise<Sidecar["addresses"]> {
  const now = Date.now;
  const startedAtMs = now();
  let stage: "starting" | "serving" | "draining" = "starting";

  const { principalsMax, sessionsMax } = config;
  let held: HeldStreams | undefined;
  let keepLock: (change: LockChange) => void = () => {}; // until what is on disk was read
  let together = (job: () => void): void => job();
  const onLock = (change: LockChange): void => {
    keepLock(change);
    if (change.kind !== "added") return;
    held?.locked();
    if (change.lock.setBy !== "auto" || stage === "starting") return;
    const { id, scope, reason, expiresAtMs = 0 } = change.lock;
    const until = new Date(expiresAtMs).toISOString();
    log.info({ event: "audit", change: "lock.added", lock: id, by: "auto", ...scope, reason, until }, "terminated");
  };
  const bare = createLine({ principalsMax, sessionsMax, random: pooledRandom(), onLock });
  const recorded = config.recording === undefined ? bare : recordTo(config.recording, bare, closers);
  const metrics = new Metrics(
    () => recorded.stats(),
    () => held?.size ?? 0,
  );
  let candidate: () => Policy | undefined = () => undefined;
  const { line, report: shadow } = shadowed(recorded, () => candidate(), config.shadowShare, metrics, log);
  const sidecarId = config.sidecarId ?? randomUUID();

  const keySets = new KeySets({
    now,
    onError: (error) => {
      metrics.keyFetchErrors.inc();
      log.warn({ event: "keys.failed", ...errorFields(error) }, "the last good keys stay in force");
    },
  });
  const state = config.stateDir === undefined ? undefined : new StateFiles(config.stateDir);
  const key = keptKey(() => state?.credentialKey(), "credential hashes will not survive a restart", log);
  const tokens = new Tokens({ key, keySets, now });
  const nonces = new Nonces(nonceSecret(config.challengeSecretFile, state, log));
  const proofs = new Proofs({ nonces, now, randomBytes, key });
  closers.push(() => keySets.close());
  const keepLocksOnDisk = (): void => {
    if (config.stateDir === undefined) return;
    const journal = new LockJournal(config.stateDir);
    const keeping = keepLocks(
      line.locks,
      journal,
      () => toEpochMs(now()),
      (error) =>
        log.error({ event: "locks.unkept", ...errorFields(error) }, "locks are in force, and may not outlive me"),
    );
    keepLock = keeping.keep;
    together = keeping.together;
    closers.push(() => {
      keeping.flush();
      journal.close();
    });
  };
  const orders = new FleetOrders({
    line,
    followed: config.control !== undefined,
    strict: config.locksOnStale === "strict",
    staleAfterMs: config.locksStaleAfterMs,
    now,
    monotonicMs: () => performance.now(),
    together: (job) => together(job),
    onStated: (subject) => held?.stated(subject),
    onChange: (change) =>
      log.info({ event: "audit", change: "fleet.orders", ...change }, "ordered by the control plane"),
    onError: (lock, error) =>
      log.error({ event: "locks.refused", lock, ...errorFields(error) }, "a lock of the fleet is not in force here"),
  });
  metrics.lockView(
    () => orders.view(),
    () => orders.silentSeconds(),
  );
  const workloads = new FleetWorkloads({
    line,
    now,
    onView: (view, pods) =>
      view === "fresh"
        ? log.info({ event: "workloads.fresh", pods }, "addresses of pods are known")
        : log.warn({ event: `workloads.${view}`, pods }, "source addresses say nothing of pods for now"),
  });
  closers.push(every(WORKLOADS_LOOK_MS, () => workloads.look()));
  metrics.workloadView(
    () => workloads.view,
    () => workloads.pods,
    () => workloads.confirmedSeconds(),
  );
  // What is on disk counts first: what the control plane says goes beyond it.
  const restored = state !== undefined && restore(line, state, log);
  if (!restored && config.prior !== undefined) startWarm(line, config.prior, log);
  keepLocksOnDisk();
  let bands: () => ReturnType<typeof bandsOf> = () => []; // the first report may go out before the policy has come
  const policy = await startPolicy({
    config,
    sidecarId,
    loader,
    orders,
    workloads,
    log,
    registry: metrics.registry,
    onChange: ({ identity }) => {
      tokens.forget();
      void keySets.refresh(identity.issuers);
    },
    report: () => ({
      checks: metrics.checksTotal,
      decisions: metrics.decisions,
      scoreBands: bands(),
      riskEvents: orders.risks(),
    }),
  });
  candidate = () => policy.candidate();
  bands = () => bandsOf(line, policy);
  closers.push(() => policy.close());
  await keySets.refresh(policy.get().identity.issuers);
  closers.push(every(KEY_REFRESH_MS, () => keySets.refresh(policy.get().identity.issuers)));

  if (state !== undefined) {
    const onSaved = (result: "written" | "failed"): void => metrics.snapshots.inc({ result });
    const saving = startSaving({ line, state, intervalMs: config.snapshotIntervalMs, now, log, onSaved });
    closers.push(() => saving.close());
  }

  const recent = new RecentDecisions(RECENT_MAX, { ...config.labels, id: sidecarId, version: VERSION });
  const decisionLog =
    config.decisionLog === undefined
      ? undefined
      : new DecisionLog(config.decisionLog, (error) =>
          log.error({ event: "decision-log.failed", ...errorFields(error) }, "decisions go on unlogged"),
        );
  if (decisionLog !== undefined) closers.push(() => decisionLog.close());

  const onError = (error: unknown): void => {
    metrics.checkErrors.inc();
    log.error({ event: "call.failed", ...errorFields(error) }, "Envoy's failure mode decides");
  };
  const holding = new HeldStreams({
    line,
    policy: () => policy.get(),
    now,
    log,
    onEnd: (because) => metrics.streamEnded(because),
    onError,
  });
  held = holding;
  closers.push(() => holding.close());
  const loadWatch = new LoadWatch(
    config.overloadDelayMs,
    () => performance.now(),
    () => youngGeneration.look(),
  );
  closers.push(() => loadWatch.close());
  const shares = new FairShares();
  const authorizer = new Authorizer({
    line,
    load: {
      seen: (nowMs) => loadWatch.seen(nowMs),
      delayMs: (nowMs) => loadWatch.delayMs(nowMs),
      level: (nowMs) => loadWatch.level(nowMs),
      isHeavy: (principal) => shares.isHeavy(principal),
    },
    onOverload: config.onOverload,
    onShed: (how) => metrics.shed.inc({ how }),
    onError,
    onHeld: (facts, verdict) => holding.expect(facts, verdict),
    policy: () => policy.get(),
    freshness: () => policy.freshness(),
    tokens,
    proofs,
    key,
    now,
    microseconds: () => performance.now() * 1_000,
    onVerdict: (facts, verdict, latencyUs, policyFreshness) => {
      const bundle = policy.bundleOf(verdict.policyRevision);
      const record = recordOf(facts, verdict, latencyUs, policyFreshness, bundle);
      metrics.verdict(facts, verdict, latencyUs);
      shares.note(verdict.identity.principal.name, performance.now());
      const line = recent.add(record);
      holding.judged(verdict);
      orders.judged(verdict);
      if (decisionLog?.write(line) === false) metrics.unlogged.inc();
    },
  });
  // First up and last down, so that it can tell of the time between.
  let health: HealthServer | undefined;
  if (config.healthAddress !== undefined) {
    health = new HealthServer(config.healthAddress, metrics, () => {
      const status = policy.status();
      return {
        ready: stage === "serving" && status.ready && !orders.refuses(),
        detail: { ...policyDetail(status), ...lockDetail(orders), ...workloadDetail(workloads), state: stage },
      };
    });
    await health.listen();
    closers.push(() => health?.close());
  }
  const check = await checkListener({
    address: config.extAuthzAddress,
    transport: config.extAuthzTransport,
    check: { path: CHECK_PATH, handle: (message, timeoutMs) => authorizer.check(message, timeoutMs) },
    onError,
    onRefused: (reason) => metrics.connectionsRefused.inc({ reason }),
  });
  const streams = new StreamsListener(
    config.streamsAddress,
    [
      accessLogService(
        (bytes) => outcomesOf(bytes, toEpochMs(now())),
        (outcomes) => {
          for (const outcome of outcomes) {
            metrics.outcomes.inc({ stage: outcome.stage });
            line.outcome(outcome);
            holding.reported(outcome);
          }
        },
        onError,
      ),
      holding.service,
      ...reflectionServices(onError),
    ],
    onError,
  );
  // Checks end first: the outcomes of the last ones still come in.
  closers.push(() => authorizer.settle());
  for (const listener of [streams, check]) {
    await listener.listen();
    closers.push(() => listener.close(config.drainTimeoutMs));
  }

  const apiOptions: ApiOptions = {
    line,
    recent,
    shadow,
    policyLocks: () => policy.get().locks,
    status: () => {
      const { name, revision, mode } = policy.get();
      const { bundle, freshness, confirmedAtMs, problems, problemCode, source } = policy.status();
      const { principals, sessions, locks, scored } = line.stats();
      return {
        version: VERSION,
        policyName: name,
        policyRevision: revision,
        mode,
        policyProblems: [...problems],
        policyProblemCode: problemCode ?? "",
        policyFreshness: freshness,
        policySource: source,
        ...(bundle === undefined ? {} : { policyExpiresAt: timestampOf(bundle.expiresAtMs) }),
        ...(confirmedAtMs === undefined ? {} : { policyConfirmedAt: timestampOf(Math.floor(confirmedAtMs)) }),
        sidecarId,
        labels: { ...config.labels },
        startedAt: timestampOf(startedAtMs),
        checks: BigInt(metrics.checksTotal),
        principals,
        sessions,
        locks,
        extAuthzAddress: check.boundAddress,
        streamsAddress: streams.boundAddress,
        scoreBands: bandsOf(line, policy).map((band) => ({ ...band, requests: BigInt(band.requests) })),
        scored: BigInt(scored),
      };
    },
    now,
    newId: () => `lock-${randomBytes(6).toString("hex")}`,
    token: config.apiTokenFile === undefined ? undefined : loadToken(config.apiTokenFile),
    onChange: (change) => {
      if (change.change === "posture.stated" && change.subject !== undefined) holding.stated(change.subject);
      log.info({ event: "audit", ...change }, "changed over the local API");
    },
  };
  let api: ConsoleServer | undefined;
  for (const address of [config.apiAddress, config.apiSocket === undefined ? undefined : `unix:${config.apiSocket}`]) {
    if (address === undefined) continue;
    const server = await startConsole(apiOptions, address);
    closers.push(() => server.close());
    api ??= server;
  }

  stage = "serving";
  for (const listener of [check, streams]) listener.setServing(true);
  closers.push(async () => {
    stage = "draining";
    await untilUnconnected(check, config.drainDelayMs);
    for (const listener of [check, streams]) listener.setServing(false);
  });
  return {
    extAuthz: check.boundAddress,
    streams: streams.boundAddress,
    api: api?.address,
    health: health?.boundAddress,
  };
}

/** A `google.protobuf.Timestamp`, without its library: the local API is loaded only when it is asked. */
function timestampOf(ms: number): { readonly seconds: bigint; readonly nanos: number } {
  return { seconds: BigInt(Math.floor(ms / SECOND_MS)), nanos: (ms % SECOND_MS) * 1e6 };
}

/** How often it is looked whether Envoy is gone. */
const UNCONNECTED_POLL_MS = 50;

/** Waits until Envoy has closed its connections, `msMax` at most. */
async function untilUnconnected(check: Listener, msMax: number): Promise<void> {
  const deadline = performance.now() + msMax;
  while (performance.now() < deadline && check.openConnections !== 0) {
    await new Promise((resolve) => setTimeout(resolve, UNCONNECTED_POLL_MS));
  }
}

/** @throws {OperatingError} when the operator names a secret that cannot be read, or that could be guessed */
function nonceSecret(path: string | undefined, state: StateFiles | undefined, log: Logger): Uint8Array {
  if (path === undefined) return keptKey(() => state?.nonceSecret(), "open challenges will not survive a restart", log);
  let secret: Buffer;
  try {
    secret = readFileSync(path);
  } catch (cause) {
    throw new OperatingError("ERR_CONFIG_INVALID", `challenge-secret-file ${path}: expected a file that can be read`, {
      cause,
    });
  }
  // One line break at the end is the editor's, and differs between copies of one secret.
  const end = secret.length - (/\r?\n$/.exec(secret.toString("latin1"))?.[0].length ?? 0);
  if (end < NONCE_SECRET_BYTES_MIN) {
    throw new OperatingError(
      "ERR_CONFIG_INVALID",
      `challenge-secret-file ${path}: expected ${NONCE_SECRET_BYTES_MIN} bytes or more, got ${end}`,
    );
  }
  return secret.subarray(0, end);
}

/** How often scores reached 20, 30 and the policy's thresholds. */
function bandsOf(line: Line, policy: RunningPolicy) {
  const { challenge, deny } = policy.get().thresholds;
  const levels = [20, 30, challenge, deny].map(Math.round).filter((level) => level > 0 && level < 100);
  return line.scoreBands([...new Set(levels)].sort((a, b) => a - b));
}

/** What `/readyz` says of the fleet's locks. */
function lockDetail(orders: FleetOrders): Readonly<Record<string, string>> {
  const view = orders.view();
  if (view === "none") return {};
  return { locks: view, ...(orders.refuses() ? { locks_on_stale: "every request is denied" } : {}) };
}

/** What `/readyz` says of pods. */
function workloadDetail({ view, pods }: FleetWorkloads): Readonly<Record<string, string>> {
  return view === "none" ? {} : { workloads: view, pods: String(pods) };
}

/** What `/readyz` says of the policy. */
function policyDetail({ policy, bundle, freshness, confirmedAtMs, summary, source }: PolicyStatus) {
  return {
    policy: summary,
    policy_revision: policy.revision,
    policy_freshness: freshness,
    policy_source: source,
    ...(bundle === undefined ? {} : { policy_expires: new Date(bundle.expiresAtMs).toISOString() }),
    ...(confirmedAtMs === undefined ? {} : { policy_confirmed: new Date(confirmedAtMs).toISOString() }),
  };
}

/** @throws {OperatingError} when the operator names a prior that cannot be read or is none */
function startWarm(line: Line, path: string, log: Logger): void {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw new OperatingError("ERR_DATA_UNREADABLE", `prior ${path}: expected a file that can be read`, { cause });
  }
  try {
    line.restore(bytes);
  } finally {
    release(bytes);
  }
  log.info({ event: "prior.taken", path }, "starts with what others have learned");
}

/**
 * A key that the state folder keeps; without one, a key of this process.
 * @param lost what a restart then costs
 */
function keptKey(kept: () => Uint8Array | undefined, lost: string, log: Logger): Uint8Array {
  try {
    const key = kept();
    if (key !== undefined) return key;
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    // Starts all the same: a policy in force matters more than what a restart costs.
    log.error({ event: "state.unwritable", ...errorFields(error) }, `starts with a key of this process only: ${lost}`);
  }
  return randomBytes(KEY_BYTES);
}

/** @returns whether something was restored */
function restore(line: Line, state: StateFiles, log: Logger): boolean {
  const bytes = state.read();
  if (bytes === undefined) return false;
  try {
    line.restore(bytes);
    log.info({ event: "state.restored", principals: line.stats().principals }, "continues with what was learned");
    return true;
  } catch (error) {
    // Starts empty rather than not at all: an unknown caller is new, not denied. The file is kept for a look.
    const path = setAside(state, log);
    log.error({ event: "state.unusable", path, ...errorFields(error) }, "starts with an empty memory");
    return false;
  } finally {
    release(bytes);
  }
}

function setAside(state: StateFiles, log: Logger): string | undefined {
  try {
    return state.setAside();
  } catch (error) {
    // Starts all the same; the file stays where it is until a snapshot can take its place.
    log.error({ event: "state.unwritable", ...errorFields(error) }, "what cannot be used could not be set aside");
    return undefined;
  }
}

function recordTo(path: string, line: Line, closers: Close[]): Line {
  let file: number;
  try {
    file = openSync(path, "a", 0o600);
  } catch (cause) {
    throw new OperatingError("ERR_STATE_UNWRITABLE", `recording ${path}: cannot be written`, { cause });
  }
  closers.push(() => closeSync(file));
  return recording(line, (event) => writeSync(file, `${JSON.stringify(event)}\n`));
}

/** Runs a job regularly; the returned function ends it. */
function every(ms: number, job: () => unknown): () => void {
  const timer = setInterval(job, ms);
  timer.unref();
  return () => clearInterval(timer);
}
