/** Packs what a snapshot holds, a little at a time, and unpacks it straight into the tables it goes to. */

import {
  type Baseline,
  HABIT_LIMITS,
  HOURS,
  HOURS_AT,
  LEARNED_FIGURES,
  NOVELTY_NAMES,
  newBaseline,
  Population,
} from "../baseline/baseline.ts";
import { HabitsReader } from "../baseline/habit.ts";
import { zeros } from "../model/numbers.ts";
import type { Lock, LockScope, PostureFacts } from "../model/policy.ts";
import { toEpochMs } from "../model/units.ts";
import { type Calibration, Calibrations, OWN_BINS } from "../score/calibration.ts";
import type { Packer, Unpacker } from "./packing.ts";
import { POOLS, RUNS, SHARES, type SnapshotSource, type SnapshotState, TAILS } from "./snapshot-state.ts";

/** Parts that there are any number of begin with what they are. */
const END = 0;
const TEMPLATE = 1;
const ROUTE = 2;
const BASELINE = 3;
const LOCK = 4;
const POSTURE = 5;
const FORGOTTEN = 6;
const KIND_MAX = FORGOTTEN;

/** How many of them are packed in one step: principals are large, up to some hundred numbers and texts each. */
const BASELINES_PER_STEP = 4;
const SMALL_PER_STEP = 32;
const FORGOTTEN_PER_STEP = 256;

/** In the order of their bits. */
const SCOPE_PARTS = [
  "principal",
  "credential",
  "certificate",
  "key",
  "fingerprint",
  "address",
  "destination",
  "peerGroup",
] as const satisfies readonly (keyof LockScope)[];
const SCOPE_BITS_MAX = 2 ** SCOPE_PARTS.length - 1;

/** Facts of one subject, more than anybody can tell at once. */
const FACTS_MAX = 65_536;

/** Stops after every small step. */
export function* packState(source: SnapshotSource, packer: Packer): Generator<void, void> {
  const { population, calibrations } = source;
  packPopulation(packer, population);
  for (const name of POOLS) packCalibration(packer, calibrations[name]);
  yield;
  yield* packEach(packer, TEMPLATE, SMALL_PER_STEP, population.templates.eachPath(), (path) => packer.text(path));
  yield* packEach(packer, ROUTE, SMALL_PER_STEP, population.routes.values(), (route) => packer.text(route));
  let packed = 0;
  for (const baseline of source.baselines) {
    if (!baseline.kept) continue;
    packer.number(BASELINE);
    packBaseline(packer, baseline);
    if (++packed % BASELINES_PER_STEP === 0) yield;
  }
  yield* packEach(packer, LOCK, SMALL_PER_STEP, source.locks, (lock) => packLock(packer, lock));
  let told = 0;
  for (const subject of source.subjects) {
    const facts = source.postureOf(subject);
    if (facts === undefined) continue;
    packer.number(POSTURE);
    packPosture(packer, subject, facts);
    if (++told % SMALL_PER_STEP === 0) yield;
  }
  yield* packEach(packer, FORGOTTEN, FORGOTTEN_PER_STEP, source.forgotten, ([bucket, mark]) => {
    packer.number(bucket);
    packer.number(mark);
  });
  packer.number(END);
}

/** @throws {Error} of any kind when the bytes do not have the expected form */
export function unpackState(unpacker: Unpacker): SnapshotState {
  const population = unpackPopulation(unpacker);
  const calibrations = new Calibrations();
  for (const name of POOLS) unpackCalibration(unpacker, calibrations[name]);
  const habits = new HabitsReader(HABIT_LIMITS);
  const totals = zeros(1 + OWN_BINS);
  const templates: string[] = [];
  const routes: string[] = [];
  const baselines: Baseline[] = [];
  const locks: Lock[] = [];
  const posture: [string, PostureFacts][] = [];
  const forgotten: number[] = [];
  for (;;) {
    const kind = unpacker.whole(KIND_MAX);
    if (kind === END) break;
    else if (kind === BASELINE) baselines.push(unpackBaseline(unpacker, habits, totals));
    else if (kind === TEMPLATE) templates.push(unpacker.text());
    else if (kind === ROUTE) routes.push(unpacker.text());
    else if (kind === LOCK) locks.push(unpackLock(unpacker));
    else if (kind === POSTURE) posture.push(unpackPosture(unpacker));
    else forgotten.push(unpacker.number(), unpacker.number());
  }
  if (!unpacker.done) throw new RangeError("expected nothing after the end");
  population.templates.restore(templates);
  population.routes.restore(routes);
  // They were packed in no order: who was seen longest ago is to be forgotten first, as before.
  baselines.sort((a, b) => a.lastSeenMs - b.lastSeenMs);
  return { population, calibrations, baselines, forgotten, locks, posture };
}

function* packEach<Entry>(
  packer: Packer,
  kind: number,
  perStep: number,
  entries: Iterable<Entry>,
  pack: (entry: Entry) => void,
): Generator<void, void> {
  let packed = 0;
  for (const entry of entries) {
    packer.number(kind);
    pack(entry);
    if (++packed % perStep === 0) yield;
  }
}

/** Brings what is derived from the live counts up to date as well, so that they and their copy judge alike from here on. */
function packPopulation(packer: Packer, population: Population): void {
  for (const curve of [...NOVELTY_NAMES.map((name) => population.curves[name]), population.newCaller]) {
    curve.refresh();
    packer.numbers(curve.requests);
    packer.numbers(curve.novelties);
  }
  for (const name of SHARES) {
    packer.number(population[name].hits);
    packer.number(population[name].trials);
  }
  for (const name of RUNS) {
    packer.numbers(population[name].hits);
    packer.numbers(population[name].trials);
  }
  for (const name of TAILS) {
    packer.numbers(population[name].counts);
    packer.number(population[name].total);
  }
  packer.number(population.requests);
  packer.number(population.firstMs);
}

function unpackPopulation(unpacker: Unpacker): Population {
  const population = new Population();
  const like = (counts: ArrayLike<number>): number[] => unpacker.numbers(new Array<number>(counts.length).fill(0));
  for (const curve of [...NOVELTY_NAMES.map((name) => population.curves[name]), population.newCaller]) {
    curve.restore(like(curve.requests), like(curve.novelties));
  }
  for (const name of SHARES) {
    population[name].hits = unpacker.number();
    population[name].trials = unpacker.number();
  }
  for (const name of RUNS) population[name].restore(like(population[name].hits), like(population[name].trials));
  for (const name of TAILS) population[name].restore(like(population[name].counts), unpacker.number());
  population.requests = unpacker.number();
  population.firstMs = unpacker.number();
  return population;
}

/** Brings the live one up to date as well; see {@link packPopulation}. */
function packCalibration(packer: Packer, calibration: Calibration): void {
  calibration.rebuild();
  packer.numbers(calibration.counts);
  packer.number(calibration.requests);
}

function unpackCalibration(unpacker: Unpacker, calibration: Calibration): void {
  const counts = unpacker.numbers(new Array<number>(calibration.counts.length).fill(0));
  calibration.restore(counts, unpacker.number());
}

function packBaseline(packer: Packer, baseline: Baseline): void {
  packer.ownText(baseline.principal);
  packer.number(baseline.firstSeenMs);
  packer.number(baseline.lastSeenMs);
  packer.number(baseline.requests);
  const tell = (value: string, weight: number, windows: number, lastWindow: number): void => {
    packer.text(value);
    packer.number(weight);
    packer.number(windows);
    packer.number(lastWindow);
  };
  for (let habit = 0; habit < HABIT_LIMITS.valuesMax.length; habit++) {
    packer.number(baseline.habits.size(habit));
    baseline.habits.each(habit, tell);
  }
  packer.numbers(baseline.figures, LEARNED_FIGURES);
  packer.number(baseline.totals[0] as number);
  packer.sparse(baseline.totals, 1, baseline.totals.length);
  packer.sparse(baseline.figures, HOURS_AT, HOURS_AT + HOURS);
  packer.number(baseline.lastHour);
}

function unpackBaseline(unpacker: Unpacker, habits: HabitsReader, totals: number[]): Baseline {
  const principal = unpacker.ownText();
  const baseline = newBaseline(principal, toEpochMs(unpacker.number()));
  baseline.lastSeenMs = unpacker.number();
  baseline.requests = unpacker.number();
  habits.begin();
  for (const valuesMax of HABIT_LIMITS.valuesMax) {
    for (let left = unpacker.whole(valuesMax); left > 0; left--) {
      habits.add(unpacker.text(), unpacker.number(), unpacker.number(), unpacker.number());
    }
    habits.next();
  }
  baseline.habits.restore(habits.read());
  unpacker.numbers(baseline.figures, LEARNED_FIGURES);
  totals.fill(0);
  totals[0] = unpacker.number();
  const last = unpacker.sparse(totals, 1, totals.length);
  baseline.totals = totals.slice(0, Math.max(1, last) + 1);
  unpacker.sparse(baseline.figures, HOURS_AT, HOURS_AT + HOURS);
  baseline.lastHour = unpacker.number();
  return baseline;
}

function packLock(packer: Packer, { id, scope, reason, setBy, setAtMs, expiresAtMs }: Lock): void {
  packer.ownText(id);
  packer.number(SCOPE_PARTS.reduce((bits, part, i) => (scope[part] === undefined ? bits : bits | (1 << i)), 0));
  for (const part of SCOPE_PARTS) if (scope[part] !== undefined) packer.text(scope[part]);
  packer.text(reason);
  packer.text(setBy);
  packer.number(setAtMs);
  packer.number(expiresAtMs === undefined ? 0 : 1);
  if (expiresAtMs !== undefined) packer.number(expiresAtMs);
}

function unpackLock(unpacker: Unpacker): Lock {
  const id = unpacker.ownText();
  const bits = unpacker.whole(SCOPE_BITS_MAX);
  const scope = Object.fromEntries(
    SCOPE_PARTS.filter((_, i) => (bits & (1 << i)) !== 0).map((part) => [part, unpacker.text()]),
  ) as LockScope;
  return {
    id,
    scope,
    reason: unpacker.text(),
    setBy: unpacker.text(),
    setAtMs: unpacker.number(),
    expiresAtMs: unpacker.whole(1) === 1 ? unpacker.number() : undefined,
  };
}

function packPosture(packer: Packer, subject: string, { facts, source, reportedAtMs }: PostureFacts): void {
  const entries = Object.entries(facts).slice(0, FACTS_MAX);
  packer.ownText(subject);
  packer.text(source);
  packer.number(reportedAtMs);
  packer.number(entries.length);
  for (const [fact, value] of entries) {
    packer.text(fact);
    packer.text(value);
  }
}

function unpackPosture(unpacker: Unpacker): [string, PostureFacts] {
  const subject = unpacker.ownText();
  const source = unpacker.text();
  const reportedAtMs = unpacker.number();
  const facts: [string, string][] = [];
  for (let left = unpacker.whole(FACTS_MAX); left > 0; left--) facts.push([unpacker.text(), unpacker.text()]);
  return [subject, { facts: Object.fromEntries(facts), source, reportedAtMs }];
}
