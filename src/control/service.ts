/** The control plane's two services: checks who calls and what was sent, then leaves the rest to fleet and hub. */

import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { createValidator } from "@bufbuild/protovalidate";
import { Code, ConnectError, type ConnectRouter, createContextKey, type HandlerContext } from "@connectrpc/connect";
import { Role } from "../gen/sallyport/control/v1/config_pb.ts";
import {
  AbortCanaryRequestSchema,
  AddFleetLockRequestSchema,
  type Channel,
  ChannelSchema,
  ControlService,
  type FleetLock,
  FleetService,
  GetChunksRequestSchema,
  ListSidecarsRequestSchema,
  PromoteCanaryRequestSchema,
  PublishRequestSchema,
  RemoveFleetLockRequestSchema,
  ReportRequestSchema,
  type RiskEvent,
  SetChannelRequestSchema,
  StartCanaryRequestSchema,
  WatchFleetResponseSchema,
  WatchRequestSchema,
  WidenCanaryRequestSchema,
} from "../gen/sallyport/control/v1/control_pb.ts";
import { type ErrorCode, OperatingError } from "../model/errors.ts";
import { type Authenticated, type Caller, may, mayBe, mayOnAll } from "./access.ts";
import { type Author, channelOf } from "./channels.ts";
import type { Fleet } from "./fleet.ts";
import type { Call, Hub } from "./hub.ts";
import type { ControlMetrics } from "./metrics.ts";
import { type Standing, settled } from "./orders.ts";
import type { FleetStore } from "./store.ts";

/** Header of a refusal that names its stable code. */
export const CODE_HEADER = "sallyport-error-code";

/** Requests of sidecars are small; a list of all pieces of a large bundle is the largest. */
const SIDECAR_REQUEST_BYTES_MAX = 2 * 1024 * 1024;
/** Beside the bundle itself. */
const OPERATOR_REQUEST_BYTES_EXTRA = 64 * 1024;
const SIDECARS_LISTED_MAX = 1_000;
/** Between two pictures of the fleet to one watcher. */
const PICTURE_MS_MIN = 1_000;
const PICTURE_MS_MAX = 5_000;
/** Operators and pages that watch at once. */
const ONLOOKERS_MAX = 100;

const ROLE_NAMES: ReadonlyMap<Role, string> = new Map(
  Object.entries(Role).map(([name, role]) => [role, name.toLowerCase()] as const),
);

/** How the request behind a call is asked who sends it, and ended. */
export interface Connection {
  readonly authenticate: () => Authenticated;
  readonly cut: () => void;
}

export const connectionKey = createContextKey<Connection>({
  authenticate: () => ({ ok: false, why: "the connection is not known" }),
  cut: () => {},
});

export interface ServiceOptions {
  readonly fleet: Fleet;
  readonly hub: Hub;
  readonly store: FleetStore;
  readonly standing: Standing;
  readonly newId: () => string;
  /** Takes what sidecars tell of risk; a report counts as taken once this has resolved. */
  readonly onRisk: (events: readonly RiskEvent[]) => Promise<void>;
  /** Told of locks that operators set. Never rejects. */
  readonly onLocked: (lock: FleetLock) => Promise<void>;
  readonly metrics: ControlMetrics;
  readonly bundleBytesMax: number;
  readonly now: () => number;
  /** Told of every change, done or refused, for the audit trail. */
  readonly onAudit: (entry: Readonly<Record<string, string>>) => void;
}

export function controlRoutes(options: ServiceOptions): (router: ConnectRouter) => void {
  const { fleet, hub, store, standing, metrics, now } = options;
  const validator = createValidator();

  const check = <Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): void => {
    const result = validator.validate(schema, message);
    if (result.kind === "valid") return;
    const first = result.violations?.[0];
    const where = first?.field
      .map((part) => ("jsonName" in part ? part.jsonName : ""))
      .filter(Boolean)
      .join(".");
    throw new ConnectError(
      `${where ?? "request"}: ${first?.message ?? "not as its schema wants"}`,
      Code.InvalidArgument,
    );
  };

  const callerOf = (context: HandlerContext): Caller => {
    const authenticated = context.values.get(connectionKey).authenticate();
    if (authenticated.ok) return authenticated.caller;
    metrics.refusedCalls.inc({ reason: "unauthenticated" });
    throw new ConnectError(authenticated.why, Code.Unauthenticated);
  };

  const callOf = (context: HandlerContext): Call => ({
    signal: context.signal,
    caller: () => callerOf(context),
    cut: context.values.get(connectionKey).cut,
  });

  const demand = (context: HandlerContext, role: Role, channel?: string): Caller => {
    const caller = callerOf(context);
    if (may(caller, role, channel)) return caller;
    metrics.refusedCalls.inc({ reason: "forbidden" });
    const on = channel === undefined ? "" : ` on channel ${channel}`;
    throw new ConnectError(`${caller.name} is no ${ROLE_NAMES.get(role)}${on}`, Code.PermissionDenied);
  };

  /** Locks reach every sidecar: only whoever may change every channel may set them. */
  const demandAll = (context: HandlerContext): Caller => {
    const caller = demand(context, Role.OPERATOR);
    if (mayOnAll(caller, Role.OPERATOR)) return caller;
    metrics.refusedCalls.inc({ reason: "forbidden" });
    throw new ConnectError(`${caller.name} is no operator of all channels`, Code.PermissionDenied);
  };

  const locking = async (
    action: string,
    lock: string,
    reason: string,
    caller: Caller,
    change: () => Promise<void>,
  ): Promise<void> => {
    const entry = { action, lock, reason, by: caller.name, from: caller.from };
    try {
      await change();
      metrics.changes.inc({ action, result: "done" });
      options.onAudit({ ...entry, result: "done" });
    } catch (error) {
      metrics.changes.inc({ action, result: "refused" });
      options.onAudit({ ...entry, result: "refused", code: error instanceof OperatingError ? error.code : "bug" });
      throw connectError(error);
    }
  };

  /** One change of the fleet: by an operator, told to the audit trail whatever comes of it. */
  const changing = async <Result extends { readonly channel: Channel }>(
    context: HandlerContext,
    action: string,
    channel: string,
    change: (author: Author) => Promise<Result>,
  ): Promise<Result> => {
    const caller = demand(context, Role.OPERATOR, channel);
    const entry = { action, channel, by: caller.name, from: caller.from };
    try {
      const result = await change({ by: caller.name, atMs: now() });
      metrics.changes.inc({ action, result: "done" });
      options.onAudit({ ...entry, result: "done", what: result.channel.lastChange?.what ?? "" });
      return result;
    } catch (error) {
      metrics.changes.inc({ action, result: "refused" });
      const code = error instanceof OperatingError ? error.code : "bug";
      options.onAudit({ ...entry, result: "refused", code });
      throw connectError(error);
    }
  };

  let onlookers = 0;
  return (router) => {
    router.service(
      ControlService,
      {
        watch: (request, context) => {
          const call = callOf(context);
          call.caller();
          check(WatchRequestSchema, request);
          return hub.watch(request, call);
        },
        getChunks: async function* (request, context) {
          demand(context, Role.SIDECAR);
          check(GetChunksRequestSchema, request);
          for await (const chunk of hub.chunks(request.sha256, callOf(context)))
            yield chunk === undefined ? {} : { chunk };
        },
        report: async (request, context) => {
          const caller = callerOf(context);
          try {
            check(ReportRequestSchema, request);
          } catch (error) {
            metrics.reports.inc({ result: "refused" });
            throw error;
          }
          const status = request.status!;
          if (!mayBe(caller, status.labels, channelOf(store.channels().values(), status.labels)?.name)) {
            metrics.reports.inc({ result: "refused" });
            throw new ConnectError("not allowed as a sidecar with these labels", Code.PermissionDenied);
          }
          const risk = status.riskEvents;
          status.riskEvents = [];
          store.report({ status, atMs: now() });
          if (risk.length > 0) {
            try {
              await options.onRisk(risk);
            } catch (error) {
              throw connectError(error); // the sidecar tells them again
            }
          }
          metrics.reports.inc({ result: "taken" });
          return {};
        },
      },
      { readMaxBytes: SIDECAR_REQUEST_BYTES_MAX },
    );
    router.service(
      FleetService,
      {
        publish: async (request, context) => {
          check(PublishRequestSchema, request);
          const { channel, published, warnings } = await changing(context, "publish", request.channel, (author) =>
            fleet.publish(request.channel, request.bundle, author),
          );
          return { channel: shown(channel), published, warnings: [...warnings] };
        },
        setChannel: async (request, context) => {
          check(SetChannelRequestSchema, request);
          return changing(context, "set_channel", request.channel, async (author) => ({
            channel: shown(await fleet.setChannel(request.channel, request.selector, author)),
          }));
        },
        startCanary: async (request, context) => {
          check(StartCanaryRequestSchema, request);
          const { channel, warnings } = await changing(context, "start_canary", request.channel, (author) =>
            fleet.startCanary(request.channel, request.bundle, request, author),
          );
          return { channel: shown(channel), warnings: [...warnings] };
        },
        widenCanary: async (request, context) => {
          check(WidenCanaryRequestSchema, request);
          return changing(context, "widen_canary", request.channel, async (author) => ({
            channel: shown(await fleet.widenCanary(request.channel, request, author)),
          }));
        },
        promoteCanary: async (request, context) => {
          check(PromoteCanaryRequestSchema, request);
          return changing(context, "promote_canary", request.channel, async (author) => ({
            channel: shown(await fleet.promoteCanary(request.channel, author)),
          }));
        },
        abortCanary: async (request, context) => {
          check(AbortCanaryRequestSchema, request);
          const { channel, holders, nextStep } = await changing(context, "abort_canary", request.channel, (author) =>
            fleet.abortCanary(request.channel, author),
          );
          return { channel: shown(channel), sidecarsWithCandidate: holders, nextStep };
        },
        addFleetLock: async (request, context) => {
          check(AddFleetLockRequestSchema, request);
          const caller = demandAll(context);
          const by = caller.name.replace(/^token /, "");
          const lock = settled(request.lock!, options.newId(), by, now(), request.ttlSeconds);
          await locking("lock", lock.id, lock.reason, caller, () => standing.change([lock], []));
          await options.onLocked(lock);
          return { lock };
        },
        removeFleetLock: async (request, context) => {
          check(RemoveFleetLockRequestSchema, request);
          const caller = demandAll(context);
          await locking("unlock", request.id, "", caller, async () => {
            if (!standing.locks().some(({ id }) => id === request.id)) {
              throw new OperatingError("ERR_NOT_FOUND", `no lock ${request.id} of the fleet`);
            }
            await standing.change([], [request.id]);
          });
          return {};
        },
        listFleetLocks: (_, context) => {
          demand(context, Role.VIEWER);
          return { locks: [...standing.locks()] };
        },
        listChannels: (_, context) => {
          demand(context, Role.VIEWER);
          return { channels: fleet.channels().map(shown) };
        },
        listSidecars: (request, context) => {
          demand(context, Role.VIEWER);
          check(ListSidecarsRequestSchema, request);
          const fitting = fleet
            .sidecars()
            .filter(
              (sidecar) =>
                (request.channel === "" || sidecar.channel === request.channel) &&
                (request.revision === 0n || sidecar.status?.inForce?.revision === request.revision) &&
                (!request.lagging || sidecar.lagging) &&
                (!request.failing || sidecar.failing),
            );
          const from = fitting.filter(({ status }) => status!.sidecarId > request.after);
          return {
            sidecars: from.slice(0, request.limit === 0 ? SIDECARS_LISTED_MAX : request.limit),
            total: fitting.length,
          };
        },
        watchFleet: async function* (_, context) {
          demand(context, Role.VIEWER);
          if (onlookers >= ONLOOKERS_MAX) throw new ConnectError("too many are watching", Code.ResourceExhausted);
          onlookers++;
          context.signal.addEventListener("abort", () => onlookers--, { once: true });
          while (!context.signal.aborted) {
            demand(context, Role.VIEWER);
            yield create(WatchFleetResponseSchema, {
              channels: fleet.summaries().map((summary) => ({ ...summary, channel: shown(summary.channel!) })),
              serverTime: timestampFromMs(now()),
              store: store.health().detail,
              connected: hub.watchers,
            });
            await changed(fleet, context.signal);
          }
        },
      },
      { readMaxBytes: options.bundleBytesMax + OPERATOR_REQUEST_BYTES_EXTRA },
    );
  };
}

/** Waits for news, not less than a second and not much longer than a few. */
function changed(fleet: Fleet, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const begunMs = performance.now();
    const done = (): void => {
      clearTimeout(timer);
      forget();
      signal.removeEventListener("abort", done);
      resolve();
    };
    let timer = setTimeout(done, PICTURE_MS_MAX);
    const forget = fleet.onChange(() => {
      clearTimeout(timer);
      timer = setTimeout(done, Math.max(0, PICTURE_MS_MIN - (performance.now() - begunMs)));
    });
    signal.addEventListener("abort", done, { once: true });
  });
}

/** What operators see of a channel; the trust is the control plane's own affair. */
function shown(channel: Channel): Channel {
  return create(ChannelSchema, { ...channel, trust: "" });
}

const CODES: Partial<Record<ErrorCode, Code>> = {
  ERR_NOT_FOUND: Code.NotFound,
  ERR_CONTROL: Code.FailedPrecondition,
  ERR_STATE_UNWRITABLE: Code.Unavailable,
};

export function connectError(error: unknown): ConnectError {
  if (!(error instanceof OperatingError)) return ConnectError.from(error);
  const code = CODES[error.code] ?? Code.InvalidArgument;
  return new ConnectError(error.message, code, { [CODE_HEADER]: error.code });
}
