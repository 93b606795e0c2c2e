/** The local API: reads for everybody who reaches it, changes for those who may. */

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Timestamp, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type ConnectRouter, createContextKey, type HandlerContext } from "@connectrpc/connect";
import {
  type Decision,
  DecisionSchema,
  GetShadowResponseSchema,
  type GetStatusResponseSchema,
  LocalService,
  type Lock as LockMessage,
  LockSchema,
  PrincipalSummarySchema,
} from "../gen/sallyport/local/v1/local_pb.ts";
import { OperatingError } from "../model/errors.ts";
import type { Line } from "../model/line.ts";
import type { Lock } from "../model/policy.ts";
import { SECOND_MS, toEpochMs } from "../model/units.ts";
import type { DecisionRecord } from "../telemetry/decision-record.ts";
import type { RecentDecisions } from "../telemetry/recent.ts";
import { holdsToken } from "./access.ts";

/** Ids of locks that the control plane set begin so. */
const FLEET_PREFIX = "fleet-";

/** Set for calls over the private socket. */
export const overPrivateSocket = createContextKey(false);

const RECENT_MAX = 1_000;
/** Decisions waiting for a slow watcher; further ones are left out for it. */
const WATCHER_QUEUE_MAX = 1_000;
/** Who sets a lock, as the caller says. */
const NAME = /^[A-Za-z0-9._@-]{0,64}$/;
const FACTS_MAX = 64;
const TEXT_CHARS_MAX = 512;
/** The longest SPIFFE ID (SPIFFE-ID specification, section 2.3). */
const PRINCIPAL_CHARS_MAX = 2048;
/** Header of a refusal that names its stable code. */
export const CODE_HEADER = "sallyport-error-code";

export interface ApiOptions {
  readonly line: Line;
  readonly recent: RecentDecisions;
  readonly shadow: (messageOf: typeof decisionMessage) => MessageInitShape<typeof GetShadowResponseSchema>;
  /** Locks of the policy in force, shown beside the table's. */
  readonly policyLocks: () => readonly Lock[];
  readonly status: () => MessageInitShape<typeof GetStatusResponseSchema>;
  readonly now: () => number;
  readonly newId: () => string;
  readonly token: string | undefined;
  /** Told of every change, for the audit trail. */
  readonly onChange: (change: Readonly<Record<string, string>>) => void;
}

export function localApi(options: ApiOptions): (router: ConnectRouter) => void {
  const { line, recent, now } = options;
  const mayChange = (context: HandlerContext): void => {
    if (context.values.get(overPrivateSocket)) return;
    if (holdsToken(context.requestHeader.get("authorization"), options.token)) return;
    throw new ConnectError(
      options.token === undefined
        ? "changes need the private socket (api-socket) or a token (api-token-file); neither was configured"
        : "changes need the API token or the private socket",
      Code.Unauthenticated,
    );
  };
  return (router) =>
    router.service(LocalService, {
      getStatus: () => options.status(),
      getDecision: ({ decisionId }) => {
        const record = recent.get(decisionId);
        if (record === undefined) throw new ConnectError("no such decision among the recent ones", Code.NotFound);
        return { decision: decisionMessage(record) };
      },
      watchDecisions: async function* ({ recent: count, scoreMin }, context) {
        yield* watch(recent, Math.min(count, RECENT_MAX), scoreMin, context.signal);
      },
      getShadow: () => create(GetShadowResponseSchema, options.shadow(decisionMessage)),
      listLocks: () => ({
        locks: [
          ...options.policyLocks().filter(({ expiresAtMs }) => expiresAtMs === undefined || now() < expiresAtMs),
          ...line.locks.list(toEpochMs(now())),
        ].map(lockMessage),
      }),
      addLock: ({ lock, ttlSeconds, as }, context) => {
        mayChange(context);
        const added = lockOf(lock ?? create(LockSchema), ttlSeconds, as, now(), options.newId());
        refusing(() => line.locks.add(added));
        options.onChange({ change: "lock.added", lock: added.id, reason: added.reason, by: added.setBy });
        return { lock: lockMessage(added) };
      },
      removeLock: ({ id }, context) => {
        mayChange(context);
        if (id.startsWith(FLEET_PREFIX)) {
          throw new ConnectError(
            `lock ${id} is the fleet's: unlock it at the control plane, with \`sallyport fleet unlock\``,
            Code.FailedPrecondition,
          );
        }
        if (!line.locks.remove(id)) throw new ConnectError(`no lock ${id} in the table`, Code.NotFound);
        options.onChange({ change: "lock.removed", lock: id });
        return {};
      },
      putPosture: ({ subject, facts, source }, context) => {
        mayChange(context);
        if (subject === "") throw new ConnectError("subject: expected a principal or an address", Code.InvalidArgument);
        if (Object.keys(facts).length > FACTS_MAX) {
          throw new ConnectError(`facts: expected at most ${FACTS_MAX}`, Code.InvalidArgument);
        }
        line.posture.put(subject, { facts, source: source === "" ? "local API" : source, reportedAtMs: now() });
        options.onChange({ change: "posture.stated", subject: subject.slice(0, TEXT_CHARS_MAX) });
        return {};
      },
      listPrincipals: ({ principal }) => ({
        principals: line
          .principals()
          .filter((summary) => principal === "" || summary.principal === principal)
          .map((summary) =>
            create(PrincipalSummarySchema, {
              principal: summary.principal,
              requests: summary.requests,
              firstSeen: time(summary.firstSeenMs),
              lastSeen: time(summary.lastSeenMs),
              features: summary.features.map(({ feature, values, top }) => ({ name: feature, values, top: [...top] })),
            }),
          ),
      }),
      resetBaseline: ({ principal }, context) => {
        mayChange(context);
        if (!line.forget(principal)) throw new ConnectError("nothing was learned of that principal", Code.NotFound);
        options.onChange({ change: "baseline.reset", principal: principal.slice(0, TEXT_CHARS_MAX) });
        return {};
      },
      exportBaselines: ({ prior }, context) => {
        mayChange(context);
        return { state: line.snapshot(toEpochMs(now()), prior ? "prior" : "all") };
      },
      importBaselines: ({ state }, context) => {
        mayChange(context);
        refusing(() => line.restore(state));
        options.onChange({ change: "baselines.imported" });
        return {};
      },
    });
}

async function* watch(recent: RecentDecisions, count: number, scoreMin: number, signal: AbortSignal) {
  const queue: DecisionRecord[] = recent.latest(count).filter((record) => record.score >= scoreMin);
  let wake: (() => void) | undefined;
  const unsubscribe = recent.subscribe((record) => {
    if (record.score < scoreMin || queue.length >= WATCHER_QUEUE_MAX) return;
    queue.push(record);
    wake?.();
  });
  const onAbort = (): void => wake?.();
  signal.addEventListener("abort", onAbort);
  try {
    while (!signal.aborted) {
      const record = queue.shift();
      if (record !== undefined) {
        yield { decision: decisionMessage(record) };
        continue;
      }
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    unsubscribe();
    signal.removeEventListener("abort", onAbort);
  }
}

/** Errors of ours become refusals that say what was wanted. */
function refusing(change: () => void): void {
  try {
    change();
  } catch (error) {
    if (error instanceof OperatingError) throw refused(error);
    throw error;
  }
}

function refused({ message, code }: OperatingError): ConnectError {
  return new ConnectError(message, Code.InvalidArgument, { [CODE_HEADER]: code });
}

/** A part is taken whole or refused: cut, it would lock nobody, or somebody else. */
function lockOf(message: LockMessage, ttlSeconds: number, as: string, now: number, id: string): Lock {
  if (!NAME.test(as)) {
    throw refused(
      new OperatingError("ERR_LOCK_INVALID", "lock: as: expected a name of 1..64 letters, digits and ._@-"),
    );
  }
  const part = (name: string, value: string, charsMax = TEXT_CHARS_MAX): string | undefined => {
    if (value.length > charsMax) {
      const found = `expected at most ${charsMax} characters, got ${value.length}`;
      throw refused(new OperatingError("ERR_LOCK_INVALID", `lock ${name}: ${found}`));
    }
    return value === "" ? undefined : value;
  };
  return {
    id,
    scope: {
      principal: part("principal", message.principal, PRINCIPAL_CHARS_MAX),
      credential: part("credential", message.credential),
      certificate: part("certificate", message.certificate.toLowerCase().replaceAll(":", "")),
      key: part("key", message.key.toLowerCase().replaceAll(":", "")),
      fingerprint: part("fingerprint", message.fingerprint),
      address: part("address", message.address),
      destination: part("destination", message.destination.toLowerCase()),
      peerGroup: part("peer group", message.peerGroup),
    },
    reason: part("reason", message.reason) ?? "no reason given",
    setBy: as === "" ? "operator" : `operator:${as}`,
    setAtMs: now,
    expiresAtMs: ttlSeconds === 0 ? undefined : now + ttlSeconds * SECOND_MS,
  };
}

export function lockMessage(lock: Lock): LockMessage {
  return create(LockSchema, {
    id: lock.id,
    principal: lock.scope.principal ?? "",
    credential: lock.scope.credential ?? "",
    certificate: lock.scope.certificate ?? "",
    key: lock.scope.key ?? "",
    peerGroup: lock.scope.peerGroup ?? "",
    fingerprint: lock.scope.fingerprint ?? "",
    address: lock.scope.address ?? "",
    destination: lock.scope.destination ?? "",
    reason: lock.reason,
    setBy: lock.setBy,
    // A policy does not say when it set a lock.
    ...(lock.setAtMs === 0 ? {} : { setAt: time(lock.setAtMs) }),
    ...(lock.expiresAtMs === undefined ? {} : { expiresAt: time(lock.expiresAtMs) }),
  });
}

export function decisionMessage(record: DecisionRecord): Decision {
  return create(DecisionSchema, {
    decisionId: record.decisionId,
    time: time(record.timeMs),
    decision: record.decision,
    enforced: record.enforced,
    score: record.score,
    reasons: record.reasons.map((reason) => ({ ...reason })),
    mode: record.mode,
    rule: record.rule,
    policyRevision: record.policyRevision,
    principal: record.principal,
    credential: record.credential,
    protocol: record.protocol,
    method: record.method,
    destination: record.destination,
    route: record.route,
    sourceAddress: record.sourceAddress ?? "",
    userAgent: record.userAgent ?? "",
    ja4: record.ja4 ?? "",
    because: record.because ?? "",
    answered: record.answered,
    latencyUs: record.latencyUs,
    policyName: record.policyName,
    thresholds: record.thresholds,
    ruleThresholds: [...record.ruleThresholds],
    peerGroup: record.peerGroup ?? "",
    conditionErrors: [...(record.conditionErrors ?? [])],
    policyFreshness: record.policyFreshness ?? "",
    ...(record.shadow === undefined
      ? {}
      : { shadow: { ...record.shadow, reasons: record.shadow.reasons.map((reason) => ({ ...reason })) } }),
  });
}

function time(ms: number): Timestamp {
  return timestampFromMs(Math.floor(ms));
}
