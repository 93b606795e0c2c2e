/** Shared signals at the control plane: what transmitters say becomes orders to the fleet, what the fleet sees is told. */

import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { dirname, join, resolve } from "node:path";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { formatProblem } from "../bundle/problem.ts";
import type { ControlSettings } from "../control/config.ts";
import { FLEET_PREFIX, type Standing, type StatedFacts } from "../control/orders.ts";
import { type FleetLock, FleetLockSchema, type RiskEvent } from "../gen/sallyport/control/v1/control_pb.ts";
import { OperatingError } from "../model/errors.ts";
import type { Principal } from "../model/identity.ts";
import { readSharedSignals } from "../shared-signals/config.ts";
import type { SharedSignalAction } from "../shared-signals/mapping.ts";
import { createReceiver } from "../shared-signals/receiver.ts";
import type { Surroundings, Telling } from "../shared-signals/surroundings.ts";
import { createTransmitter, type EmittedEvent } from "../shared-signals/transmitter.ts";
import { errorFields, type Logger } from "../telemetry/log.ts";
import { Counter, type Registry } from "../telemetry/prometheus.ts";

const REASON_CHARS_MAX = 512;
/** Events that are remembered, so that a report which comes again is not told again. */
const TOLD_MAX = 10_000;

export interface RunningSignals {
  /** Answers requests of transmitters and receivers; false for all others. */
  handle(request: IncomingMessage, response: ServerResponse): boolean;
  /** Tells what sidecars saw; kept on disk once this has resolved. */
  risk(events: readonly RiskEvent[]): Promise<void>;
  /** Tells that an operator has locked a principal. Never rejects. */
  locked(lock: FleetLock): Promise<void>;
  close(): Promise<void>;
}

export interface SignalsOptions {
  readonly standing: Standing;
  readonly registry: Registry;
  readonly log: Logger;
}

/** @throws {OperatingError} ERR_CONFIG_INVALID with every problem at once, ERR_STATE_UNWRITABLE */
export async function startSharedSignals(
  { sharedSignals, stateDir }: ControlSettings,
  { standing, registry, log }: SignalsOptions,
): Promise<RunningSignals | undefined> {
  if (sharedSignals === undefined || stateDir === undefined) return undefined;
  const read = readSharedSignals(readText(sharedSignals), sharedSignals);
  if (!read.ok) throw new OperatingError("ERR_CONFIG_INVALID", read.problems.map(formatProblem).join("\n"));
  const { receive, transmit } = read.config;
  const folder = join(stateDir, "shared-signals");
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new OperatingError("ERR_STATE_UNWRITABLE", `state ${folder}: cannot be made`, { cause });
  }
  const surroundings: Surroundings = {
    now: Date.now,
    random: Math.random,
    randomBytes: (size) => randomBytes(size),
    fetch,
    folder,
    telling: tellingTo(registry, log),
  };
  const configFolder = dirname(resolve(sharedSignals));
  const transmitter =
    transmit === undefined ? undefined : createTransmitter({ config: transmit, configFolder, surroundings });
  const receiver = createReceiver({
    sources: receive,
    configFolder,
    apply: (actions) => carryOut(actions, standing),
    surroundings,
  });
  await transmitter?.start();
  try {
    await receiver.start();
  } catch (error) {
    await transmitter?.close();
    throw error;
  }
  const told = new Set<string>();
  return {
    handle: (request, response) =>
      receiver.handle(request, response) || (transmitter?.handle(request, response) ?? false),
    risk: async (events) => {
      for (const event of events) {
        if (transmitter === undefined || told.has(event.id)) continue;
        for (const emitted of eventsOf(event)) await transmitter.emit(emitted);
        told.add(event.id);
        if (told.size > TOLD_MAX) told.delete(told.values().next().value as string);
      }
    },
    locked: async (lock) => {
      const emitted = revokedBy(lock);
      if (transmitter === undefined || emitted === undefined) return;
      try {
        await transmitter.emit(emitted);
      } catch (error) {
        // The lock is in force; only others do not hear of it.
        log.error({ event: "shared_signals.untold", lock: lock.id, ...errorFields(error) }, "nobody was told");
      }
    },
    close: async () => {
      await receiver.close();
      await transmitter?.close();
    },
  };
}

/** One change of the fleet's orders for all that a token asks for: all of it is kept, or the token comes again. */
function carryOut(actions: readonly SharedSignalAction[], standing: Standing): Promise<void> {
  const locks = new Map<string, FleetLock>();
  const removed = new Set<string>();
  const facts: StatedFacts[] = [];
  for (const action of actions) {
    if (action.kind === "posture") {
      facts.push(action);
      continue;
    }
    const id = `${FLEET_PREFIX}${action.id}`;
    locks.delete(id);
    removed.delete(id);
    if (action.kind === "unlock") removed.add(id);
    else locks.set(id, lockOf(action, id));
  }
  return standing.change([...locks.values()], [...removed], facts);
}

function lockOf(action: SharedSignalAction & { readonly kind: "lock" }, id: string): FleetLock {
  const { scope, reason, setBy, setAtMs, expiresAtMs } = action;
  return create(FleetLockSchema, {
    id,
    principal: scope.principal ?? "",
    credential: scope.credential ?? "",
    certificate: scope.certificate ?? "",
    reason: reason.slice(0, REASON_CHARS_MAX),
    setBy,
    setAt: timestampFromMs(Math.floor(setAtMs)),
    expiresAt: timestampFromMs(Math.floor(expiresAtMs)),
  });
}

function eventsOf(event: RiskEvent): readonly EmittedEvent[] {
  const principal: Principal = { kind: event.principalKind === "jwt" ? "jwt" : "spiffe", name: event.principal };
  const happenedAtMs = event.at === undefined ? Date.now() : timestampMs(event.at);
  const common = { principal, reason: `decision ${event.id}`, happenedAtMs, txn: event.id };
  const terminated = event.kind === "terminated";
  const risen: EmittedEvent = {
    ...common,
    kind: "risk-level-change",
    level: terminated ? "HIGH" : "MEDIUM",
    previousLevel: undefined,
  };
  return terminated ? [risen, { ...common, kind: "session-revoked", initiatedBy: "policy" }] : [risen];
}

/** Only a lock of a whole principal revokes its sessions; what others have told us is not told on. */
function revokedBy(lock: FleetLock): EmittedEvent | undefined {
  const { principal, credential, certificate, key, fingerprint, address, destination, peerGroup } = lock;
  const isNarrower = [credential, certificate, key, fingerprint, address, destination, peerGroup].some(Boolean);
  const kind = principal.startsWith("spiffe://") ? "spiffe" : principal.includes("|") ? "jwt" : undefined;
  if (kind === undefined || isNarrower) return undefined;
  return {
    kind: "session-revoked",
    principal: { kind, name: principal },
    initiatedBy: "admin",
    reason: lock.reason,
    happenedAtMs: lock.setAt === undefined ? Date.now() : timestampMs(lock.setAt),
    txn: lock.id,
  };
}

function tellingTo(registry: Registry, log: Logger): Telling {
  const counter = (name: string, help: string, labelNames: string[]) =>
    new Counter({ name: `sallyport_control_shared_signals_${name}_total`, help, labelNames, registers: [registry] });
  const counters = {
    received: counter("received", "Security event tokens received, by outcome.", ["transmitter", "outcome", "err"]),
    ignored: counter("ignored", "Events and names in them that led to nothing.", ["transmitter", "why"]),
    sent: counter("sent", "Events for receivers, by outcome.", ["receiver", "outcome", "event"]),
  };
  return {
    log: (level, event, fields, message) => log[level]({ ...fields, event, ...eventField(fields) }, message),
    count: (name, labels) => counters[name].inc(labels),
  };
}

/** `event` names the log entry; the kind of security event gets another name. */
function eventField(fields: Readonly<Record<string, string | number>>): Readonly<Record<string, string | number>> {
  return fields.event === undefined ? {} : { security_event: fields.event };
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new OperatingError("ERR_CONFIG_INVALID", `shared-signals ${path}: expected a file that can be read`, {
      cause,
    });
  }
}
