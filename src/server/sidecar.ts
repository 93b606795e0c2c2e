/** The sidecar as a whole: what it is made of, how it starts, and how it ends. */

import { randomBytes, randomUUID } from "node:crypto";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { CurrentPolicy } from "../bundle/current.ts";
import { defaultPolicy } from "../bundle/default-policy.ts";
import { type LoadResult, loadPolicy } from "../bundle/load.ts";
import { formatProblem } from "../bundle/problem.ts";
import { shippedNetworks } from "../bundle/shipped-networks.ts";
import { watchPolicy } from "../bundle/watch.ts";
import { createLine } from "../check/line.ts";
import { recording } from "../check/recording.ts";
import { loadToken } from "../console/access.ts";
import { localApi } from "../console/api.ts";
import { type ConsoleServer, startConsole } from "../console/server.ts";
import { outcomesOf } from "../envoy/access-log.ts";
import { Authorizer } from "../envoy/authorizer.ts";
import { KeySets } from "../envoy/key-sets.ts";
import { accessLogService, authorizationService } from "../envoy/service.ts";
import { Tokens } from "../envoy/tokens.ts";
import { ScoreBandSchema } from "../gen/sallyport/local/v1/local_pb.ts";
import { OperatingError } from "../model/errors.ts";
import type { Line, LockChange } from "../model/line.ts";
import type { Policy } from "../model/policy.ts";
import { MINUTE_MS, toEpochMs } from "../model/units.ts";
import { DecisionLog } from "../telemetry/decision-log.ts";
import { recordOf } from "../telemetry/decision-record.ts";
import { errorFields, type Logger } from "../telemetry/log.ts";
import { Metrics } from "../telemetry/metrics.ts";
import { RecentDecisions } from "../telemetry/recent.ts";
import type { ServeConfig } from "./config.ts";
import { GrpcListener } from "./grpc.ts";
import { HealthServer } from "./health.ts";
import { HeldStreams } from "./held-streams.ts";
import { keepLocks, LockJournal } from "./lock-journal.ts";
import { pooledRandom } from "./random.ts";
import { StateFiles } from "./state-files.ts";
import { VERSION } from "./version.ts";

const RECENT_MAX = 2_000;
const KEY_REFRESH_MS = MINUTE_MS;

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
 * @throws {OperatingError} ERR_POLICY_INVALID with every problem at once, ERR_LISTEN, ERR_STATE_UNWRITABLE, …; nothing
 *   keeps running then
 */
export async function startSidecar(config: ServeConfig, log: Logger): Promise<Sidecar> {
  const closers: (() => Promise<void> | void)[] = [];
  const stop = async (): Promise<void> => {
    for (const close of closers.splice(0).reverse()) await close();
  };
  try {
    const addresses = await assemble(config, log, closers);
    return { addresses, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function assemble(
  config: ServeConfig,
  log: Logger,
  closers: (() => Promise<void> | void)[],
): Promise<Sidecar["addresses"]> {
  const now = Date.now;
  const startedAtMs = now();
  let policyLoadedAtMs = startedAtMs;
  let policyProblems: readonly string[] = [];
  let stage: "starting" | "serving" | "draining" = "starting";

  const { principalsMax, sessionsMax } = config;
  let held: HeldStreams | undefined;
  let keepLock: (change: LockChange) => void = () => {}; // until what is on disk was read
  const onLock = (change: LockChange): void => {
    keepLock(change);
    if (change.kind === "added") held?.locked();
  };
  const bare = createLine({ principalsMax, sessionsMax, random: pooledRandom(), onLock });
  const line = config.recording === undefined ? bare : recordTo(config.recording, bare, closers);
  const metrics = new Metrics(
    () => line.stats(),
    () => policyLoadedAtMs,
    () => held?.size ?? 0,
  );

  const loaded = config.policy === undefined ? undefined : await loadPolicy(config.policy);
  const current = new CurrentPolicy(effective(policyOf(loaded), config));

  const keySets = new KeySets({
    now,
    onError: (error) => {
      metrics.keyFetchErrors.inc();
      log.warn({ event: "keys.failed", ...errorFields(error) }, "the last good keys stay in force");
    },
  });
  const state = config.stateDir === undefined ? undefined : new StateFiles(config.stateDir);
  const key = state?.credentialKey() ?? randomBytes(32);
  const tokens = new Tokens({ key, keySets, now });
  await keySets.refresh(current.get().identity.issuers);
  closers.push(
    () => keySets.close(),
    every(KEY_REFRESH_MS, () => keySets.refresh(current.get().identity.issuers)),
  );

  if (config.policy !== undefined && loaded !== undefined) {
    const watcher = watchPolicy(config.policy, loaded, {
      onPolicy: ({ policy }) => {
        current.replace(effective(policy, config));
        policyLoadedAtMs = now();
        policyProblems = [];
        tokens.forget();
        metrics.policyLoads.inc({ result: "accepted" });
        log.info({ event: "policy.replaced", policy: policy.name, revision: policy.revision }, "new policy in force");
        void keySets.refresh(policy.identity.issuers);
      },
      onProblems: ({ problems }) => {
        policyProblems = problems.map(formatProblem);
        metrics.policyLoads.inc({ result: "refused" });
        log.error({ event: "policy.refused", problems: policyProblems }, "kept the last good policy");
      },
    });
    closers.push(() => watcher.close());
  }

  const restored = state !== undefined && restore(line, state, log);
  if (!restored && config.prior !== undefined) startWarm(line, config.prior, log);
  if (config.stateDir !== undefined) {
    const journal = new LockJournal(config.stateDir);
    closers.push(() => journal.close());
    keepLock = keepLocks(
      line.locks,
      journal,
      () => toEpochMs(now()),
      (error) =>
        log.error({ event: "locks.unkept", ...errorFields(error) }, "locks are in force, and may not outlive me"),
    );
  }
  if (state !== undefined) {
    const save = (): void => {
      try {
        state.write(line.snapshot(toEpochMs(now())));
        metrics.snapshots.inc({ result: "written" });
      } catch (error) {
        metrics.snapshots.inc({ result: "failed" }); // keeps deciding; the last snapshot is still there
        log.error({ event: "state.unwritable", ...errorFields(error) }, "what was learned could not be written");
      }
    };
    closers.push(save, every(config.snapshotIntervalMs, save));
  }

  const recent = new RecentDecisions(RECENT_MAX);
  const decisionLog =
    config.decisionLog === undefined
      ? undefined
      : new DecisionLog(config.decisionLog, { id: randomUUID(), version: VERSION }, (error) =>
          log.error({ event: "decision-log.failed", ...errorFields(error) }, "decisions go on unlogged"),
        );
  if (decisionLog !== undefined) closers.push(() => decisionLog.close());

  const onError = (error: unknown): void => {
    metrics.checkErrors.inc();
    log.error({ event: "call.failed", ...errorFields(error) }, "Envoy's failure mode decides");
  };
  const holding = new HeldStreams({
    line,
    policy: () => current.get(),
    now,
    log,
    onEnd: (because) => metrics.streamEnded(because),
    onError,
  });
  held = holding;
  closers.push(() => holding.close());
  const authorizer = new Authorizer({
    line,
    onHeld: (facts, verdict) => holding.expect(facts, verdict),
    policy: () => current.get(),
    tokens,
    key,
    now,
    microseconds: () => performance.now() * 1_000,
    onVerdict: (facts, verdict, latencyUs) => {
      const record = recordOf(facts, verdict, latencyUs);
      metrics.verdict(facts, verdict, latencyUs);
      recent.add(record);
      holding.judged(verdict);
      if (decisionLog?.write(record) === false) metrics.unlogged.inc();
    },
  });
  // First up and last down, so that it can tell of the time between.
  let health: HealthServer | undefined;
  if (config.healthAddress !== undefined) {
    health = new HealthServer(config.healthAddress, metrics, () => ({
      ready: stage === "serving",
      detail: {
        policy_revision: current.get().revision,
        policy: policyProblems.length === 0 ? "current" : "latest refused, last good in force",
        state: stage,
      },
    }));
    await health.listen();
    closers.push(() => health?.close());
  }
  const check = new GrpcListener(
    config.extAuthzAddress,
    [authorizationService((request) => authorizer.check(request), onError)],
    { reflection: false },
  );
  const streams = new GrpcListener(
    config.streamsAddress,
    [
      accessLogService((message) => {
        for (const outcome of outcomesOf(message, toEpochMs(now()))) {
          metrics.outcomes.inc({ stage: outcome.stage });
          line.outcome(outcome);
          holding.reported(outcome);
        }
      }, onError),
      holding.service,
    ],
    { reflection: true },
  );
  // Checks end first: the outcomes of the last ones still come in.
  for (const listener of [streams, check]) {
    await listener.listen();
    closers.push(() => listener.close(config.drainTimeoutMs));
  }

  const routes = localApi({
    line,
    recent,
    policyLocks: () => current.get().locks,
    status: () => {
      const { name, revision, mode, thresholds } = current.get();
      const levels = [20, 30, thresholds.challenge, thresholds.deny]
        .map(Math.round)
        .filter((level) => level > 0 && level < 100);
      const { principals, sessions, locks, scored } = line.stats();
      return {
        version: VERSION,
        policyName: name,
        policyRevision: revision,
        mode,
        policyProblems: [...policyProblems],
        startedAt: timestampFromMs(startedAtMs),
        checks: BigInt(metrics.checksTotal),
        principals,
        sessions,
        locks,
        extAuthzAddress: check.boundAddress,
        streamsAddress: streams.boundAddress,
        scoreBands: line
          .scoreBands([...new Set(levels)].sort((a, b) => a - b))
          .map((band) => create(ScoreBandSchema, { ...band, requests: BigInt(band.requests) })),
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
  });
  let api: ConsoleServer | undefined;
  for (const address of [config.apiAddress, config.apiSocket === undefined ? undefined : `unix:${config.apiSocket}`]) {
    if (address === undefined) continue;
    const server = await startConsole(routes, address);
    closers.push(() => server.close());
    api ??= server;
  }

  stage = "serving";
  for (const listener of [check, streams]) listener.setServing(true);
  closers.push(() => {
    stage = "draining";
    for (const listener of [check, streams]) listener.setServing(false);
  });
  return {
    extAuthz: check.boundAddress,
    streams: streams.boundAddress,
    api: api?.address,
    health: health?.boundAddress,
  };
}

function policyOf(loaded: LoadResult | undefined): Policy {
  if (loaded === undefined) return defaultPolicy(shippedNetworks());
  if (loaded.ok) return loaded.policy;
  throw new OperatingError("ERR_POLICY_INVALID", `policy refused:\n${loaded.problems.map(formatProblem).join("\n")}`);
}

/** `--mode observe` turns enforcement off everywhere, rules included, without touching the policy. */
function effective(policy: Policy, { mode }: ServeConfig): Policy {
  if (mode !== "observe") return policy;
  return { ...policy, mode: "observe", rules: policy.rules.map((rule) => ({ ...rule, mode: undefined })) };
}

/** @throws {OperatingError} when the operator names a prior that cannot be read or is none */
function startWarm(line: Line, path: string, log: Logger): void {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw new OperatingError("ERR_DATA_UNREADABLE", `prior ${path}: expected a file that can be read`, { cause });
  }
  line.restore(bytes);
  log.info({ event: "prior.taken", path }, "starts with what others have learned");
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
    const path = state.setAside();
    log.error({ event: "state.unusable", path, ...errorFields(error) }, "starts with an empty memory");
    return false;
  }
}

function recordTo(path: string, line: Line, closers: (() => Promise<void> | void)[]): Line {
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
