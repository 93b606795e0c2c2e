/** Reads what versions before the packed one wrote: version 2, one JSON text with everything in it. */

import { type Baseline, HABIT_NAMES, NOVELTY_NAMES, newBaseline, Population } from "../baseline/baseline.ts";
import type { Habit } from "../baseline/habit.ts";
import type { NoveltyOwn } from "../baseline/novelty.ts";
import type { Centre } from "../baseline/tail.ts";
import type { Lock, PostureFacts } from "../model/policy.ts";
import { toEpochMs } from "../model/units.ts";
import { Calibrations, OWN_BINS } from "../score/calibration.ts";
import { POOLS, RUNS, SHARES, type SnapshotState, TAILS } from "./snapshot-state.ts";

/** @throws {Error} of any kind when the text does not have the expected form */
export function fromJson(text: string): SnapshotState {
  return stateOf(JSON.parse(text) as SnapshotJson);
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

function habitFromJson(habit: Habit, json: HabitJson): void {
  const flat = json.flatMap(([value, weight, windows, lastWindow]) => [String(value), weight, windows, lastWindow]);
  habit.restore(flat.slice());
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

function stateOf(json: SnapshotJson): SnapshotState {
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
