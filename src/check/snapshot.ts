/**
 * Everything learned, as bytes: one header line with format, version, time and checksum, then JSON. Torn or foreign
 * bytes are told apart from good ones before anything is taken over.
 */

import { createHash } from "node:crypto";
import { type Baseline, HABIT_NAMES, NOVELTY_NAMES, newBaseline, Population } from "../baseline/baseline.ts";
import type { Habit } from "../baseline/habit.ts";
import type { NoveltyCurve, NoveltyOwn, Share } from "../baseline/novelty.ts";
import type { Centre, Tail } from "../baseline/tail.ts";
import { OperatingError } from "../model/errors.ts";
import type { Lock, PostureFacts } from "../model/policy.ts";
import { type EpochMs, toEpochMs } from "../model/units.ts";
import { type Calibration, Calibrations, OWN_BINS } from "../score/calibration.ts";

const MAGIC = "sallyport-state";
/** Raised whenever the meaning of the JSON changes; other versions are refused, never guessed at. */
const VERSION = 2;

export interface SnapshotSource {
  readonly population: Population;
  readonly baselines: Iterable<Baseline>;
  readonly calibrations: Calibrations;
  readonly locks: readonly Lock[];
  readonly posture: readonly (readonly [string, PostureFacts])[];
}

export interface SnapshotState {
  readonly population: Population;
  readonly baselines: readonly Baseline[];
  readonly calibrations: Calibrations;
  readonly locks: readonly Lock[];
  readonly posture: readonly (readonly [string, PostureFacts])[];
}

export function writeSnapshot(source: SnapshotSource, now: EpochMs): Uint8Array {
  const body = Buffer.from(
    JSON.stringify({
      population: populationToJson(source.population),
      calibrations: POOLS.map((name) => calibrationToJson(source.calibrations[name])),
      baselines: [...source.baselines].map(baselineToJson),
      locks: source.locks,
      posture: source.posture,
    }),
  );
  const checksum = createHash("sha256").update(body).digest("hex");
  return Buffer.concat([Buffer.from(`${MAGIC} ${VERSION} ${Math.floor(now)} ${checksum}\n`), body]);
}

/** @throws {OperatingError} ERR_STATE_INVALID when the bytes are torn, foreign or of another version */
export function readSnapshot(bytes: Uint8Array): SnapshotState {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const newline = buffer.subarray(0, 200).indexOf(10);
  const header = newline < 0 ? [] : buffer.toString("latin1", 0, newline).split(" ");
  if (header[0] !== MAGIC) throw invalid(`expected a file that begins with "${MAGIC}"`);
  if (header[1] !== String(VERSION)) throw invalid(`expected version ${VERSION}, got ${header[1]?.slice(0, 12)}`);
  const body = buffer.subarray(newline + 1);
  const checksum = createHash("sha256").update(body).digest("hex");
  if (checksum !== header[3]) throw invalid("the checksum does not match: the file is torn or was changed");
  try {
    return fromJson(JSON.parse(body.toString("utf8")) as SnapshotJson);
  } catch (cause) {
    // The checksum held, so this is a defect of the writer; memory stays as it was.
    throw new OperatingError("ERR_STATE_INVALID", "state: the content does not have the expected form", { cause });
  }
}

function invalid(message: string): OperatingError {
  return new OperatingError("ERR_STATE_INVALID", `state: ${message}`);
}

type HabitJson = [value: string, weight: number, windows: number, lastWindow: number][];

interface BaselineJson {
  readonly principal: string;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
  readonly requests: number;
  readonly habits: Record<string, HabitJson>;
  readonly novelty: Record<string, [number, number, number]>;
  readonly centres: readonly [Centre, Centre, Centre];
  readonly totals: readonly number[];
  readonly hours: readonly number[];
  readonly lastHour: number;
}

interface PopulationJson {
  readonly curves: Record<string, { readonly requests: number[]; readonly novelties: number[] }>;
  readonly shares: Record<string, [hits: number, trials: number]>;
  readonly runs: Record<string, { readonly hits: number[]; readonly trials: number[] }>;
  readonly tails: Record<string, { readonly counts: number[]; readonly total: number }>;
  readonly templates: readonly string[];
  readonly routes: readonly string[];
  readonly requests: number;
  readonly firstMs: number;
  readonly newCaller: { readonly requests: number[]; readonly novelties: number[] };
}

interface CalibrationJson {
  readonly counts: number[];
  readonly requests: number;
}

interface SnapshotJson {
  readonly population: PopulationJson;
  readonly calibrations: readonly CalibrationJson[];
  readonly baselines: readonly BaselineJson[];
  readonly locks: readonly Lock[];
  readonly posture: readonly (readonly [string, PostureFacts])[];
}

const SHARES = [
  "networkGivenAddress",
  "blockGivenNetwork",
  "countryGivenBlock",
  "cipherGivenFingerprint",
  "productGivenAgent",
  "fingerprintAtNewAddress",
  "agentAtNewAddress",
  "routeAtNewAddress",
  "oldCredentialAtNewAddress",
  "largeAfterLarge",
  "sharedCredential",
] as const satisfies readonly (keyof Population)[];

const POOLS = ["newcomers", "established"] as const satisfies readonly (keyof Calibrations)[];

const RUNS = ["unknownRuns", "foreignRuns", "errorRuns"] as const satisfies readonly (keyof Population)[];

const TAILS = ["rate", "bytes", "spread"] as const satisfies readonly (keyof Population)[];

/** Brings the live one up to date as well, so that it and its copy judge alike from here on. */
function calibrationToJson(calibration: Calibration): CalibrationJson {
  calibration.rebuild();
  return { counts: [...calibration.counts], requests: calibration.requests };
}

function habitToJson(habit: Habit): HabitJson {
  return habit.entries.map((entry) => [entry.value, entry.weight, entry.windows, entry.lastWindow]);
}

function habitFromJson(habit: Habit, json: HabitJson): void {
  habit.restore(
    json.map(([value, weight, windows, lastWindow]) => ({ value: String(value), weight, windows, lastWindow })),
  );
}

function baselineToJson(baseline: Baseline): BaselineJson {
  return {
    principal: baseline.principal,
    firstSeenMs: baseline.firstSeenMs,
    lastSeenMs: baseline.lastSeenMs,
    requests: baseline.requests,
    habits: Object.fromEntries(HABIT_NAMES.map((name) => [name, habitToJson(baseline.habits[name])])),
    novelty: Object.fromEntries(
      NOVELTY_NAMES.map((name) => {
        const own = baseline.novelty[name];
        return [name, [own.requests, own.novelties, own.expected]];
      }),
    ),
    centres: [baseline.rate, baseline.bytes, baseline.spread],
    totals: [baseline.totals.requests, ...baseline.totals.counts],
    hours: [...baseline.hours],
    lastHour: baseline.lastHour,
  };
}

function baselineFromJson(json: BaselineJson): Baseline {
  const baseline = newBaseline(json.principal, toEpochMs(json.firstSeenMs));
  baseline.lastSeenMs = json.lastSeenMs;
  baseline.requests = json.requests;
  for (const name of HABIT_NAMES) habitFromJson(baseline.habits[name], json.habits[name] ?? []);
  for (const name of NOVELTY_NAMES) {
    const [requests, novelties, expected] = json.novelty[name] ?? [0, 0, 0];
    Object.assign(baseline.novelty[name], { requests, novelties, expected } satisfies NoveltyOwn);
  }
  Object.assign(baseline.rate, json.centres[0]);
  Object.assign(baseline.bytes, json.centres[1]);
  Object.assign(baseline.spread, json.centres[2]);
  const [totalRequests = 0, ...totals] = json.totals;
  baseline.totals.requests = totalRequests;
  fill(baseline.totals.counts, totals.slice(0, OWN_BINS));
  fill(baseline.hours, json.hours.slice(0, 24));
  baseline.lastHour = json.lastHour;
  return baseline;
}

function fill(into: number[], values: readonly number[]): void {
  for (let i = 0; i < values.length; i++) into[i] = Math.fround(values[i] as number);
}

function populationToJson(population: Population): PopulationJson {
  population.newCaller.refresh();
  return {
    curves: Object.fromEntries(
      NOVELTY_NAMES.map((name) => {
        const curve: NoveltyCurve = population.curves[name];
        curve.refresh();
        return [name, { requests: [...curve.requests], novelties: [...curve.novelties] }];
      }),
    ),
    shares: Object.fromEntries(
      SHARES.map((name) => {
        const share: Share = population[name];
        return [name, [share.hits, share.trials]];
      }),
    ),
    runs: Object.fromEntries(
      RUNS.map((name) => [name, { hits: [...population[name].hits], trials: [...population[name].trials] }]),
    ),
    tails: Object.fromEntries(
      TAILS.map((name) => {
        const tail: Tail = population[name];
        return [name, { counts: [...tail.counts], total: tail.total }];
      }),
    ),
    templates: population.templates.paths(),
    routes: population.routes.values(),
    newCaller: { requests: [...population.newCaller.requests], novelties: [...population.newCaller.novelties] },
    requests: population.requests,
    firstMs: population.firstMs,
  };
}

function fromJson(json: SnapshotJson): SnapshotState {
  const population = new Population();
  for (const name of NOVELTY_NAMES) {
    const curve = json.population.curves[name];
    if (curve === undefined) continue;
    population.curves[name].restore(curve.requests, curve.novelties);
  }
  for (const name of SHARES) {
    const [hits, trials] = json.population.shares[name] ?? [0, 0];
    population[name].hits = hits;
    population[name].trials = trials;
  }
  for (const name of RUNS) {
    const runs = json.population.runs[name];
    if (runs !== undefined) population[name].restore(runs.hits, runs.trials);
  }
  for (const name of TAILS) {
    const tail = json.population.tails[name];
    if (tail === undefined) continue;
    population[name].restore(tail.counts, tail.total);
  }
  population.templates.restore(json.population.templates);
  population.routes.restore(json.population.routes);
  population.newCaller.restore(json.population.newCaller.requests, json.population.newCaller.novelties);
  population.requests = json.population.requests;
  population.firstMs = json.population.firstMs;
  const calibrations = new Calibrations();
  POOLS.forEach((name, index) => {
    const pool = json.calibrations[index];
    if (pool !== undefined) calibrations[name].restore(pool.counts, pool.requests);
  });
  return {
    population,
    baselines: json.baselines.map(baselineFromJson),
    calibrations,
    locks: json.locks,
    posture: json.posture,
  };
}
