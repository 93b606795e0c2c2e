/** Reads what versions before the packed one wrote: version 2, one JSON text with everything in it. */

import {
  type Baseline,
  CENTRE_AT,
  CENTRE_NAMES,
  HABIT_LIMITS,
  HABIT_NAMES,
  HOURS,
  HOURS_AT,
  NOVELTY_AT,
  NOVELTY_NAMES,
  newBaseline,
  Population,
} from "../baseline/baseline.ts";
import { HabitsReader } from "../baseline/habit.ts";
import type { Lock, PostureFacts } from "../model/policy.ts";
import { toEpochMs } from "../model/units.ts";
import { Calibrations, OWN_BINS } from "../score/calibration.ts";
import { POOLS, RUNS, SHARES, type SnapshotState, TAILS } from "./snapshot-state.ts";

/** @throws {Error} of any kind when the text does not have the expected form */
export function fromJson(text: string): SnapshotState {
  return stateOf(JSON.parse(text) as SnapshotJson);
}

/** In the order of {@link CENTRE_NAMES}. */
interface CentreJson {
  readonly mean: number;
  readonly count: number;
  readonly ceiling: number;
  readonly firstMs: number;
  readonly latestMs: number;
}

type HabitJson = [value: string, weight: number, windows: number, lastWindow: number][];

interface BaselineJson {
  readonly principal: string;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
  readonly requests: number;
  readonly habits: Record<string, HabitJson>;
  readonly novelty: Record<string, [number, number, number]>;
  readonly centres: readonly [CentreJson, CentreJson, CentreJson];
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

function baselineFromJson(json: BaselineJson): Baseline {
  const baseline = newBaseline(json.principal, toEpochMs(json.firstSeenMs));
  baseline.lastSeenMs = json.lastSeenMs;
  baseline.requests = json.requests;
  const habits = new HabitsReader(HABIT_LIMITS);
  for (const name of HABIT_NAMES) {
    for (const [value, weight, windows, lastWindow] of json.habits[name] ?? []) {
      habits.add(String(value), weight, windows, lastWindow);
    }
    habits.next();
  }
  baseline.habits.restore(habits.read());
  const { figures } = baseline;
  for (const name of NOVELTY_NAMES) fill(figures, NOVELTY_AT[name], json.novelty[name] ?? []);
  for (const [i, name] of CENTRE_NAMES.entries()) {
    const { mean, count, ceiling, firstMs, latestMs } = json.centres[i] as CentreJson;
    fill(figures, CENTRE_AT[name], [mean, count, ceiling, firstMs, latestMs]);
  }
  const [requests = 0, ...counts] = json.totals;
  baseline.totals = [requests, ...counts.slice(0, OWN_BINS).map(Math.fround)];
  fill(figures, HOURS_AT, json.hours.slice(0, HOURS).map(Math.fround));
  baseline.lastHour = json.lastHour;
  return baseline;
}

function fill(into: number[], at: number, values: readonly number[]): void {
  for (const [i, value] of values.entries()) into[at + i] = value;
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
    forgotten: [],
    calibrations,
    locks: json.locks,
    posture: json.posture,
  };
}
