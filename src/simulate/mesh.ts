/** A made-up mesh at work for some days, honest oddities and thefts included, as labelled rows in order of time. */

import type { ReplayRow } from "../check/replay.ts";
import { DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS } from "../model/units.ts";
import { type Chance, chance } from "./random.ts";
import { FOREIGN, makeServices, newPod, type Pod, podAddress, type Route, type Service, versionText } from "./world.ts";

export interface SimulateOptions {
  /** The same seed gives the same rows. */
  readonly seed: number;
  /** Days of traffic; thefts happen on the last one, all before is history. 2 to 30. */
  readonly days: number;
  /** 4 to 20. */
  readonly services: number;
  /** Thefts of each kind; 0 to 20. */
  readonly thefts: number;
}

/** A row with the labels that an evaluation needs and the engine never sees. */
export interface SimulatedRow extends ReplayRow {
  readonly label: "benign" | "attack";
  readonly attack: string | null;
  readonly episode: string | null;
  readonly phase: "warmup" | "test";
}

/** Thefts, as `simulate` names them, and whether the thief can answer a challenge: only from inside the workload. */
export const THEFTS = {
  "replay-other-pod": { answers: false, requests: 20 },
  "replay-internet": { answers: false, requests: 20 },
  "concurrent-replay": { answers: false, requests: 20 },
  "in-pod-behaviour": { answers: true, requests: 20 },
  "endpoint-scan": { answers: true, requests: 30 },
  "lateral-movement": { answers: true, requests: 20 },
  "slow-exfiltration": { answers: true, requests: 40 },
} as const;

type Theft = keyof typeof THEFTS;

/** A Monday. */
const START_MS = Date.parse("2026-03-02T00:00:00Z");
const TICK_MS = 10 * SECOND_MS;
const PROBES = [
  "/admin",
  "/actuator/env",
  "/debug/pprof",
  "/.env",
  "/api/v2/keys",
  "/backup",
  "/metrics",
  "/v1/secrets",
];

export function simulate(options: SimulateOptions): readonly SimulatedRow[] {
  const dice = chance(options.seed);
  const services = makeServices(options.services, options.seed);
  const endMs = START_MS + options.days * DAY_MS;
  const testMs = endMs - DAY_MS;
  const rows: SimulatedRow[] = [];
  const deploys = planDeploys(services, options.days, dice);
  for (const service of services)
    service.pods = Array.from({ length: dice.between(1, 4) }, () => newPod(dice, START_MS));
  const thefts = planThefts(services, testMs, options.thefts, dice);

  for (let now = START_MS; now < endMs; now += TICK_MS) {
    for (const deploy of deploys) if (deploy.atMs >= now && deploy.atMs < now + TICK_MS) carryOut(deploy, now, dice);
    for (const service of services) {
      rotate(service, now, dice);
      work(service, now, dice, rows, testMs);
    }
    for (const theft of thefts) if (theft.atMs >= now && theft.atMs < now + TICK_MS) steal(theft, services, dice, rows);
  }
  return rows.sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
}

interface Deploy {
  readonly service: Service;
  readonly atMs: number;
  readonly bringsRoute: boolean;
}

/** About one deploy of each service every two days, and an autoscaling or failover now and then: new pods all the same. */
function planDeploys(services: readonly Service[], days: number, dice: Chance): readonly Deploy[] {
  return services.flatMap((service) =>
    Array.from({ length: Math.ceil(days / 2) }, () => ({
      service,
      atMs: START_MS + dice.next() * days * DAY_MS,
      bringsRoute: dice.next() < 0.2,
    })),
  );
}

function carryOut({ service, bringsRoute }: Deploy, now: number, dice: Chance): void {
  service.version = [service.version[0], service.version[1], service.version[2] + 1];
  service.pods = service.pods.map(() => newPod(dice, now));
  if (!bringsRoute || service.callees.length === 0) return;
  const at = dice.between(0, service.callees.length - 1);
  const callee = service.callees[at];
  if (callee === undefined) return;
  const fresh = callee.service.routes.find((route) => !callee.routes.includes(route));
  if (fresh !== undefined) service.callees[at] = { service: callee.service, routes: [...callee.routes, fresh] };
}

/** Tokens live an hour; jobs run in a fresh pod every hour. */
function rotate(service: Service, now: number, dice: Chance): void {
  if (service.isJob && now % HOUR_MS < TICK_MS) service.pods = [newPod(dice, now)];
  for (const pod of service.pods) {
    if (now < pod.credentialUntilMs) continue;
    pod.credential = `jti-${dice.hex(12)}`;
    pod.credentialUntilMs = now + HOUR_MS;
  }
}

function work(service: Service, now: number, dice: Chance, rows: SimulatedRow[], testMs: number): void {
  if (service.isJob && now % HOUR_MS > 10 * MINUTE_MS) return;
  const hour = (now % DAY_MS) / HOUR_MS;
  const rhythm = service.isJob ? 1 : 0.3 + 0.7 * Math.max(0, Math.cos(((hour - service.peakHour) / 24) * 2 * Math.PI));
  const weekend = new Date(now).getUTCDay() % 6 === 0 ? 0.5 : 1;
  for (const { service: callee, routes } of service.callees) {
    let at = dice.wait(service.peakPerSecond * rhythm * weekend) * SECOND_MS;
    while (at < TICK_MS) {
      const route = dice.pick(routes);
      rows.push(honestRow(now + at, service, dice.pick(service.pods), callee, route, dice, testMs));
      at += dice.wait(service.peakPerSecond * rhythm * weekend) * SECOND_MS;
    }
  }
}

function honestRow(
  atMs: number,
  service: Service,
  pod: Pod,
  callee: Service,
  route: Route,
  dice: Chance,
  testMs: number,
): SimulatedRow {
  const missing = dice.next() < 0.01;
  return {
    ...callerOf(service, pod),
    time: new Date(atMs).toISOString(),
    method: route.method,
    host: callee.host,
    path: route.path.replace("{id}", String(dice.between(1, 99_999))),
    status: missing ? 404 : 200,
    response_bytes: missing ? 90 : dice.size(route.bytes, 0.4),
    answers_challenge: true,
    label: "benign",
    attack: null,
    episode: null,
    phase: atMs < testMs ? "warmup" : "test",
  };
}

function callerOf(service: Service, pod: Pod) {
  return {
    principal: service.principal,
    credential: pod.credential,
    source_address: pod.address,
    user_agent: service.stack.agent(service.name, versionText(service)),
    tls_fingerprint: service.stack.ja4,
  };
}

interface PlannedTheft {
  readonly kind: Theft;
  readonly episode: string;
  readonly victim: Service;
  readonly atMs: number;
}

function planThefts(services: readonly Service[], testMs: number, each: number, dice: Chance): readonly PlannedTheft[] {
  const victims = services.filter(({ isJob, callees }) => !isJob && callees.length > 0);
  return (Object.keys(THEFTS) as Theft[]).flatMap((kind) =>
    Array.from({ length: each }, (_, i) => ({
      kind,
      episode: `${kind}-${i + 1}`,
      victim: dice.pick(victims),
      atMs: testMs + HOUR_MS + dice.next() * 20 * HOUR_MS,
    })),
  );
}

function steal(
  { kind, episode, victim, atMs }: PlannedTheft,
  services: readonly Service[],
  dice: Chance,
  rows: SimulatedRow[],
): void {
  const { answers, requests } = THEFTS[kind];
  const pod = dice.pick(victim.pods);
  const foreign = dice.pick(FOREIGN);
  const target = dice.pick(victim.callees);
  const elsewhere = kind === "replay-internet" ? publicAddress(dice) : podAddress(dice);
  const from = { "replay-other-pod": elsewhere, "replay-internet": elsewhere, "concurrent-replay": elsewhere };
  const isForeign = kind === "replay-other-pod" || kind === "replay-internet";
  const strangers = services.filter(
    (other) => other !== victim && !victim.callees.some((known) => known.service === other),
  );
  let at = atMs;
  for (let i = 0; i < requests; i++) {
    const step = stepOf(kind, i, target, strangers, dice);
    rows.push({
      ...callerOf(victim, pod),
      source_address: (from as Partial<Record<Theft, string>>)[kind] ?? pod.address,
      ...(isForeign ? { user_agent: foreign.agent, tls_fingerprint: foreign.ja4 } : {}),
      time: new Date(at).toISOString(),
      method: step.method,
      host: step.host,
      path: step.path,
      status: step.status,
      response_bytes: step.bytes,
      answers_challenge: answers,
      label: "attack",
      attack: kind,
      episode,
      phase: "test",
    });
    at += kind === "slow-exfiltration" ? MINUTE_MS : 2 * SECOND_MS + dice.next() * 20 * SECOND_MS;
  }
}

interface TheftStep {
  readonly method: string;
  readonly host: string;
  readonly path: string;
  readonly status: number;
  readonly bytes: number;
}

function stepOf(
  kind: Theft,
  index: number,
  target: { readonly service: Service; readonly routes: readonly Route[] },
  strangers: readonly Service[],
  dice: Chance,
): TheftStep {
  const call = (service: Service, route: Route, status = 200, bytes = dice.size(route.bytes, 0.4)): TheftStep => ({
    method: route.method,
    host: service.host,
    path: route.path.replace("{id}", String(dice.between(1, 99_999))),
    status,
    bytes,
  });
  const { service, routes } = target;
  switch (kind) {
    case "endpoint-scan": {
      const path = `${dice.pick(PROBES)}/${dice.hex(4)}`;
      return { method: "GET", host: service.host, path, status: dice.next() < 0.8 ? 404 : 403, bytes: 90 };
    }
    case "lateral-movement": {
      const other = strangers[Math.floor(index / 5) % Math.max(1, strangers.length)] ?? service;
      return call(other, dice.pick(other.routes), dice.next() < 0.4 ? 403 : 200);
    }
    case "in-pod-behaviour": {
      const unused = service.routes.filter((route) => !routes.includes(route));
      return call(service, dice.pick(unused.length > 0 ? unused : service.routes));
    }
    case "slow-exfiltration":
      return call(service, dice.pick(routes), 200, dice.size(3_000_000, 0.5));
    default:
      return call(service, dice.pick(dice.next() < 0.5 ? routes : service.routes));
  }
}

/** An address of a hosting provider far away; RFC 5737's documentation range has no network to be known by. */
function publicAddress(dice: Chance): string {
  return `${dice.pick(["45.83.64", "185.220.101", "193.32.162"])}.${dice.between(1, 254)}`;
}
